package power

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/init/mkimage"
	"github.com/coble-os/coble/layers/catalog"
	"github.com/coble-os/coble/layers/driver/drivertest"
	"github.com/coble-os/coble/layers/fsck"
	"github.com/coble-os/coble/layers/registry/registrytest"
	"github.com/coble-os/coble/layers/registry/server"
	"github.com/coble-os/coble/layers/repo"
	"github.com/coble-os/coble/qemu-tests/box"
	"github.com/coble-os/coble/qemu-tests/cut"
	"github.com/coble-os/coble/qemu-tests/vm"
	"github.com/coble-os/coble/rt/store"
)

// lifeConfig starts nothing: all that happens is what the test asks for.
const lifeConfig = `
hostname = "gateway"
[storage]
device = "/dev/vda"
fstype = "%s"
[uplink.eth0]
dhcp = true
[registry]
insecure = ["10.0.0.0/8"]
[boot]
modules = ["dm_thin_pool"]
`

// state is what a store must hold.
type state struct {
	images     map[string]string // name: which image
	dangling   int               // images without a name
	containers string            // names
	written    string            // what the container has written and synced
}

// op is one operation, and what the store holds once it has been acknowledged.
type op struct {
	command string
	then    func(*state)
}

// life is what happens to the store. Commands are acknowledged when they end. registry is one as the machine sees it.
func life(registry string) []op {
	name := func(n, is string) func(*state) { return func(s *state) { s.images[n] = is } }
	return []op{
		{"coble load -q -i /data/a.tar", name("box:a", "a")},
		{"coble tag box:a box:x", name("box:x", "a")},
		{"coble load -q -i /data/b.tar", name("box:b", "b")},
		{"coble tag box:b box:x", name("box:x", "b")},
		{"coble create --name cc box:a sleep 1000", func(s *state) { s.containers = "cc" }},
		{"coble rmi box:x", func(s *state) { delete(s.images, "box:x") }},
		{"coble rmi box:b", func(s *state) { delete(s.images, "box:b") }},
		{"coble load -q -i /data/b.tar", name("box:b", "b")},
		{"coble start cc", func(*state) {}},
		{"coble exec cc sh -c 'echo one > /new && mv /new /file && busybox sync'", func(s *state) { s.written = "one\n" }},
		{"coble tag box:b box:y", name("box:y", "b")},
		{"coble exec cc sh -c 'echo two > /new && mv /new /file && busybox sync'", func(s *state) { s.written = "two\n" }},
		{"coble commit cc made:1", name("made:1", "made")},
		{"coble commit -m again cc made:1", func(s *state) { s.dangling = 1 }},
		{"coble pull -q " + registry + "/c:1", name(registry+"/c:1", "c")},
		{"coble image prune -f", func(s *state) { s.dangling = 0 }},
		{"coble rm -f cc", func(s *state) { s.containers, s.written = "", "" }},
		{"coble rmi -f box:a", func(s *state) { delete(s.images, "box:a") }},
		{"coble load -q -i /data/a.tar", name("box:a", "a")},
	}
}

// states are what the store holds before the first operation, and after each.
func states(ops []op) []state {
	s := state{images: map[string]string{}}
	out := []state{s}
	for _, o := range ops {
		s.images = maps.Clone(s.images)
		o.then(&s)
		out = append(out, s)
	}
	return out
}

// setting is where a life takes place.
type setting struct {
	FS     string // of the data disk
	MiB    int    // its size
	Driver string // graph driver; empty: the appliance's own engine and choice
	Cuts   int    // unless $COBLE_CUTS says otherwise
}

// root is the store's folder on the data disk.
func (s setting) root() string {
	return cmp.Or(s.Driver, "coble")
}

// start starts a second engine for a driver that the appliance does not choose by itself, and makes it the one that commands
// of the shell talk to.
func (s setting) start() string {
	if s.Driver == "" {
		return "true"
	}
	return fmt.Sprintf("export DOCKER_HOST=unix:///run/%[1]s.sock; (coble daemon --graph-driver %[1]s --root /data/%[1]s --run /run/%[1]s -H $DOCKER_HOST --config /etc/coble/coble.toml 2>/dev/null &); until coble version 2>/dev/null >&2; do sleep 0.1; done", s.Driver)
}

