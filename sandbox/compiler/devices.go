package compiler

import (
	"fmt"
	"path"
	"strings"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox/mountopt"
	"github.com/coble-os/coble/sandbox/plan"
)

// nullDevice opens the host's /dev/null and makes sure that it is the null device, before anything of the
// container's can be in its place. What is masked is masked with it.
func (b *builder) nullDevice(in *Input) error {
	if len(in.Spec.Linux.MaskedPaths) == 0 {
		return nil
	}
	fd := b.slot("null")
	b.about("open /dev/null")
	b.call("openat", cwd(), str("/dev/null"), flags(unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, plan.OpenBits), num(0)).to(fd)
	b.about("check that /dev/null is the null device")
	b.isDevice(fd, unix.S_IFCHR, 1, 3)
	return nil
}

// isDevice checks that a descriptor is a device of this kind with these numbers.
func (b *builder) isDevice(fd plan.Slot, kind, major, minor uint32) {
	var st unix.Statx_t
	at := func(p unsafe.Pointer) int { return int(uintptr(p) - uintptr(unsafe.Pointer(&st))) }
	buf := mem(make([]byte, unsafe.Sizeof(st)), fmt.Sprintf("<%s %d:%d>", map[uint32]string{unix.S_IFCHR: "char", unix.S_IFBLK: "block"}[kind], major, minor))
	b.call("statx", value(fd), str(""), named(unix.AT_EMPTY_PATH, "AT_EMPTY_PATH"),
		named(unix.STATX_TYPE, "STATX_TYPE"), buf).check(
		field(4, at(unsafe.Pointer(&st.Mode)), 2, unix.S_IFMT, kind),
		field(4, at(unsafe.Pointer(&st.Rdev_major)), 4, 0xffffffff, major),
		field(4, at(unsafe.Pointer(&st.Rdev_minor)), 4, 0xffffffff, minor))
}

// hostDev tells whether /dev comes from a bind mount, which is then left alone.
func hostDev(s *specs.Spec) bool {
	for _, m := range s.Mounts {
		if path.Clean(m.Destination) != "/dev" {
			continue
		}
		if o, err := mountopt.Parse(m.Options); err == nil && (o.Bind || m.Type == "bind") {
			return true
		}
	}
	return false
}

// id is a user or group number, -1 (no change) if there is none.
func id(v *uint32) plan.Arg {
	if v == nil {
		return num(-1)
	}
	return named(uint64(*v), fmt.Sprint(*v))
}

// readonlyPaths remounts parts of the tree read-only, each on itself; those that do not exist are left out.
func (b *builder) readonlyPaths(in *Input) error {
	for _, p := range in.Spec.Linux.ReadonlyPaths {
		b.about("make %s read-only", p)
		t, tree := b.slot("target"), b.slot("tree")
		at := b.next()
		b.openat2(b.slot("root"), relative(p), unix.O_PATH|unix.O_CLOEXEC, inRoot, 0).to(t).ignore(unix.ENOENT)
		b.call("open_tree", value(t), str(""), named(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|recursive,
			"OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC|AT_EMPTY_PATH|AT_RECURSIVE")).to(tree)
		o := mountopt.Options{RecSet: unix.MOUNT_ATTR_RDONLY}
		if !in.Facts.MountSetattr {
			// A remount replaces all flags. What the default paths lie on has these three.
			o = mountopt.Options{Set: unix.MS_RDONLY}
			if strings.HasPrefix(p, "/proc/") || strings.HasPrefix(p, "/sys/") {
				o.Set |= unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
			}
		}
		if err := b.attach(in, tree, t, o); err != nil {
			return err
		}
		b.skipOn(at)
	}
	return nil
}

// maskedPaths covers files with the null device and folders with an empty read-only tmpfs; those that do not exist
// are left out. Then it looks, by the path, whether that is what is there now. Folders are told apart first: a mount
// of the null device on one fails only after the kernel has waited for all readers of the mounts.
func (b *builder) maskedPaths(in *Input) error {
	for _, p := range in.Spec.Linux.MaskedPaths {
		b.about("mask %s", p)
		t, seen := b.slot("target"), b.slot("seen")
		dir := b.next()
		b.openat2(b.slot("root"), relative(p), openPath|unix.O_DIRECTORY, inRoot, 0).to(t).ignore(unix.ENOTDIR, unix.ENOENT)
		file := b.next()
		b.openat2(b.slot("root"), relative(p), openPath, inRoot, 0).to(t).ignore(unix.ENOENT)
		b.mount("", fdPath(t), "", unix.MS_BIND, "")
		b.p.Calls[b.next()-1].Args[0] = fdPath(b.slot("null"))
		b.openat2(b.slot("root"), relative(p), openPath, inRoot, 0).to(seen)
		b.isDevice(seen, unix.S_IFCHR, 1, 3)
		done := b.next()
		b.close(seen)
		b.skipOK(dir)
		b.mount("tmpfs", fdPath(t), "tmpfs", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "nr_blocks=1,nr_inodes=2")
		b.openat2(b.slot("root"), relative(p), openPath, inRoot, 0).to(seen)
		b.isMountRoot(seen)
		b.close(seen)
		b.skipOK(done)
		b.close(t)
		b.skipOn(file)
	}
	return nil
}

// isMountRoot checks that a descriptor is of the root of a mount (statx(2), Linux 5.8).
func (b *builder) isMountRoot(fd plan.Slot) {
	var st unix.Statx_t
	off := int(uintptr(unsafe.Pointer(&st.Attributes)) - uintptr(unsafe.Pointer(&st)))
	b.call("statx", value(fd), str(""), named(unix.AT_EMPTY_PATH, "AT_EMPTY_PATH"), num(0),
		mem(make([]byte, unsafe.Sizeof(st)), "<root of a mount>")).
		check(field(4, off, 4, unix.STATX_ATTR_MOUNT_ROOT, unix.STATX_ATTR_MOUNT_ROOT))
}
