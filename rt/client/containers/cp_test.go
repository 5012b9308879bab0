package containers

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSplitPlace(t *testing.T) {
	for in, want := range map[string][2]string{
		"c:/etc": {"c", "/etc"}, "c:etc:x": {"c", "etc:x"}, "/a:b": {"", "/a:b"}, "./c:b": {"", "./c:b"}, "file": {"", "file"}, "-": {"", "-"}, ":x": {"", ":x"}, "a/b:c": {"", "a/b:c"},
	} {
		c, p := splitPlace(in)
		require.Equal(t, want, [2]string{c, p}, in)
	}
}
