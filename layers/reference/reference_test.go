package reference

import (
	"strings"
	"testing"

	upstream "github.com/distribution/reference"
	"github.com/stretchr/testify/require"
)

var names = []string{
	"", "busybox", "busybox:1.36", "busybox:", "busybox@", "library/busybox", "docker.io/busybox", "index.docker.io/busybox", "docker.io/a/b/c",
	"localhost/a", "localhost:5000/a:b", "a:5000", "a:5000/b", "host.name/a", "Host/a", "Busybox", "host/Busybox", "a/B:c", "a:B", "a@sha256:AA",
	"a@sha256:" + strings.Repeat("a", 64), "a:t@sha256:" + strings.Repeat("0", 64), "a@sha256:" + strings.Repeat("A", 64), "a@sha256:" + strings.Repeat("a", 63),
	"a@sha512:" + strings.Repeat("b", 128), "a@md5:" + strings.Repeat("b", 32), "a@b@c", "a:b:c", "a//b", "/a", "a/", "a..b", "a__b", "a___b", "a---b", "a-_b", "a._b", "-a", "a-",
	"[::1]/a", "[::1]:5000/a", "[::1/a", "[]/a", "[fe80::1%eth0]/a", "::1/a", "host.:5000/a", "host-.x/a", "-host.x/a", "host.x:/a", "host.x:p/a", "1.2.3.4:80/x/y:z",
	strings.Repeat("a", 64), strings.Repeat("g", 64), strings.Repeat("a", 255), strings.Repeat("a", 247), strings.Repeat("a", 248), "docker.io/library/" + strings.Repeat("a", 256),
	"a:" + strings.Repeat("t", 128), "a:" + strings.Repeat("t", 129), "a:.t", "a:-t", "a:_t", "a:t/u", "a b", "ä", "a:ä", "ſ/a", "K.x/a", "a\x00", "library/a/b", "docker.io/library",
}

// same holds Parse against distribution/reference. A host that is none, such as foo_bar.x, is taken by that for a part of
// a path without a registry, which nothing can be pulled from: here it is refused.
func same(t *testing.T, s string) {
	t.Helper()
	want, err := upstream.ParseNormalizedNamed(s)
	got, gotErr := Parse(s)
	if err != nil || upstream.Domain(want) == "" {
		require.Error(t, gotErr, "%q", s)
		return
	}
	require.NoError(t, gotErr, "%q", s)
	require.Equal(t, want.String(), got.String())
	require.Equal(t, want.Name(), got.Name())
	require.Equal(t, upstream.FamiliarString(want), got.Familiar())
	require.Equal(t, upstream.FamiliarName(want), got.FamiliarName())
	require.Equal(t, upstream.Domain(want), got.Domain)
	require.Equal(t, upstream.IsNameOnly(want), got.NameOnly())
	require.Equal(t, upstream.TagNameOnly(want).String(), got.Latest().String())
}

func TestParse(t *testing.T) {
	for _, s := range names {
		same(t, s)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range names {
		f.Add(s)
	}
	f.Fuzz(same)
}

func TestErrors(t *testing.T) {
	for s, want := range map[string]string{
		"a b":                              "invalid reference format",
		"Busybox":                          "repository name must be lowercase",
		strings.Repeat("a", 64):            "cannot specify 64-byte hexadecimal strings",
		"a@md5:" + strings.Repeat("b", 32): "unsupported digest algorithm",
		"x.y/" + strings.Repeat("a", 256):  "repository name must not be more than 255 characters",
	} {
		_, err := Parse(s)
		require.ErrorContains(t, err, want)
	}
}
