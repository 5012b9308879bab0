package caps

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzParse: a list is a set of numbers that have names, whatever its spelling, or an error that quotes what is wrong.
func FuzzParse(f *testing.F) {
	f.Add("CAP_CHOWN,net_raw")
	f.Add("all")
	f.Add("CAP_,ALL")
	f.Add("CAP_CAP_CHOWN")
	f.Add("CAP_LAST\x00")
	f.Fuzz(func(t *testing.T, text string) {
		list := strings.Split(text, ",")
		s, err := Parse(list)
		if err != nil {
			require.Zero(t, s)
			require.ErrorContains(t, err, "unknown capability \"")
			return
		}
		require.Zero(t, s&^All(), "a number without a name")
		again, err := Parse(s.Names())
		require.NoError(t, err)
		require.Equal(t, s, again)
		require.Len(t, s.Names(), s.Len())
		for _, name := range list {
			if n, err := Number(name); err == nil {
				require.True(t, s.Has(n), name)
				require.True(t, strings.EqualFold(strings.TrimPrefix(Name(n), "CAP_"), strings.TrimPrefix(strings.ToUpper(name), "CAP_")), name)
			}
		}
	})
}