// file is where what a container wrote to /file lies, below root.
func (s setting) file() string {
	switch s.Driver {
	case "btrfs":
		return "btrfs/c/*/v/r/file"
	case "vfs":
		return "vfs/c/*/r/file"
	}
	return "overlay/c/*/u/file"
}

// TestCutsOfALife cuts the power of an appliance at many points of its store's life, clean and torn, on each file system and
// with each driver: $COBLE_CUTS, or as many as the setting says. Each disk must mount; everything in the store must be whole, down to each file; what had been acknowledged
// must be there, and of the operation under way all or nothing.
func TestCutsOfALife(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: run as root (it mounts disk images)")
	}
	for name, s := range map[string]setting{
		"ext4":             {"ext4", 64, "", 100},
		"btrfs":            {"btrfs", 128, "", 100},
		"driver-btrfs":     {"btrfs", 128, "btrfs", 40},
		"driver-vfs":       {"ext4", 64, "vfs", 20},
		"driver-devmapper": {"ext4", 256, "devmapper", 10},
	} {
		t.Run(name, func(t *testing.T) { cutLife(t, s) })
	}
}

// lived is what is known of a life, beside the files base, the disk before it, and log, what was written to it.
type lived struct {
	Setting  setting
	Points   int
	Acked    []int             // how many requests there were when each operation had been acknowledged
	IDs      map[string]string // of images: which one
	Registry string            // as the machine saw it
}

func cutLife(t *testing.T, s setting) {
	points, err := strconv.Atoi(cmp.Or(os.Getenv("COBLE_CUTS"), strconv.Itoa(s.Cuts)))
	require.NoError(t, err)
	dir, data := t.TempDir(), t.TempDir()
	l := lived{Setting: s, Points: points, IDs: map[string]string{}}
	for _, n := range []string{"a", "b"} {
		file := filepath.Join(data, n+".tar")
		require.NoError(t, box.WriteWith(t.Context(), "amd64", file, "box:"+n, map[string][]byte{"data/only-" + n: []byte(strings.Repeat(n, 100_000))}))
		l.IDs[imageID(t, file)] = n
	}
	require.NoError(t, os.WriteFile(dir+"/log", nil, 0o600))
	kernel := vm.FetchKernelT(t, "amd64", "6.1")
	a := vm.NewAppliance(t, vm.ApplianceOptions{
		Kernel: kernel, TOML: fmt.Sprintf(lifeConfig, s.FS), Btrfs: s.FS == "btrfs", Modules: []string{s.FS, "dm_thin_pool"},
		DataDir: data, DataMiB: s.MiB, WriteLog: dir + "/log", Shell: true, Tools: []string{"mkfs.ext4"},
	})
	require.NoError(t, drivertest.CopySparse(a.Data, dir+"/base"))
	host := registrytest.New(t, server.Access{}, nil)
	config, layers := pulled()
	host.Put(t, "c", "1", "application/vnd.oci.image.layer.v1.tar", config, layers...)
	l.IDs[digest.FromBytes(config).String()] = "c"
	_, port, _ := strings.Cut(host.Host(), ":")
	l.Registry = "10.0.2.2:" + port
	l.Acked = live(t, a, dir+"/log", s.start(), life(l.Registry))
	if s.Driver == "devmapper" {
		l.checkThere(t, dir, kernel)
		return
	}
	l.check(t, dir)
}

// checkThere checks in a machine: this one's kernel may have no device mapper.
func (l lived) checkThere(t *testing.T, dir string, kernel vm.Kernel) {
	raw, err := json.Marshal(l)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(dir+"/lived", raw, 0o600))
	disk := t.TempDir() + "/disk"
	require.NoError(t, mkimage.Ext4(t.Context(), disk, dir, "lived", 1024))
	vm.RunTestsOn(t, kernel, disk, time.Duration(l.Points)*4*time.Second, "./qemu-tests/power", "TestCutsInMachine")
}

