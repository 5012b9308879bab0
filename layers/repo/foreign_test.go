package repo

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/layers/driver/drivertest"
)

// tool runs one of the image tools of other people.
func tool(t *testing.T, name string, args ...string) {
	t.Helper()
	path, err := exec.LookPath(name)
	require.NoError(t, err, "%s is missing: run make deps", name)
	out, err := exec.Command(path, args...).CombinedOutput()
	require.NoError(t, err, "%s %s: %s", name, strings.Join(args, " "), out)
}

// Images made by umoci and converted by skopeo into every form load, and
// show the same.
func TestForeignTools(t *testing.T) {
	drivertest.NeedRoot(t)
	dir := t.TempDir()
	layout := filepath.Join(dir, "layout")
	tree := filepath.Join(dir, "tree")
	require.NoError(t, os.MkdirAll(filepath.Join(tree, "sub"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(tree, "one"), []byte("1"), 0o4755))
	require.NoError(t, os.Link(filepath.Join(tree, "one"), filepath.Join(tree, "sub", "same")))
	require.NoError(t, os.Symlink("../one", filepath.Join(tree, "sub", "link")))
	require.NoError(t, os.WriteFile(filepath.Join(tree, "sub", strings.Repeat("long", 50)), []byte("long"), 0o644))
	other := filepath.Join(dir, "other")
	require.NoError(t, os.MkdirAll(other, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(other, "new"), []byte("new"), 0o644))

	img := layout + ":made"
	tool(t, "umoci", "init", "--layout", layout)
	tool(t, "umoci", "new", "--image", img)
	tool(t, "umoci", "insert", "--image", img, tree, "/opt")
	tool(t, "umoci", "insert", "--image", img, "--whiteout", "/opt/one")
	tool(t, "umoci", "insert", "--image", img, tree, "/opaque")
	tool(t, "umoci", "insert", "--image", img, "--opaque", other, "/opaque")
	tool(t, "umoci", "config", "--image", img, "--config.cmd", "run", "--config.env", "A=b", "--config.user", "5:6")

	copyTo := func(to string, more ...string) {
		tool(t, "skopeo", append([]string{"--insecure-policy", "copy", "-q"}, append(more, "oci:"+img, to)...)...)
	}
	copyTo("docker-archive:" + dir + "/docker.tar:foreign/x:1")
	copyTo("oci-archive:" + dir + "/oci.tar:foreign/x:1")
	copyTo("oci:"+dir+"/zstd:foreign/x:1", "--dest-compress-format", "zstd", "--dest-compress-level", "3")
	tool(t, "gzip", "-k", dir+"/docker.tar")
	tool(t, "zstd", "-q", dir+"/oci.tar")

	want := []string{"opaque/", "opaque/new:new", "opt/", "opt/sub/", "opt/sub/link>../one", "opt/sub/" + strings.Repeat("long", 50) + ":long", "opt/sub/same:1"}
	for _, p := range []string{"layout", "docker.tar", "docker.tar.gz", "oci.tar", "oci.tar.zst", "zstd"} {
		t.Run(p, func(t *testing.T) {
			r := newRepo(t)
			l, err := r.LoadPath(ctx, filepath.Join(dir, p), "", nil)
			require.NoError(t, err)
			if p != "layout" {
				require.Equal(t, "foreign/x:1", l[0].Ref)
			}
			im, err := r.Get(l[0].ID.String())
			require.NoError(t, err)
			require.Equal(t, []string{"run"}, im.Config.Cmd)
			require.Equal(t, []string{"A=b"}, im.Config.Env)
			require.Equal(t, "5:6", im.Config.User)
			require.ElementsMatch(t, want, shown(t, r, l[0].ID))
		})
	}
}
