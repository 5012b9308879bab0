package image

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
)

const good = `{"created":"2023-11-14T22:13:20Z","author":"me","architecture":"arm","os":"linux","variant":"v7",
"config":{"User":"1:2","Env":["A=b"],"Entrypoint":["/e"],"Cmd":["c"],"WorkingDir":"/w","Labels":{"l":"v"},
"ExposedPorts":{"80/tcp":{}},"Volumes":{"/v":{}},"StopSignal":"SIGINT","OnBuild":["RUN x"],"Shell":["/bin/sh"],
"Healthcheck":{"Test":["CMD","t"],"Interval":1000000000,"Retries":3}},
"history":[{"created_by":"a","empty_layer":true},{"created_by":"b"}],
"rootfs":{"type":"layers","diff_ids":["sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"]}}`

func TestParseConfig(t *testing.T) {
	img, err := ParseConfig([]byte(good))
	require.NoError(t, err)
	require.Equal(t, digest.FromString(good), img.ID)
	require.Equal(t, "2023-11-14T22:13:20Z", img.Created.Format(time.RFC3339))
	require.Equal(t, "arm linux v7 me", strings.Join([]string{img.Architecture, img.OS, img.Variant, img.Author}, " "))
	c := img.Config
	require.Equal(t, Config{
		User: "1:2", Env: []string{"A=b"}, Entrypoint: []string{"/e"}, Cmd: []string{"c"}, WorkingDir: "/w",
		Labels: map[string]string{"l": "v"}, ExposedPorts: map[string]struct{}{"80/tcp": {}}, Volumes: map[string]struct{}{"/v": {}},
		StopSignal: "SIGINT", OnBuild: []string{"RUN x"}, Shell: []string{"/bin/sh"},
		Healthcheck: &Healthcheck{Test: []string{"CMD", "t"}, Interval: time.Second, Retries: 3},
	}, c)
	require.Len(t, img.History, 2)
	require.Len(t, img.RootFS, 1)
	require.Equal(t, good, string(img.RawConfig))
}

// CVE-2021-21285: empty and malformed configurations.
func TestBadConfigs(t *testing.T) {
	ids := func(s string) string { return `{"rootfs":{"type":"layers","diff_ids":[` + s + `]}}` }
	many := strings.Repeat(`"sha256:`+strings.Repeat("a", 64)+`",`, MaxLayers+1)
	for name, raw := range map[string]string{
		"empty": "", "null": "null", "list": "[]", "text": `"x"`, "object": "{}", "cut": good[:100],
		"no type": `{"rootfs":{"diff_ids":[]}}`, "null rootfs": `{"rootfs":null}`,
		"short digest": ids(`"sha256:aa"`), "null digest": ids("null"), "path as digest": ids(`"sha256:../../../../etc/passwd"`),
		"sha512":          ids(`"sha512:` + strings.Repeat("a", 128) + `"`),
		"too many layers": ids(strings.TrimSuffix(many, ",")),
		"too large":       `{"author":"` + strings.Repeat("x", MaxJSON) + `"}`,
		"windows":         `{"os":"windows",` + good[1:], "wrong kind": `{"config":[],` + ids("")[1:],
		"zero byte": `{"config":{"Env":["A=\u0000"]},` + ids("")[1:],
	} {
		t.Run(name, func(t *testing.T) {
			if name == "windows" {
				raw = strings.Replace(good, `"os":"linux"`, `"os":"windows"`, 1)
			}
			_, err := ParseConfig([]byte(raw))
			require.ErrorIs(t, err, ErrInvalid)
		})
	}
}

func TestChainIDs(t *testing.T) {
	a, b := digest.FromString("a"), digest.FromString("b")
	require.Empty(t, ChainIDs(nil))
	require.Equal(t, []digest.Digest{a, digest.FromString(a.String() + " " + b.String())}, ChainIDs([]digest.Digest{a, b}))
}

func TestNames(t *testing.T) {
	long := "a@sha256:" + strings.Repeat("a", 64)
	for in, want := range map[string]string{
		"busybox":             "docker.io/library/busybox:latest busybox:latest",
		"busybox:1.36":        "docker.io/library/busybox:1.36 busybox:1.36",
		"me/x":                "docker.io/me/x:latest me/x:latest",
		"docker.io/library/x": "docker.io/library/x:latest x:latest",
		"index.docker.io/x":   "docker.io/library/x:latest x:latest",
		"localhost:5000/x":    "localhost:5000/x:latest localhost:5000/x:latest",
		"a.b/c/d:e":           "a.b/c/d:e a.b/c/d:e",
		long:                  "docker.io/library/" + long + " " + long,
		"x:t@" + long[2:]:     "docker.io/library/x@" + long[2:] + " x@" + long[2:],
	} {
		n, err := ParseName(in)
		require.NoError(t, err, in)
		require.Equal(t, want, n.String()+" "+n.Familiar())
		again, err := ParseName(n.String())
		require.NoError(t, err)
		require.Equal(t, n, again)
	}
	for _, bad := range []string{
		"", "UPPER", "a b", "../x", "x:", "x:" + strings.Repeat("t", 129), strings.Repeat("a", 64), "x@sha256:aa",
		strings.Repeat("a/", 200) + "a", "x\x00",
	} {
		_, err := ParseName(bad)
		require.ErrorIs(t, err, ErrInvalid, bad)
	}
}

func TestIDPrefix(t *testing.T) {
	for in, want := range map[string]bool{"abcd": true, "sha256:abcd": true, "abc": false, "abcg": false, "ABCD": false, "": false, strings.Repeat("a", 65): false} {
		_, ok := IDPrefix(in)
		require.Equal(t, want, ok, in)
	}
}

