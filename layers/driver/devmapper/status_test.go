package devmapper

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseStatus(t *testing.T) {
	st, err := parseStatus("7 40/1024 100/2000 - rw no_discard_passdown error_if_no_space - 1024 ")
	require.NoError(t, err)
	require.Equal(t, status{transaction: 7, metaUsed: 40, metaTotal: 1024, dataUsed: 100, dataTotal: 2000, mode: "rw"}, st)
	require.Empty(t, st.low())
	require.Empty(t, st.broken())
	for _, c := range []struct{ line, low, broken string }{
		{"7 40/1024 1961/2000 - rw discard_passdown error_if_no_space - 1024", "122 of 125 MiB", ""},
		{"7 40/1024 2000/2000 - out_of_data_space discard_passdown error_if_no_space - 1024", "125 of 125 MiB", ""},
		{"7 897/1024 0/2000 - rw discard_passdown error_if_no_space - 1024", "of its metadata", ""},
		{"7 40/1024 0/2000 12 ro discard_passdown error_if_no_space - 1024", "", "read-only"},
		{"7 40/1024 0/2000 - ro discard_passdown error_if_no_space needs_check 1024", "", "thin_check"},
	} {
		st, err := parseStatus(c.line)
		require.NoError(t, err, c.line)
		require.Equal(t, c.low != "", st.low() != "", c.line)
		require.Contains(t, st.low(), c.low)
		require.Equal(t, c.broken != "", st.broken() != "", c.line)
		require.Contains(t, st.broken(), c.broken)
	}
	for _, bad := range []string{"", "Fail", "Error", "x 1/2 3/4 - rw", "1 2/1 3/4 - rw", "1 1/2 3/4 - wr -"} {
		_, err := parseStatus(bad)
		require.ErrorContains(t, err, "the thin pool says", bad)
	}
}

func FuzzParseStatus(f *testing.F) {
	f.Add("7 40/1024 100/2000 - rw no_discard_passdown error_if_no_space - 1024 ")
	f.Add("Fail")
	f.Fuzz(func(t *testing.T, line string) {
		st, err := parseStatus(line)
		if err == nil && (st.mode == "" || st.dataUsed > st.dataTotal || st.metaUsed > st.metaTotal) {
			t.Fatalf("%q is %+v", line, st)
		}
	})
}

// A record that something else wrote is refused rather than taken for a pool.
func TestRecord(t *testing.T) {
	root := t.TempDir()
	_, there, err := loadPool(root)
	require.NoError(t, err)
	require.False(t, there)
	p := pool{ID: "0123456789abcdef", Data: 64 << 20, Meta: minMeta, FS: "ext4", Base: 3}
	require.NoError(t, p.save(root))
	got, there, err := loadPool(root)
	require.NoError(t, err)
	require.True(t, there)
	require.Equal(t, p, got)
	for _, bad := range []string{"", "{}", `{"ID":"../../x","Data":99999999,"Meta":99999999,"FS":"ext4"}`, "null"} {
		require.NoError(t, os.WriteFile(filepath.Join(root, "pool.json"), []byte(bad), 0o600))
		_, _, err = loadPool(root)
		require.ErrorContains(t, err, "pool.json", bad)
	}
}

func TestShare(t *testing.T) {
	for _, all := range []int64{minData, 100 << 20, 10 << 30, 1 << 40, 1 << 50} {
		meta, data := share(all)
		require.LessOrEqual(t, meta+data, all)
		require.Zero(t, meta%(1<<20)+data%(1<<20))
		require.GreaterOrEqual(t, meta, int64(minMeta))
		require.LessOrEqual(t, meta, int64(maxMeta))
	}
}