// TestCutsInMachine is the part of TestCutsOfALife that runs in a machine.
func TestCutsInMachine(t *testing.T) {
	if os.Getenv("COBLE_VM") == "" {
		t.Skip("is a part of TestCutsOfALife")
	}
	dir := t.TempDir()
	require.NoError(t, unix.Mount("/dev/nvme1n1", dir, "ext4", unix.MS_RDONLY, ""))
	defer func() { require.NoError(t, unix.Unmount(dir, unix.MNT_DETACH)) }()
	raw, err := os.ReadFile(dir + "/lived")
	require.NoError(t, err)
	var l lived
	require.NoError(t, json.Unmarshal(raw, &l))
	l.check(t, dir)
}

// check looks at each cut, clean and torn.
func (l lived) check(t *testing.T, dir string) {
	log, err := cut.Open(dir + "/log")
	require.NoError(t, err)
	defer log.Close()
	t.Logf("%d requests; the operations were acknowledged at %v", len(log.Entries), l.Acked)
	out := t.TempDir() + "/out"
	want := states(life(l.Registry))
	for i, of := 0, l.Points/2; i < of; i++ {
		n := len(log.Entries) * (i + 1) / of
		done := 0
		for done < len(l.Acked) && l.Acked[done] <= n {
			done++
		}
		allowed := want[done:min(done+2, len(want))]
		for _, torn := range []bool{false, true} {
			what := fmt.Sprintf("clean cut behind request %d, operation %d acknowledged", n, done)
			if torn {
				what = "torn " + what[len("clean "):]
				require.NoError(t, log.Torn(dir+"/base", out, n, rand.New(rand.NewPCG(uint64(n), 3))))
			} else {
				require.NoError(t, log.Clean(dir+"/base", out, n))
			}
			if err := checkLife(t.Context(), out, l.Setting, l.IDs, allowed, done == 0); err != nil {
				t.Errorf("%s: %v", what, err)
				keep(t, out)
				return
			}
		}
	}
}

// keep keeps a bad disk for a look at it.
func keep(t *testing.T, disk string) {
	if dir := os.Getenv("COBLE_ARTIFACTS"); dir != "" {
		require.NoError(t, copyFile(disk, filepath.Join(dir, "cut.img")))
	}
}

// live boots the appliance, starts what the setting needs, does the operations, and returns how many requests the log had when each was acknowledged.
func live(t *testing.T, a *vm.Appliance, log, start string, ops []op) (acked []int) {
	ctx, v := a.Boot(t, 40*time.Second)
	_, err := v.WaitFor(ctx, `/# `)
	require.NoError(t, err)
	require.NoError(t, v.Send(start))
	for i, o := range ops {
		require.NoError(t, v.Send(fmt.Sprintf("%s && echo ack''ed %d || echo fai''led %d", o.command, i, i)))
		m, err := v.WaitFor(ctx, fmt.Sprintf(`(acked|failed) %d\r?\n`, i))
		require.NoError(t, err)
		require.Equal(t, "acked", m[1], o.command)
		acked = append(acked, entries(t, log))
	}
	require.NoError(t, v.Send("unset DOCKER_HOST; coble poweroff"))
	require.NoError(t, v.Wait(ctx))
	return acked
}

// checkLife looks at a disk as it was after a cut.
func checkLife(ctx context.Context, disk string, s setting, ids map[string]string, allowed []state, early bool) (err error) {
	mnt, err := os.MkdirTemp("", "coble-cut-")
	if err != nil {
		return err
	}
	defer os.Remove(mnt)
	if out, err := exec.Command("mount", "-t", s.FS, "-o", "loop", disk, mnt).CombinedOutput(); err != nil {
		return fmt.Errorf("mount: %s", out)
	}
	defer func() { err = errors.Join(err, unmount(mnt)) }()
	root := filepath.Join(mnt, s.root())
	if _, err := os.Stat(root); err != nil && early {
		return nil
	}
	run, err := os.MkdirTemp("", "coble-run-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(run)
	st, err := store.Open(root, run, catalog.Containers{})
	if err != nil {
		return err
	}
	defer st.Close()
	defer func() { err = errors.Join(err, repo.CleanUp(root)) }()
	r, err := repo.Open(repo.Options{Root: root, DB: st.Durable, Driver: s.Driver})
	if err != nil {
		return err
	}
	defer r.Close()
	found, err := r.Check(ctx, fsck.Options{})
	if err != nil {
		return err
	}
	if len(found) > 0 {
		return fmt.Errorf("damage: %+v", found)
	}
	got, err := held(r, st, filepath.Join(root, s.file()), ids)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(allowed, got.is) {
		return fmt.Errorf("it holds %+v, not one of %+v", got, allowed)
	}
	return nil
}

// unmount waits for what the kernel is still putting away: the loop devices below a pool.
func unmount(dir string) error {
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if err := unix.Unmount(dir, 0); err != unix.EBUSY || time.Now().After(end) {
			return err
		}
	}
}

