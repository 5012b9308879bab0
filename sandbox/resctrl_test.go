package sandbox

import (
	"os"
	"path/filepath"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/sandbox/spec"
)

// fakeResctrl is a folder with one group, as no machine of the tests has the processor for it.
func fakeResctrl(t *testing.T, group string) string {
	top := t.TempDir()
	for _, dir := range []string{group, group + "/mon_groups/web"} {
		require.NoError(t, os.MkdirAll(filepath.Join(top, dir), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(top, dir, "tasks"), nil, 0o644))
	}
	require.NoError(t, os.WriteFile(filepath.Join(top, group, "schemata"), nil, 0o644))
	return top
}

func TestResctrl(t *testing.T) {
	top := fakeResctrl(t, "gold")
	r := &specs.LinuxIntelRdt{ClosID: "gold", L3CacheSchema: "L3:0=f", MemBwSchema: "MB:0=20", EnableMonitoring: true}
	g, err := spec.ResctrlGroup("web", r)
	require.NoError(t, err)
	require.NoError(t, joinResctrl(top, 7, g))
	for file, want := range map[string]string{"gold/schemata": "L3:0=f\nMB:0=20\n", "gold/tasks": "7", "gold/mon_groups/web/tasks": "7"} {
		b, err := os.ReadFile(filepath.Join(top, file))
		require.NoError(t, err)
		require.Equal(t, want, string(b), file)
	}
	require.NoError(t, os.Remove(filepath.Join(top, "gold/mon_groups/web/tasks"))) // as the kernel's go with their folder
	require.NoError(t, removeResctrl(top, "web", r))
	require.NoDirExists(t, filepath.Join(top, "gold/mon_groups/web"))
	require.DirExists(t, filepath.Join(top, "gold"), "it was named by the spec")

	g, err = spec.ResctrlGroup("web", &specs.LinuxIntelRdt{ClosID: "none"})
	require.NoError(t, err)
	require.ErrorIs(t, joinResctrl(top, 7, g), os.ErrNotExist)
	g, err = spec.ResctrlGroup("web", &specs.LinuxIntelRdt{Schemata: []string{"L3:0=1"}})
	require.NoError(t, err)
	require.ErrorIs(t, joinResctrl(top, 7, g), os.ErrNotExist, "a plain folder has no files")
	require.NoDirExists(t, filepath.Join(top, "web"), "what was made is gone")
	for _, bad := range []string{"..", "a/b", "info"} {
		_, err = spec.ResctrlGroup("web", &specs.LinuxIntelRdt{ClosID: bad})
		require.Error(t, err, bad)
	}
	_, err = spec.ResctrlGroup("", &specs.LinuxIntelRdt{})
	require.Error(t, err)
}
