package request

import (
	"crypto/sha256"
	"encoding/hex"
	"testing"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/configs"
	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/rt/fault"
)

var four = Machine{CPUs: 4, OnlineCPUs: "0-3", OnlineMems: "0"}

func TestMergeConfig(t *testing.T) {
	from := func(entry, cmd []string) (img image.Image) {
		img.Config.Entrypoint, img.Config.Cmd = entry, cmd
		return img
	}
	for _, c := range []struct {
		name                               string
		imgEntry, imgCmd, askEntry, askCmd []string
		wantEntry, wantCmd                 []string
	}{
		{"all from the image", []string{"e"}, []string{"c"}, nil, nil, []string{"e"}, []string{"c"}},
		{"a command keeps the entrypoint", []string{"e"}, []string{"c"}, nil, []string{"x"}, []string{"e"}, []string{"x"}},
		{"an entrypoint drops the command", []string{"e"}, []string{"c"}, []string{"n"}, nil, []string{"n"}, nil},
		{"both", []string{"e"}, []string{"c"}, []string{"n"}, []string{"x"}, []string{"n"}, []string{"x"}},
		{"an empty entrypoint means none", []string{"e"}, []string{"c"}, []string{""}, []string{"x"}, nil, []string{"x"}},
	} {
		got := mergeConfig(container.Config{Entrypoint: c.askEntry, Cmd: c.askCmd}, from(c.imgEntry, c.imgCmd))
		require.Equal(t, c.wantEntry, []string(got.Entrypoint), c.name)
		require.Equal(t, c.wantCmd, []string(got.Cmd), c.name)
	}

	var img image.Image
	img.Config.User, img.Config.WorkingDir, img.Config.StopSignal = "u", "/w", "QUIT"
	img.Config.Env = []string{"A=1", "B=2", "C=3"}
	img.Config.Labels = map[string]string{"a": "1", "b": "2"}
	got := mergeConfig(container.Config{Env: []string{"B=9", "C", "D="}, Labels: map[string]string{"b": "9"}}, img)
	require.ElementsMatch(t, []string{"A=1", "B=9", "C", "D="}, got.Env)
	require.Equal(t, map[string]string{"a": "1", "b": "9"}, got.Labels)
	require.Equal(t, []string{"u", "/w", "QUIT"}, []string{got.User, got.WorkingDir, got.StopSignal})
	require.Equal(t, map[string]string{"a": "1", "b": "2"}, img.Config.Labels, "the image stays as it was")
	got = mergeConfig(container.Config{User: "v", WorkingDir: "/x", StopSignal: "INT"}, img)
	require.Equal(t, []string{"v", "/x", "INT"}, []string{got.User, got.WorkingDir, got.StopSignal})
}

