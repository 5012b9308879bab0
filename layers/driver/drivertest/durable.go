package drivertest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/archive"
	"github.com/coble-os/coble/layers/driver"
)

// FileSystem is a kind of file system on which it is tried what is durable.
type FileSystem struct {
	Name    string
	mkfs    []string // words to which the path of a file is added
	options string   // mount options, for the kernel to write nothing by itself for some minutes
	mib     int64
	again   string // mount options for a copy
}

// FileSystems are kinds that a power cut leaves whole. Each orders what it
// writes in a way of its own.
func FileSystems() []FileSystem {
	return []FileSystem{
		{"ext4", []string{"mkfs.ext4", "-q"}, "commit=600", 64, ""},
		{"ext4-writeback", []string{"mkfs.ext4", "-q"}, "commit=600,data=writeback,noauto_da_alloc,nodelalloc", 64, ""},
		{"ext4-without-extents", []string{"mkfs.ext4", "-q", "-O", "^extents,^64bit"}, "commit=600", 64, ""}, // as it was made by ext3: no fallocate(2)
		{"ext4-fast-commit", []string{"mkfs.ext4", "-q", "-O", "fast_commit"}, "commit=600", 64, ""},
		{"xfs", []string{"mkfs.xfs", "-q"}, "", 320, "nouuid"},
		{"btrfs", []string{"mkfs.btrfs", "-q", "--nodiscard"}, "commit=600", 150, ""},
	}
}

// Cuts is a disk, and copies of it as a power cut would have left it.
type Cuts struct {
	Dir    string // where the disk is mounted
	t      *testing.T
	fs     FileSystem
	file   string
	checks []cutCheck
}

type cutCheck struct {
	name, file string
	check      func(t *testing.T, dir string)
}

// Cuts makes a new disk.
func (fs FileSystem) Cuts(t *testing.T) *Cuts {
	t.Helper()
	c := &Cuts{Dir: Disk(t, fs.mib, fs.options, fs.mkfs...), t: t, fs: fs}
	mounts, err := os.ReadFile("/proc/self/mounts")
	require.NoError(t, err)
	for l := range strings.Lines(string(mounts)) {
		if f := strings.Fields(l); f[1] == c.Dir {
			name, err := os.ReadFile("/sys/block/" + filepath.Base(f[0]) + "/loop/backing_file")
			require.NoError(t, err)
			c.file = strings.TrimSpace(string(name))
		}
	}
	require.NotEmpty(t, c.file, mounts)
	return c
}

// Answered copies the disk as it is now, that is, with what the kernel has
// written to it. Check looks at the copy.
func (c *Cuts) Answered(name string, check func(t *testing.T, dir string)) {
	c.t.Helper()
	k := cutCheck{name, fmt.Sprint(c.file, len(c.checks)), check}
	require.NoError(c.t, CopySparse(c.file, k.file))
	c.checks = append(c.checks, k)
}

// CopySparse copies a file without its holes (lseek(2), SEEK_DATA), as a new
// inode if to is there.
func CopySparse(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	st, err := in.Stat()
	if err != nil {
		return err
	}
	if err := os.Remove(to); err != nil && !os.IsNotExist(err) {
		return err
	}
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	if err := out.Truncate(st.Size()); err != nil {
		return err
	}
	for at := int64(0); ; {
		data, err := unix.Seek(int(in.Fd()), at, unix.SEEK_DATA)
		if err == unix.ENXIO { // holes to the end
			return out.Close()
		}
		if err != nil {
			return err
		}
		if at, err = unix.Seek(int(in.Fd()), data, unix.SEEK_HOLE); err != nil {
			return err
		}
		if _, err := io.Copy(io.NewOffsetWriter(out, data), io.NewSectionReader(in, data, at-data)); err != nil {
			return err
		}
	}
}

// Check mounts the copies, one after the other, and has each looked at. The
// disk is unmounted first: a copy has its identity, and the kernel takes no
// two of one.
func (c *Cuts) Check() {
	c.t.Helper()
	require.Eventually(c.t, func() bool { return unix.Unmount(c.Dir, 0) == nil }, 20*time.Second, 20*time.Millisecond, "what is below a pool goes by itself")
	for _, k := range c.checks {
		c.t.Run(k.name, func(t *testing.T) {
			dir := t.TempDir()
			mount := func() ([]byte, error) {
				return exec.Command("mount", "-t", kindOf(c.fs.mkfs), "-o", strings.Trim("loop,"+c.fs.again, ","), k.file, dir).CombinedOutput()
			}
			out, err := mount()
			for end := time.Now().Add(20 * time.Second); bytes.Contains(bytes.ToLower(out), []byte(unix.EEXIST.Error())) && time.Now().Before(end); {
				time.Sleep(20 * time.Millisecond) // what was below a pool may be about to go
				require.NoError(t, forgetBtrfs())
				out, err = mount()
			}
			require.NoError(t, err, "%s", out)
			defer func() { require.NoError(t, unix.Unmount(dir, unix.MNT_DETACH)) }()
			k.check(t, dir)
		})
	}
	require.NoError(c.t, unix.Mount("none", c.Dir, "tmpfs", 0, "")) // Disk unmounts it
}

