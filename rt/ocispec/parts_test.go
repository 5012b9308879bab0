package ocispec

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/rt/fault"
	"github.com/coble-os/coble/rt/store"
)

// A mount below another is made after it, whatever the order of the request or of a map.
func TestMountsBelowEachOther(t *testing.T) {
	spec := store.Spec{}
	spec.Host.Tmpfs = map[string]string{"/data/a/b": "", "/data/a": "", "/zz": "", "/data/a/b/c/": ""}
	spec.Host.Binds = []string{"/x:/data/a/b/d", "/y:/data"}
	for range 20 {
		in := Input{Spec: spec, RunDir: "/r"}
		mounts, err := in.mounts()
		require.NoError(t, err)
		var order []string
		for _, m := range mounts[len(mounts)-6:] {
			order = append(order, m.Destination)
		}
		require.Equal(t, []string{"/zz", "/data", "/data/a", "/data/a/b", "/data/a/b/c/", "/data/a/b/d"}, order)
	}
}

func TestParseBind(t *testing.T) {
	for s, want := range map[string]string{
		"/a:/b":           "/a /b rbind,rw,rprivate",
		"/a:/b:ro":        "/a /b rbind,ro,rprivate",
		"/a:/b:rw":        "/a /b rbind,rw,rprivate",
		"/a/../c:/b/./d:": "/c /b/d rbind,rw,rprivate",
		"/a:/b:ro,rslave": "/a /b rbind,ro,rslave",
		"/a":              "want host-path:container-path",
		"":                "want host-path:container-path",
		"/a:/b:ro:x":      "want host-path:container-path",
		"vol:/b":          "named volumes",
		"/a:b":            "must be absolute",
		"/a:/":            "not '/'",
		"/a:/b/..":        "not '/'",
		"/a:/b:Z":         "SELinux",
		"/a:/b:readonly":  "unknown option",
	} {
		m, err := parseBind(s)
		if err != nil {
			require.ErrorContains(t, err, want, s)
			continue
		}
		require.Equal(t, want, m.Source+" "+m.Destination+" "+strings.Join(m.Options, ","), s)
	}
}

func TestParseSecurity(t *testing.T) {
	for _, c := range []struct {
		opts []string
		want Security
	}{
		{nil, Security{}},
		{[]string{"no-new-privileges"}, Security{NoNewPrivileges: true}},
		{[]string{"no-new-privileges:true"}, Security{NoNewPrivileges: true}},
		{[]string{"no-new-privileges=false"}, Security{}},
		{[]string{"seccomp=unconfined", "apparmor=unconfined", "label=disable"}, Security{Seccomp: Unconfined}},
		{[]string{"seccomp:unconfined", "apparmor=mine", "writable-cgroups=true"}, Security{Seccomp: Unconfined, AppArmor: "mine", WritableCgroups: true}},
		{[]string{"seccomp=builtin"}, Security{}},
		{[]string{`seccomp={"a":"b=c:d"}`}, Security{Seccomp: `{"a":"b=c:d"}`}},
	} {
		got, err := ParseSecurity(c.opts)
		require.NoError(t, err, c.opts)
		require.Equal(t, c.want, got, c.opts)
	}
	for _, o := range []string{"nosuch=1", "nosuch", "no-new-privileges=perhaps", "label=level:s0", ""} {
		_, err := ParseSecurity([]string{o})
		require.Error(t, err, o)
	}
}

func TestProfile(t *testing.T) {
	text := `{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,"archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]},
		{"architecture":"SCMP_ARCH_AARCH64","subArchitectures":["SCMP_ARCH_ARM"]},{"architecture":"SCMP_ARCH_MIPSEL"},{"architecture":"SCMP_ARCH_RISCV64"},{"architecture":"SCMP_ARCH_ARM"}],
		"syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW"},{"name":"write","action":"SCMP_ACT_ALLOW"},
		{"names":["mount"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_SYS_ADMIN"]}},
		{"names":["clone3"],"action":"SCMP_ACT_ERRNO","errnoRet":38,"excludes":{"caps":["CAP_SYS_ADMIN"]}},
		{"names":["ptrace"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"4.8"}},
		{"names":["bpf"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"6.2"}},
		{"names":["arch_prctl"],"action":"SCMP_ACT_ALLOW","includes":{"arches":["s390x"]}}]}`
	names := func(caps []string) (out []string) {
		f, err := parseProfile([]byte(text), caps, KernelVersion{6, 1})
		require.NoError(t, err)
		require.NotEmpty(t, f.Architectures)
		for _, s := range f.Syscalls {
			out = append(out, s.Names...)
		}
		return out
	}
	require.Equal(t, []string{"read", "write", "clone3", "ptrace"}, names(nil))
	require.Equal(t, []string{"read", "write", "mount", "ptrace"}, names([]string{"CAP_SYS_ADMIN"}))
	for text, want := range map[string]string{
		"{broken": "decode", "{}": "no defaultAction", `{"defaultAction":"NOPE"}`: "NOPE",
		`{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/x"}`:                                               "listenerPath",
		`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"a","names":["b"],"action":"SCMP_ACT_ALLOW"}]}`: "both name and names",
	} {
		_, err := parseProfile([]byte(text), nil, KernelVersion{6, 1})
		require.ErrorContains(t, err, want, text)
	}
}

func FuzzProfile(f *testing.F) {
	f.Add([]byte(`{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := parseProfile(text, []string{"CAP_CHOWN"}, KernelVersion{6, 1})
		require.True(t, (p == nil) == (err != nil))
	})
}

func TestDeviceRules(t *testing.T) {
	r, err := ParseDeviceRule("c 1:11 rmw")
	require.NoError(t, err)
	require.Equal(t, deviceRule(true, "c", 1, 11, "rmw"), r)
	r, err = ParseDeviceRule("b *:* m")
	require.NoError(t, err)
	require.Equal(t, deviceRule(true, "b", -1, -1, "m"), r)
	for _, s := range []string{"", "c", "c 1:11", "x 1:1 r", "c 1 r", "c 1:-1 r", "c 1:1 rr", "c 1:1 x", "c 1:1 r extra", "ab 1:1 r", "c 9999999999:1 r"} {
		_, err := ParseDeviceRule(s)
		require.Equal(t, fault.Invalid, fault.KindOf(err), s)
	}
}

func TestParseKernel(t *testing.T) {
	for s, want := range map[string]KernelVersion{"6.1.0-18-cloud-amd64": {6, 1}, "5.10": {5, 10}, "7.0-rc1": {7, 0}, "7": {7, 0}, "": {}, "x.y": {}} {
		require.Equal(t, want, ParseKernel(s), s)
	}
	require.True(t, KernelVersion{5, 10}.atLeast("4.19"))
	require.True(t, KernelVersion{5, 10}.atLeast("5.10"))
	require.False(t, KernelVersion{5, 10}.atLeast("5.11"))
}
