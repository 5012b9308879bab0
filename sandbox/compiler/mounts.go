package compiler

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox/mountopt"
	"github.com/coble-os/coble/sandbox/plan"
	"github.com/coble-os/coble/sandbox/spec"
)

// Mount is one mount(2), made as it stands.
type Mount struct {
	Type, Source string
	Flags        uintptr
	Data         string
	// Dir, if set, is the folder to be in when mounting, because Data has paths relative to it: an overlay of many
	// layers has more absolute paths than fit into a page. The root must be absolute then.
	Dir string
	// Target is the absolute path of the folder to mount on, outside the root: what a later mount on the root needs. It
	// goes with the old root. "" is the root.
	Target string
	// Tree, if set, names the plan's input that is a mount attached nowhere (fsmount(2), open_tree(2)): it is moved to the
	// target, and the rest is only told. A block device can't be mounted from inside, where its cgroup keeps it shut.
	Tree string
}

const recursive = unix.AT_RECURSIVE | unix.AT_EMPTY_PATH

// mountAttrSize is the size in bytes of struct mount_attr, first version (mount_setattr(2)).
const mountAttrSize = 32

// rootfs makes the root: propagation, the mounts on it, and a descriptor of it in the slot root.
func (b *builder) rootfs(in *Input) error {
	prop, err := spec.RootPropagation(in.Spec)
	if err != nil {
		return err
	}
	if prop&unix.MS_UNBINDABLE != 0 {
		prop = unix.MS_PRIVATE // what is bound on the way must be bindable
	}
	prop |= unix.MS_REC
	b.about("make mounts %s", plan.MountBits.Text(prop))
	b.mount("", str("/"), "", prop, "")
	if in.Facts.BareRoot {
		b.liftRoot()
	}
	if src, ok := b.early("source.root"); ok {
		b.coverRoot(src)
		return nil
	}
	if prop&unix.MS_SHARED != 0 {
		for _, m := range in.RootMounts {
			if m.Target != "" {
				b.privateParent(m.Target)
			}
		}
		b.privateParent(in.Root)
	}
	if in.MapRoot {
		return errors.New("an id-mapped root needs a user namespace")
	}
	b.rootMounts(in)
	if len(in.RootMounts) == 0 {
		b.about("bind root %s", in.Root)
		b.mount(in.Root, str(in.Root), "", unix.MS_BIND|unix.MS_REC, "")
	}
	b.openRoot(in)
	return nil
}

// privateParent makes the mount that holds the root private, wherever between / and root it is mounted: pivot_root(2)
// refuses a shared one, and nothing that is mounted in the root may show on the machine. Folders that are no mount
// point answer EINVAL.
func (b *builder) privateParent(root string) {
	b.about("make the mount that holds %s private", root)
	var at []int
	for dir := root; ; dir = filepath.Dir(dir) {
		at = append(at, b.next())
		c := b.mount("", str(dir), "", unix.MS_PRIVATE, "")
		if dir == "/" {
			break
		}
		c.ignore(unix.EINVAL)
	}
	for _, i := range at {
		b.skipOK(i)
	}
}

func (b *builder) rootMounts(in *Input) {
	for _, m := range in.RootMounts {
		if m.Dir != "" {
			b.about("change to %s", m.Dir)
			b.call("chdir", str(m.Dir))
		}
		target := in.Root
		if m.Target != "" {
			target = m.Target
		}
		if m.Tree != "" {
			b.about("mount %s of %s on %s", m.Type, m.Source, target)
			tree := b.input(m.Tree)
			b.call("move_mount", value(tree), str(""), cwd(), str(target), named(unix.MOVE_MOUNT_F_EMPTY_PATH, "MOVE_MOUNT_F_EMPTY_PATH"))
			b.close(tree)
			continue
		}
		b.about("mount %s on %s", m.Type, target)
		if m.Target == "" {
			b.about("mount %s on root %s", m.Type, in.Root)
		}
		b.mount(m.Source, str(target), m.Type, uint64(m.Flags), m.Data)
	}
}

