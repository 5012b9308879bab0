package daemon_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestFsck: damage of an image is named down to the file, repaired from an archive, and no reason not to run.
func TestFsck(t *testing.T) {
	m := newMachine(t, "")
	m.loadBox()
	archive := filepath.Join(t.TempDir(), "box.tar")
	require.NoError(t, os.WriteFile(archive, boxArchive(t), 0o644))
	fsck := func(query string) string { t.Helper(); return m.do("POST", "/coble/fsck?"+query, nil) }
	require.NotContains(t, fsck(""), "Finding")
	files, err := filepath.Glob(m.root() + "/*/d/*/bin/busybox")
	require.NoError(t, err)
	require.Len(t, files, 1)
	require.NoError(t, os.Truncate(files[0], 0))
	m.awaitEngine(m.killEngine())
	require.Contains(t, fsck("image=box"), `"Images":["box:latest"]`)
	require.Contains(t, fsck(""), `"Path":"bin/busybox","What":"it has 0 bytes, not `)
	require.NotContains(t, fsck("quick=1"), "Finding")
	require.Contains(t, fsck("from="+archive), `"Repaired":true`)
	require.NotContains(t, fsck(""), "Finding")
	m.start("whole", nil, "true")
	status, _ := m.call("POST", "/coble/fsck?image=nowhere", nil)
	require.Equal(t, 404, status)
}