func (s state) is(want state) bool {
	return maps.Equal(s.images, want.images) && s.dangling == want.dangling && s.containers == want.containers && s.written == want.written
}

// held is what the store holds. file is where what the container wrote lies.
func held(r *repo.Repo, st *store.Store, file string, ids map[string]string) (state, error) {
	s := state{images: map[string]string{}}
	list, err := r.List()
	if err != nil {
		return s, err
	}
	for _, img := range list {
		for _, tag := range img.RepoTags {
			s.images[tag] = cmp.Or(ids[img.ID.String()], "made")
		}
		if len(img.RepoTags) == 0 {
			s.dangling++
		}
	}
	specs, err := st.Containers()
	if err != nil {
		return s, err
	}
	for _, c := range specs {
		s.containers += c.Name
		if _, err := r.Mounts(c.ID, "/"); err != nil {
			return s, fmt.Errorf("container %s: %w", c.Name, err)
		}
		if v, err := r.Graph(c.Name); err != nil || v.About != "container:"+c.ID {
			return s, fmt.Errorf("container %s has lost its name: %w", c.Name, err)
		}
	}
	if s.containers == "" {
		return s, nil
	}
	if ms, err := r.Mounts(specs[0].ID, "/"); err == nil && ms[0].Volume != nil {
		mnt, err := ms[0].Volume.Mount()
		if err != nil {
			return s, err
		}
		defer mnt.Close()
		file = fmt.Sprintf("/proc/self/fd/%d/r/file", mnt.Fd())
	}
	if err := copied(filepath.Dir(file)); err != nil {
		return s, err
	}
	files, err := filepath.Glob(file)
	if err != nil || len(files) == 0 {
		return s, err
	}
	b, err := os.ReadFile(files[0])
	s.written = string(b)
	return s, err
}

// copied checks what a container's folder has of its image, where the driver copies that into it.
func copied(pattern string) error {
	roots, err := filepath.Glob(pattern)
	if err != nil || len(roots) != 1 || strings.HasSuffix(pattern, "/u") {
		return err
	}
	b, err := os.ReadFile(roots[0] + "/data/only-a")
	if err == nil && string(b) != strings.Repeat("a", 100_000) {
		err = fmt.Errorf("the container's copy of its image is damaged: /data/only-a has %d bytes", len(b))
	}
	return err
}

// imageID is the id of the image of a docker-archive of package box, which names its configuration after it.
func imageID(t *testing.T, file string) string {
	f, err := os.Open(file)
	require.NoError(t, err)
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		if hex, ok := strings.CutSuffix(h.Name, ".json"); ok && len(hex) == 64 {
			return "sha256:" + hex
		}
	}
	require.Fail(t, "no configuration in "+file)
	return ""
}

// pulled is an image of three layers.
func pulled() (config []byte, layers [][]byte) {
	var ids []string
	for i := range 3 {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for k := range 40 {
			data := bytes.Repeat([]byte{byte('a' + i)}, 1000*(k+1))
			_ = w.WriteHeader(&tar.Header{Name: fmt.Sprintf("l%d/f%d", i, k), Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(data))})
			_, _ = w.Write(data)
		}
		_ = w.Close()
		layers = append(layers, b.Bytes())
		ids = append(ids, fmt.Sprintf("%q", digest.FromBytes(b.Bytes())))
	}
	return fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[%s]}}`, strings.Join(ids, ",")), layers
}