func TestCheck(t *testing.T) {
	good := func() Create { return Create{Name: "web-1", Config: container.Config{Image: "i"}} }
	require.NoError(t, Check(good(), four))
	for name, c := range map[string]struct {
		spoil func(*Create)
		kind  fault.Kind
		text  string
	}{
		"name":       {func(in *Create) { in.Name = "../x" }, fault.Invalid, "Invalid container name"},
		"short name": {func(in *Create) { in.Name = "x" }, fault.Invalid, "Invalid container name"},
		"new line":   {func(in *Create) { in.Name = "good\nbad" }, fault.Invalid, "Invalid container name"},
		"no image":   {func(in *Create) { in.Config.Image = "" }, fault.Invalid, "no image"},
		"cwd":        {func(in *Create) { in.Config.WorkingDir = "rel" }, fault.Invalid, "absolute"},
		"signal":     {func(in *Create) { in.Config.StopSignal = "SIGNOPE" }, fault.Invalid, "SIGNOPE"},
		"memory":     {func(in *Create) { in.Host.Memory = 6<<20 - 1 }, fault.Invalid, "Minimum memory"},
		"swap":       {func(in *Create) { in.Host.Memory, in.Host.MemorySwap = 8<<20, 7<<20 }, fault.Invalid, "memoryswap"},
		"policy":     {func(in *Create) { in.Host.RestartPolicy.Name = "sometimes" }, fault.Invalid, "sometimes"},
		"retries": {func(in *Create) {
			in.Host.RestartPolicy = container.RestartPolicy{Name: "always", MaximumRetryCount: 3}
		}, fault.Invalid, "maximum retry"},
		"rm+restart": {func(in *Create) { in.Host.RestartPolicy.Name, in.Host.AutoRemove = "always", true }, fault.Invalid, "AutoRemove"},
		"reserve":    {func(in *Create) { in.Host.Memory, in.Host.MemoryReservation = 8<<20, 9<<20 }, fault.Invalid, "reservation"},
		"cpus":       {func(in *Create) { in.Host.NanoCPUs = 5e9 }, fault.Invalid, "range of CPUs is from 0.01 to 4.00"},
		"no cpus":    {func(in *Create) { in.Host.NanoCPUs = 1e6 }, fault.Invalid, "range of CPUs"},
		"quota":      {func(in *Create) { in.Host.NanoCPUs, in.Host.CPUQuota = 1e9, 5000 }, fault.Invalid, "Conflicting options"},
		"cpuset":     {func(in *Create) { in.Host.CpusetCpus = "0,3-4" }, fault.Invalid, "Requested CPUs are not available"},
		"bad cpuset": {func(in *Create) { in.Host.CpusetCpus = "0-" }, fault.Invalid, "numbers and ranges"},
		"huge set":   {func(in *Create) { in.Host.CpusetCpus = "0-99999999" }, fault.Invalid, "numbers and ranges"},
		"mems":       {func(in *Create) { in.Host.CpusetMems = "1" }, fault.Invalid, "memory nodes are not available"},
		"ulimit":     {func(in *Create) { in.Host.Ulimits = []*units.Ulimit{{Name: "nope", Soft: 1, Hard: 1}} }, fault.Invalid, "invalid ulimit type"},
		"rule":       {func(in *Create) { in.Host.DeviceCgroupRules = []string{"c 1 rwm"} }, fault.Invalid, "device cgroup rule"},
		"pid":        {func(in *Create) { in.Host.PidMode = "mine" }, fault.Invalid, "namespace mode"},
		"profile":    {func(in *Create) { in.Host.SecurityOpt = []string{"seccomp={broken"} }, fault.Invalid, "seccomp profile"},
		"both": {func(in *Create) {
			in.Host.NetworkMode, in.Host.PortBindings = "container:x", network.PortMap{network.MustParsePort("80/tcp"): nil}
		}, fault.Invalid, "conflicting options"},
		"two fields": {func(in *Create) { in.Host.CgroupParent, in.Host.Runtime = "/x", "y" }, fault.Unsupported, "CgroupParent, Runtime"},
		"security":   {func(in *Create) { in.Host.SecurityOpt = []string{"nosuch=1"} }, fault.Invalid, "nosuch=1"},
	} {
		in := good()
		c.spoil(&in)
		err := Check(in, four)
		require.ErrorContains(t, err, c.text, name)
		require.Equal(t, c.kind, fault.KindOf(err), name)
	}
}

func TestParseSignal(t *testing.T) {
	for s, want := range map[string]int{"TERM": 15, "sigterm": 15, "SIGKILL": 9, "9": 9, "64": 64, "SIGRTMIN+3": 37, "USR1": 10} {
		got, err := ParseSignal(s)
		require.NoError(t, err, s)
		require.Equal(t, want, int(got), s)
	}
	for _, s := range []string{"0", "65", "-1", "SIGNOPE", "RTMIN+31", "TERM ", "99999999999999999999"} {
		_, err := ParseSignal(s)
		require.Equal(t, fault.Invalid, fault.KindOf(err), s)
	}
}

// TestSectionHash: it follows what the section says, and nothing else.
func TestSectionHash(t *testing.T) {
	c := configs.Container{Image: "box", Env: map[string]string{"A": "1", "B": "2"}}
	same := configs.Container{Image: "box", Env: map[string]string{"B": "2", "A": "1"}}
	require.Equal(t, hashOf(c), hashOf(same))
	sum := sha256.Sum256([]byte(`{"Env":{"A":"1","B":"2"},"Image":"box"}`))
	require.Equal(t, hex.EncodeToString(sum[:]), hashOf(c), "keys that a newer coble knows do not count")
	same.Init = true
	require.NotEqual(t, hashOf(c), hashOf(same))
}
