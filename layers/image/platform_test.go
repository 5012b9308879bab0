package image

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParsePlatform(t *testing.T) {
	here := Platform{"linux", "arm", "v7"}
	for in, want := range map[string]Platform{
		"linux": here, "linux/amd64": {"linux", "amd64", ""}, "amd64": {"linux", "amd64", ""}, "linux/arm/v6": {"linux", "arm", "v6"},
		"linux/arm": here, "arm": here, "Linux/AArch64": {"linux", "arm64", ""}, "armhf": {"linux", "arm", "v7"}, "armel": {"linux", "arm", "v6"},
		"x86_64": {"linux", "amd64", ""}, "linux/i386": {"linux", "386", ""}, "windows/amd64": {"windows", "amd64", ""},
	} {
		got, err := ParsePlatform(in, here)
		require.NoError(t, err, in)
		require.Equal(t, want, got, in)
	}
	for _, in := range []string{"", "/", "linux/", "a/b/c/d", "linux/arm v7", "linux//v7"} {
		_, err := ParsePlatform(in, here)
		require.ErrorIs(t, err, ErrInvalid, in)
	}
}