// forgetBtrfs has the kernel forget the unmounted btrfs that it has seen, of
// which Linux before 6.3 takes no older copy (BTRFS_IOC_FORGET_DEV).
func forgetBtrfs() error {
	f, err := os.OpenFile("/dev/btrfs-control", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var all [4096]byte // struct btrfs_ioctl_vol_args without a name
	const forgetDev = 0x50009405
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), forgetDev, uintptr(unsafe.Pointer(&all))); e != 0 {
		return e
	}
	return nil
}

// durable is a driver on a disk that is cut off again and again.
type durable struct {
	t    *testing.T
	d    driver.Driver
	c    *Cuts
	open Open
}

// Durable tries that what a driver has answered is on stable storage of a file
// system. more does and checks what only this driver can.
func Durable(t *testing.T, fs FileSystem, open Open, more func(c *Cuts, d driver.Driver)) {
	NeedRoot(t)
	b := &durable{t: t, c: fs.Cuts(t), open: open}
	var err error
	b.d, err = open(b.c.Dir + "/drv")
	require.NoError(t, err)
	body := strings.Repeat("0123456789abcdef", 1<<10)
	root := Entry{Name: "./", Mode: 0o751, Uid: 7}
	layer1 := Layer(t, root, Entry{Name: "d/f", Body: body})
	shown1 := []string{"d/", "d/f:" + body}
	layer2 := Layer(t, root, Entry{Name: "d/.wh.f"}, Entry{Name: "g", Body: body})

	b.unpack("1", nil, layer1, shown1...)
	b.create("t1", []string{"1"}, shown1...)
	b.unpack("2", []string{"1"}, layer2, "d/", "g:"+body)
	b.create("t2", []string{"2", "1"}, "d/", "g:"+body)
	b.create("t3", nil)
	if s, ok := b.d.(driver.Stager); ok {
		for _, id := range []string{"3", "4"} {
			_, err := s.Stage(context.Background(), id, bytes.NewReader(layer1), archive.Limits{})
			require.NoError(t, err)
		}
		require.NoError(t, s.Publish("3", "4"))
		b.answered("publish 3", "3", []string{"3"}, shown1...)
		b.answered("publish 4", "4", []string{"4"}, shown1...)
	}
	if m, ok := b.d.(driver.Mender); ok {
		more := Layer(t, Entry{Name: "d/f", Body: body[1:]})
		require.NoError(t, m.Mend(context.Background(), "1", bytes.NewReader(more), nil, archive.Limits{}))
		b.answered("mend 1", "1", []string{"1"}, "d/", "d/f:"+body[1:])
	}
	if more != nil {
		more(b.c, b.d)
	}
	closeDriver(t, b.d)
	b.c.Check()
}

// closeDriver closes a driver that has to be.
func closeDriver(t *testing.T, d driver.Driver) {
	if c, ok := d.(io.Closer); ok {
		require.NoError(t, c.Close())
	}
}

// Sized is the file system in another size, MiB.
func (fs FileSystem) Sized(mib int64) FileSystem {
	fs.mib = mib
	return fs
}

func (b *durable) unpack(id string, stack []string, raw []byte, want ...string) {
	b.t.Helper()
	_, err := b.d.Unpack(context.Background(), id, stack, bytes.NewReader(raw), archive.Limits{})
	require.NoError(b.t, err)
	b.answered("unpack "+id, id, append([]string{id}, stack...), want...)
}

// answered checks a layer through a new top.
func (b *durable) answered(name, id string, stack []string, want ...string) {
	b.c.Answered(name, func(t *testing.T, dir string) {
		d, err := b.open(dir + "/drv")
		require.NoError(t, err)
		defer closeDriver(t, d)
		require.True(t, d.Has(id))
		require.NoError(t, d.Create("look", stack, 0))
		topShows(t, d, "look", stack, want...)
	})
}

func (b *durable) create(id string, stack []string, want ...string) {
	b.t.Helper()
	require.NoError(b.t, b.d.Create(id, stack, 0))
	b.c.Answered("create "+id, func(t *testing.T, dir string) {
		d, err := b.open(dir + "/drv")
		require.NoError(t, err)
		defer closeDriver(t, d)
		topShows(t, d, id, stack, want...)
	})
}

// topShows compares a top's content, and owner and mode of its root, with what the layers of Durable have.
func topShows(t *testing.T, d driver.Driver, id string, stack []string, want ...string) {
	t.Helper()
	var got []string
	var st unix.Stat_t
	InTop(t, d, id, stack, func(root string) { got, _ = Tree(root), unix.Stat(root, &st) })
	sort.Strings(want)
	if len(want) == 0 {
		want = nil
	}
	require.Equal(t, want, got)
	if len(stack) > 0 {
		require.Equal(t, []uint32{0o751, 7}, []uint32{st.Mode & 0o7777, st.Uid}, "mode and owner of the root")
	}
}