// openRoot leaves the topmost mount on the root's path in the slot root.
func (b *builder) openRoot(in *Input) {
	b.about("open root %s", in.Root)
	const oflags = unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC
	b.call("openat", cwd(), str(in.Root), flags(oflags, plan.OpenBits), num(0)).to(b.slot("root"))
}

// coverRoot attaches the root over the old one, where no path leads through folders that the container's root may not
// enter. Absolute paths still start at the old one.
func (b *builder) coverRoot(src plan.Slot) {
	b.about("attach root")
	top := b.slot("target")
	const oflags = unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC
	b.call("openat", cwd(), str("/"), flags(oflags, plan.OpenBits), num(0)).to(top)
	b.moveMount(src, top)
	b.close(top)
	b.call("openat", value(src), str("."), flags(oflags, plan.OpenBits), num(0)).to(b.slot("root"))
	b.close(src)
}

// liftRoot mounts a copy of the tree of mounts on the root and goes into it, so that the root is a mount which has a
// parent and pivot_root can take it away.
func (b *builder) liftRoot() {
	b.about("mount the root once more, on itself")
	tree, top := b.slot("tree"), b.slot("target")
	b.call("open_tree", cwd(), str("/"), named(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE,
		"OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC|AT_RECURSIVE")).to(tree)
	const oflags = unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC
	b.call("openat", cwd(), str("/"), flags(oflags, plan.OpenBits), num(0)).to(top)
	b.moveMount(tree, top)
	b.call("fchdir", value(tree))
	b.call("chroot", str("."))
	b.close(tree)
	b.close(top)
}

// mounts makes the spec's mounts.
func (b *builder) mounts(in *Input) error { return eachMount(in, b.oneMount) }

// eachMount does it to the spec's mounts in their order.
func eachMount(in *Input, do func(in *Input, i int, m specs.Mount, o mountopt.Options) error) error {
	for i, m := range in.Spec.Mounts {
		o, err := mountopt.Parse(m.Options)
		if err == nil {
			err = do(in, i, m, o)
		}
		if err != nil {
			return fmt.Errorf("mounts[%d] (%s): %w", i, m.Destination, err)
		}
	}
	return nil
}

func (b *builder) oneMount(in *Input, i int, m specs.Mount, o mountopt.Options) error {
	bind := o.Bind || m.Type == "bind"
	switch {
	case !filepath.IsAbs(m.Destination):
		return errors.New("destination is not absolute")
	case !bind && (len(m.UIDMappings) > 0 || len(m.GIDMappings) > 0 || o.IDMap):
		return errors.New("id mappings are for bind mounts")
	case o.CopyUp && m.Type != "tmpfs":
		return errors.New("option tmpcopyup is for tmpfs")
	case o.RecSet|o.RecClear != 0 && !in.Facts.MountSetattr:
		return errors.New("recursive attributes need Linux 5.12")
	}
	if err := checkProc(m, bind); err != nil {
		return err
	}
	switch {
	case bind:
		o.Bind = true
		return b.bindMount(in, i, m, o)
	case m.Type == "":
		return errors.New("no type")
	case m.Type == "cgroup" || m.Type == "cgroup2":
		return b.cgroupMount(in, i, m, o)
	case o.CopyUp:
		return b.copyUpMount(in, m, o)
	}
	if tree, ok := b.early(sourceName(i)); ok {
		b.about("mount %s on %s", m.Type, m.Destination)
		t := b.slot("target")
		b.folder(b.slot("root"), m.Destination, t, noLinks(m.Type))
		b.place(tree, t, mountopt.Options{Propagation: o.Propagation}, false)
		return b.onRoot(in, m)
	}
	if err := b.newMount(in, m, o); err != nil {
		return err
	}
	return b.onRoot(in, m)
}

// onRoot goes on in a mount that covers the root.
func (b *builder) onRoot(in *Input, m specs.Mount) error {
	if relative(m.Destination) != "." {
		return nil
	}
	if in.inUserNS() {
		return errors.New("a mount over the root is not supported with a user namespace")
	}
	b.close(b.slot("root"))
	b.openRoot(in)
	return nil
}

