package daemon_test

import (
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/bcrypt"

	"github.com/coble-os/coble/layers/registry/registrytest"
	"github.com/coble-os/coble/layers/registry/server"
	"github.com/coble-os/coble/rt/client"
)

// Registries that want to know who asks are asked with the credentials of login, each with its own.
func TestRepairWithCredentials(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	require.NoError(t, err)
	users, err := server.ParseUsers("me:" + string(hash) + "\n")
	require.NoError(t, err)
	reg := registrytest.New(t, server.Access{}, nil)
	layer, err := io.ReadAll(tarOf(t, "plain", "text"))
	require.NoError(t, err)
	config := fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[%q]}}`, digest.FromBytes(layer))
	var hosts []string
	for range 2 {
		front := httptest.NewServer(reg.Store.Handler(server.Access{Users: users}))
		t.Cleanup(front.Close)
		hosts = append(hosts, front.Listener.Addr().String())
	}
	for _, name := range []string{"c", strings.ReplaceAll(hosts[0], ":", "_") + "/c"} { // as it is, and as a neighbour has it
		reg.Put(t, name, "1", "application/vnd.oci.image.layer.v1.tar", config, layer)
	}
	m := newMachine(t, "")
	coble := func(words string) error {
		return client.Run(t.Context(), "unix://"+m.sock(), strings.Fields(words))
	}
	login := func(host string) {
		t.Setenv("DOCKER_CONFIG", t.TempDir())
		if host != "" {
			require.NoError(t, coble("login -u me -p secret "+host))
		}
	}
	damage := func() {
		files, err := filepath.Glob(m.root() + "/*/d/*/plain")
		require.NoError(t, err)
		require.Len(t, files, 1)
		require.NoError(t, os.Truncate(files[0], 0))
	}
	login(hosts[0])
	require.NoError(t, coble("pull -q "+hosts[0]+"/c:1"))
	for _, from := range []string{"registry", "registry://" + hosts[0], "registry://" + hosts[1]} {
		damage()
		login("")
		require.ErrorContains(t, coble("fsck --repair "+from), "damaged still", from)
		if to, neighbour := strings.CutPrefix(from, "registry://"); neighbour {
			login(to)
		} else {
			login(hosts[0])
		}
		require.NoError(t, coble("fsck --repair "+from), from)
		require.NoError(t, coble("fsck"))
	}
	damage()
	login(hosts[1])
	require.Error(t, coble("fsck --repair registry"), "what is for one registry is not shown to another")
}

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
