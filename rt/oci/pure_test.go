package oci

import (
	"encoding/json"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestUnitName(t *testing.T) {
	for _, c := range []struct{ path, slice, unit, err string }{
		{"", "system.slice", "runc-id.scope", ""},
		{"a.slice:coble:x", "a.slice", "coble-x.scope", ""},
		{":coble:x", "system.slice", "coble-x.scope", ""},
		{"a.slice::x", "a.slice", "x.scope", ""},
		{"a.slice:coble:", "", "", "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got \"a.slice:coble:\" instead"},
		{"/a/b", "", "", "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got \"/a/b\" instead"},
		{"a:b:c.slice", "", "", `cgroupsPath "a:b:c.slice": a slice holds no processes`},
	} {
		slice, unit, err := unitName(c.path, "id")
		if c.err != "" {
			require.EqualError(t, err, c.err)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, c.slice+" "+c.unit, slice+" "+unit, c.path)
	}
}

func TestUnitLimits(t *testing.T) {
	limit, quota, shares, none := int64(1<<20), int64(25000), uint64(1024), int64(-1)
	r := &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: &limit}, CPU: &specs.LinuxCPU{Quota: &quota, Shares: &shares}, Pids: &specs.LinuxPids{Limit: &none},
	}
	names := func(unified bool) map[string]any {
		props, err := unitLimits(r, unified)
		require.NoError(t, err)
		out := map[string]any{}
		for _, p := range props {
			out[p.Name] = p.Value.Value()
		}
		return out
	}
	require.Equal(t, map[string]any{
		"MemoryMax": uint64(1 << 20), "CPUQuotaPerSecUSec": uint64(250000), "CPUWeight": uint64(39), "TasksMax": ^uint64(0),
	}, names(true))
	require.Equal(t, map[string]any{
		"MemoryLimit": uint64(1 << 20), "CPUQuotaPerSecUSec": uint64(250000), "CPUShares": uint64(1024), "TasksMax": ^uint64(0),
	}, names(false))
	quota = -1
	require.Equal(t, ^uint64(0), quotaPerSecond(r.CPU))
	quota = 12345
	require.Equal(t, uint64(130000), quotaPerSecond(r.CPU), "rounded up to 10 ms")
}

func TestParseSignal(t *testing.T) {
	for text, want := range map[string]unix.Signal{"9": 9, "KILL": 9, "sigterm": 15, "SIGUSR1": unix.SIGUSR1, "0": 0, "34": 34} {
		sig, err := parseSignal(text)
		require.NoError(t, err)
		require.Equal(t, want, sig, text)
	}
	for _, text := range []string{"", "65", "-1", "SIG", "NOPE"} {
		_, err := parseSignal(text)
		require.Error(t, err, text)
	}
}

func TestCheckID(t *testing.T) {
	for _, id := range []string{"a", "a-b_c+d.e", "0123"} {
		require.NoError(t, checkID(id))
	}
	for _, id := range []string{"", ".", "..", "a/b", "a b", "ä", "a\x00"} {
		require.ErrorIs(t, checkID(id), errID, id)
	}
	require.Equal(t, "/id", groupPath("", "id"))
	require.Equal(t, "/a/b", groupPath("a/b/", "id"))
	require.Equal(t, "/b", groupPath("/../b", "id"))
}

// TestWithoutZeros: a caller's zeros are no limits, and what is left is what it says.
func TestWithoutZeros(t *testing.T) {
	r := &specs.LinuxResources{}
	const text = `{"memory":{"limit":0,"reservation":5,"swap":0,"kernel":0},"cpu":{"shares":0,"quota":7,"period":0},"blockIO":{"weight":0},"pids":{"limit":0}}`
	require.NoError(t, json.Unmarshal([]byte(text), r))
	withoutZeros(r)
	b, err := json.Marshal(r)
	require.NoError(t, err)
	require.JSONEq(t, `{"memory":{"reservation":5},"cpu":{"quota":7}}`, string(b))
}

func TestExecProcess(t *testing.T) {
	base := &specs.Process{
		Args: []string{"old"}, Env: []string{"A=1"}, Cwd: "/", Terminal: true,
		Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL"}, Ambient: []string{"CAP_KILL"}},
	}
	x := &execFlags{user: "7:8", env: []string{"B=2"}, caps: []string{"CAP_CHOWN"}, gids: []int{9}, changed: func(string) bool { return false }}
	p, err := x.process(base, []string{"new"})
	require.NoError(t, err)
	require.Equal(t, []string{"new"}, p.Args)
	require.Equal(t, []string{"A=1", "B=2"}, p.Env)
	require.Equal(t, specs.User{UID: 7, GID: 8, AdditionalGids: []uint32{9}}, p.User)
	require.False(t, p.Terminal)
	require.Equal(t, []string{"CAP_KILL", "CAP_CHOWN"}, p.Capabilities.Bounding)
	require.Equal(t, []string{"CAP_CHOWN"}, p.Capabilities.Inheritable)
	require.Equal(t, []string{"CAP_KILL"}, base.Capabilities.Bounding, "the container's own is not changed")
	for _, user := range []string{"x", "1:x", "-1", "4294967296"} {
		x.user = user
		_, err := x.process(base, []string{"new"})
		require.Error(t, err, user)
	}
}