// checkProc keeps mounts off procfs, but for files that say how large the machine is: what runs in the container, and
// what it is told about itself, must be the kernel's own (CVE-2019-16884).
func checkProc(m specs.Mount, bind bool) error {
	rel := relative(m.Destination)
	switch {
	case rel != "proc" && !strings.HasPrefix(rel, "proc/"):
		return nil
	case rel == "proc" && !bind && (m.Type == "proc" || m.Type == ""):
		return nil
	case rel == "proc" && bind && filepath.Clean(m.Source) == "/proc":
		return nil
	case rel == "proc":
		return errors.New("only procfs may be mounted on /proc")
	}
	switch rel {
	case "proc/cpuinfo", "proc/diskstats", "proc/meminfo", "proc/stat", "proc/swaps", "proc/uptime", "proc/loadavg",
		"proc/slabinfo", "proc/net/dev", "proc/sys/kernel/ns_last_pid", "proc/sys/crypto/fips_enabled":
		return nil
	}
	return errors.New("nothing may be mounted inside /proc but files that describe the machine")
}

// noLinks are the RESOLVE flags for the target of a file system: the kernel's own ones are never mounted through a
// symbolic link, since what is read and written there later must be they.
func noLinks(fstype string) uint64 {
	if fstype == "proc" || fstype == "sysfs" {
		return unix.RESOLVE_NO_SYMLINKS
	}
	return 0
}

// newMount mounts a file system.
func (b *builder) newMount(in *Input, m specs.Mount, o mountopt.Options) error {
	b.about("mount %s on %s", m.Type, m.Destination)
	t := b.slot("target")
	b.folder(b.slot("root"), m.Destination, t, noLinks(m.Type))
	b.mount(m.Source, fdPath(t), m.Type, o.Set, mountData(in.Spec, m.Type, o.Data))
	b.close(t)
	if o.Propagation == 0 && o.RecSet|o.RecClear == 0 {
		return nil
	}
	b.openat2(b.slot("root"), relative(m.Destination), openPath, inRoot, 0).to(t)
	if o.RecSet|o.RecClear != 0 {
		b.setattr(t, recursive, o.RecSet, o.RecClear)
	}
	if o.Propagation != 0 {
		b.about("make %s %s", m.Destination, plan.MountBits.Text(o.Propagation))
		b.mount("", fdPath(t), "", o.Propagation, "")
	}
	b.close(t)
	return nil
}

// copyUpMount mounts a tmpfs that holds what it covers.
func (b *builder) copyUpMount(in *Input, m specs.Mount, o mountopt.Options) error {
	b.about("mount tmpfs on %s", m.Destination)
	t, tree := b.slot("target"), b.slot("tree")
	b.folder(b.slot("root"), m.Destination, t, 0)
	late := o.Set & unix.MS_RDONLY // the copy must be written first
	o.Set &^= unix.MS_RDONLY
	o.Data = mountData(in.Spec, m.Type, o.Data)
	if err := b.newTree(m, o, tree); err != nil {
		return err
	}
	b.copyUp(tree, t, m.Destination)
	if late != 0 && in.Facts.MountSetattr {
		b.setattr(tree, unix.AT_EMPTY_PATH, unix.MOUNT_ATTR_RDONLY, 0)
		late = 0
	}
	return b.place(tree, t, mountopt.Options{Set: o.Set | late, Propagation: o.Propagation}, late != 0)
}

// bindSource returns the absolute path of a bind source and whether it is a folder.
func bindSource(in *Input, m specs.Mount) (src string, dir bool, err error) {
	src = m.Source
	if !filepath.IsAbs(src) {
		src = filepath.Join(in.Bundle, src)
	}
	dir, known := in.Facts.Dirs[src]
	if !known {
		return src, false, fmt.Errorf("source %s: %w", src, unix.ENOENT)
	}
	return src, dir, nil
}

// boundOption returns the first option that means nothing to a bind mount. Those of a tmpfs do: they were given when
// what is bound was mounted, and mount(2) ignores them, as do other runtimes, whose callers add them to all mounts.
func boundOption(data string) string {
	for opt := range strings.SplitSeq(data, ",") {
		switch name, _, _ := strings.Cut(opt, "="); name {
		case "", "mode", "size", "uid", "gid", "nr_blocks", "nr_inodes":
		default:
			return opt
		}
	}
	return ""
}