func TestChoose(t *testing.T) {
	desc := func(arch, variant, kind string) ocispec.Descriptor {
		d := ocispec.Descriptor{MediaType: kind, Size: int64(len(arch + variant))}
		if arch != "" {
			d.Platform = &ocispec.Platform{OS: "linux", Architecture: arch, Variant: variant}
		}
		return d
	}
	m := ocispec.MediaTypeImageManifest
	list := []ocispec.Descriptor{desc("arm", "v5", m), desc("arm", "v7", m), desc("arm64", "v8", m), desc("amd64", "", m), desc("unknown", "", m)}
	for want, p := range map[int]Platform{
		1: {"linux", "arm", "v7"}, 0: {"linux", "arm", "v6"}, 2: {"linux", "arm64", ""}, 3: {"linux", "amd64", ""},
	} {
		d, ok := Choose(list, p)
		require.True(t, ok)
		require.Equal(t, list[want], d, fmt.Sprint(p))
	}
	_, ok := Choose(list, Platform{"linux", "riscv64", ""})
	require.False(t, ok)
	d, ok := Choose([]ocispec.Descriptor{desc("", "", "text/plain"), desc("", "", m)}, Platform{"linux", "riscv64", ""})
	require.True(t, ok)
	require.Equal(t, m, d.MediaType)
}

func TestChooseBesideItsOwn(t *testing.T) {
	desc := func(arch, variant string) ocispec.Descriptor {
		return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Size: int64(len(arch + variant)), Platform: &ocispec.Platform{OS: "linux", Architecture: arch, Variant: variant}}
	}
	old := []ocispec.Descriptor{desc("arm", "v6"), desc("arm", "v7"), desc("386", "")}
	for machine, want := range map[string]int{"arm64 aarch64": 1, "arm armv7l": 1, "arm armv6l": 0, "arm aarch64": 1, "arm armv8l": 1, "amd64 x86_64": 2, "riscv64 riscv64": -1, "arm armv5tel": -1, "386 i686": 2} {
		arch, uname, _ := strings.Cut(machine, " ")
		d, ok := Choose(old, Here(arch, uname))
		require.Equal(t, want >= 0, ok, machine)
		if ok {
			require.Equal(t, old[want], d, machine)
		}
	}
	d, ok := Choose(append(old, desc("arm64", "")), Here("arm64", "aarch64"))
	require.True(t, ok)
	require.Equal(t, "arm64", d.Platform.Architecture, "its own goes first")
	_, ok = Choose([]ocispec.Descriptor{desc("amd64", "v3")}, Here("amd64", "x86_64"))
	require.False(t, ok, "what the machine may not have is not chosen")
}

func TestBadManifests(t *testing.T) {
	d := `{"digest":"sha256:` + strings.Repeat("a", 64) + `","size":1}`
	for name, raw := range map[string]string{
		"empty": "{}", "no digest": `{"config":{"size":1}}`, "negative size": `{"config":` + strings.Replace(d, `1}`, `-1}`, 1) + `}`,
		"huge configuration": `{"config":` + strings.Replace(d, `1}`, `99999999}`, 1) + `}`,
		"bad layer":          `{"config":` + d + `,"layers":[{}]}`,
		"too many layers":    `{"config":` + d + `,"layers":[` + strings.Repeat(d+",", MaxLayers) + d + `]}`,
		"size is text":       `{"config":{"size":"1"}}`,
	} {
		_, err := ParseManifest([]byte(raw))
		require.ErrorIs(t, err, ErrInvalid, name)
	}
	for name, raw := range map[string]string{
		"object": "{}", "none": "[]", "no configuration": `[{"Layers":[]}]`,
		"too many layers": `[{"Config":"c","Layers":[` + strings.Repeat(`"l",`, MaxLayers) + `"l"]}]`,
		"too many names":  `[{"Config":"c","RepoTags":[` + strings.Repeat(`"l",`, MaxTags) + `"l"]}]`,
	} {
		_, err := ParseArchive([]byte(raw))
		require.ErrorIs(t, err, ErrInvalid, name)
	}
	_, err := ParseIndex([]byte(`{"manifests":[{}]}`))
	require.ErrorIs(t, err, ErrInvalid)
}

// FuzzParsers: no input makes a parser panic, and what it accepts holds what
// the rest of the code relies on.
func FuzzParsers(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte(`[{"Config":"c","RepoTags":["a:b"],"Layers":["l"]}]`))
	f.Add([]byte(`{"manifests":[{"digest":"sha256:` + strings.Repeat("a", 64) + `","size":1,"platform":{"os":"linux","architecture":"arm","variant":"v7"}}]}`))
	f.Add([]byte(`busybox:latest@sha256:` + strings.Repeat("a", 64)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if img, err := ParseConfig(raw); err == nil {
			require.LessOrEqual(t, len(img.RootFS), MaxLayers)
			require.Len(t, ChainIDs(img.RootFS), len(img.RootFS))
		}
		if list, err := ParseIndex(raw); err == nil {
			Choose(list, Platform{"linux", "arm", "v7"})
			for _, d := range list {
				require.NotContains(t, BlobPath(d.Digest), "..")
			}
		}
		if m, err := ParseManifest(raw); err == nil {
			require.NotContains(t, BlobPath(m.Config.Digest), "..")
		}
		_, _ = ParseArchive(raw)
		if n, err := ParseName(string(raw)); err == nil {
			again, err := ParseName(n.Familiar())
			require.NoError(t, err)
			require.Equal(t, n, again)
		}
	})
}
