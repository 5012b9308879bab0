package caps

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestNames(t *testing.T) {
	for name, want := range map[string]int{
		"CAP_CHOWN": unix.CAP_CHOWN, "net_raw": unix.CAP_NET_RAW, "cap_sys_admin": unix.CAP_SYS_ADMIN, "SYS_PTRACE": unix.CAP_SYS_PTRACE,
		"CAP_SETFCAP": unix.CAP_SETFCAP, "CAP_CHECKPOINT_RESTORE": unix.CAP_CHECKPOINT_RESTORE, "CAP_LAST": -1,
	} {
		got, err := Number(name)
		if want < 0 {
			require.EqualError(t, err, `unknown capability "CAP_LAST"`)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, want, got, name)
	}
	require.Equal(t, "CAP_BPF", Name(unix.CAP_BPF))
	require.Empty(t, Name(Last+1))
	require.Empty(t, Name(-1))
}

func TestSets(t *testing.T) {
	s, err := Parse(Default())
	require.NoError(t, err)
	require.Equal(t, Set(0xa80425fb), s) // as in any Docker container
	require.Equal(t, 14, s.Len())
	back, err := Parse(s.Names())
	require.NoError(t, err)
	require.Equal(t, s, back)
	all, err := Parse([]string{"ALL"})
	require.NoError(t, err)
	require.Equal(t, All(), all)
	require.Equal(t, Last+1, all.Len())
	_, err = Parse([]string{"CAP_CHOWN", "CAP_FLY"})
	require.EqualError(t, err, `unknown capability "CAP_FLY"`)
}

func TestPermitted(t *testing.T) {
	b, err := os.ReadFile("/proc/self/status")
	require.NoError(t, err)
	_, rest, _ := strings.Cut(string(b), "CapPrm:")
	var want uint64
	_, err = fmt.Sscanf(rest, "%x", &want)
	require.NoError(t, err)
	got, err := Permitted()
	require.NoError(t, err)
	require.Equal(t, Set(want), got)
}