// bindMount mounts a file or folder of the host. The copy of the source is made ready before it is attached, where
// the kernel can (5.12), and only then attached to a target that was resolved once.
func (b *builder) bindMount(in *Input, i int, m specs.Mount, o mountopt.Options) error {
	if opt := boundOption(o.Data); opt != "" {
		return fmt.Errorf("unknown option %q for a bind mount", opt)
	}
	src, dir, err := bindSource(in, m)
	if err != nil {
		return err
	}
	b.about("bind %s on %s", src, m.Destination)
	t := b.slot("target")
	tree, ok := b.early(sourceName(i))
	if !ok {
		tree = b.slot("tree")
		if err := b.tree(in, src, m, o, tree); err != nil {
			return err
		}
		b.about("bind %s on %s", src, m.Destination)
	}
	if dir {
		b.folder(b.slot("root"), m.Destination, t, 0)
	} else {
		b.file(b.slot("root"), m.Destination, t, 0)
	}
	remount := !in.Facts.MountSetattr && o.Set|o.Clear != 0
	if remount {
		o.Set |= in.Facts.SourceFlags[src] &^ o.Clear
	}
	if err := b.place(tree, t, o, remount); err != nil {
		return err
	}
	return b.onRoot(in, m)
}

// attach gives the detached mount in tree its flags and moves it onto the descriptor in target; both are closed.
func (b *builder) attach(in *Input, tree, target plan.Slot, o mountopt.Options) error {
	if err := b.ready(in, tree, o); err != nil {
		return err
	}
	return b.place(tree, target, o, !in.Facts.MountSetattr && o.Set|o.Clear != 0)
}

// ready gives a detached mount its flags, where the kernel can (5.12).
func (b *builder) ready(in *Input, tree plan.Slot, o mountopt.Options) error {
	set, known := mountopt.Attrs(o.Set)
	clear, known2 := mountopt.Attrs(o.Clear)
	if !known || !known2 {
		return fmt.Errorf("flags %s cannot be set on a bind mount", plan.MountBits.Text(o.Set|o.Clear))
	}
	if in.Facts.MountSetattr {
		b.setattr(tree, unix.AT_EMPTY_PATH, set, clear)
		b.setattr(tree, recursive, o.RecSet, o.RecClear)
	}
	return nil
}

// place attaches the mount in tree to target, and closes both. A remount sets all flags of the mount again.
func (b *builder) place(tree, target plan.Slot, o mountopt.Options, remount bool) error {
	b.moveMount(tree, target)
	if remount {
		b.mount("", fdPath(tree), "", unix.MS_REMOUNT|unix.MS_BIND|o.Set, "")
	}
	if o.Propagation != 0 {
		b.mount("", fdPath(tree), "", o.Propagation, "")
	}
	b.close(tree)
	b.close(target)
	return nil
}

func (b *builder) moveMount(tree, target plan.Slot) {
	const move = unix.MOVE_MOUNT_F_EMPTY_PATH | unix.MOVE_MOUNT_T_EMPTY_PATH
	b.call("move_mount", value(tree), str(""), value(target), str(""),
		named(move, "MOVE_MOUNT_F_EMPTY_PATH|MOVE_MOUNT_T_EMPTY_PATH"))
}

// setattr is mount_setattr(2); nothing if there is nothing to set. A change of access times clears them all first.
func (b *builder) setattr(tree plan.Slot, at int, set, clear uint64) {
	if set|clear == 0 {
		return
	}
	if set&unix.MOUNT_ATTR__ATIME != 0 || clear&unix.MOUNT_ATTR__ATIME != 0 {
		clear |= unix.MOUNT_ATTR__ATIME
	}
	clear &^= set &^ unix.MOUNT_ATTR__ATIME
	text := "AT_EMPTY_PATH"
	if at&unix.AT_RECURSIVE != 0 {
		text += "|AT_RECURSIVE"
	}
	attr := mem(u64(set, clear, 0, 0), "{set "+plan.AttrBits.Text(set)+", clear "+plan.AttrBits.Text(clear)+"}")
	b.call("mount_setattr", value(tree), str(""), named(uint64(at), text), attr, num(mountAttrSize))
}
