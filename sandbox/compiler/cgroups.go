package compiler

import (
	"fmt"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox/mountopt"
	"github.com/coble-os/coble/sandbox/plan"
)

// cgroupMount shows the container its own control groups, read-only unless the spec says otherwise.
func (b *builder) cgroupMount(in *Input, i int, m specs.Mount, o mountopt.Options) error {
	if o.Data != "" {
		return fmt.Errorf("unknown option %q for a cgroup mount", o.Data)
	}
	if in.Facts.Cgroup.Unified {
		return b.cgroupMount2(in, i, m, o)
	}
	b.about("mount tmpfs on %s", m.Destination)
	t, dir := b.slot("target"), m.Destination
	b.folder(b.slot("root"), dir, t, unix.RESOLVE_NO_SYMLINKS)
	b.mount("cgroup", fdPath(t), "tmpfs", o.Set&^unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=755")
	b.close(t)
	groups := b.slot("groups")
	b.openat2(b.slot("root"), relative(dir), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, inRoot, 0).to(groups)
	for k, h := range in.Facts.Cgroup.Hierarchies {
		if err := b.hierarchy(in, h, groups, o, fmt.Sprintf("%s.%d", sourceName(i), k)); err != nil {
			return err
		}
	}
	if o.Set&unix.MS_RDONLY != 0 {
		b.about("make %s read-only", dir)
		const again = unix.MS_REMOUNT | unix.MS_BIND | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_RDONLY
		b.mount("", fdPath(groups), "", again, "")
	}
	if o.Propagation != 0 {
		b.about("make %s %s", dir, plan.MountBits.Text(o.Propagation))
		b.mount("", fdPath(groups), "", o.Propagation, "")
	}
	b.close(groups)
	return nil
}

// cgroupMount2 mounts cgroup v2. Without a cgroup namespace the container sees its own group only, by a bind mount: a
// whole hierarchy would show, and perhaps let it write to, the groups of others.
func (b *builder) cgroupMount2(in *Input, i int, m specs.Mount, o mountopt.Options) error {
	m.Type, m.Source = "cgroup2", "cgroup"
	if in.has(specs.CgroupNamespace) && in.newCgroupNS() || in.Facts.Cgroup.Own == "" {
		return b.newMount(in, m, o)
	}
	b.about("bind cgroup %s on %s", in.Facts.Cgroup.Own, m.Destination)
	t := b.slot("target")
	b.folder(b.slot("root"), m.Destination, t, unix.RESOLVE_NO_SYMLINKS)
	if tree, ok := b.early(sourceName(i) + ".0"); ok {
		return b.place(tree, t, mountopt.Options{Set: o.Set, Propagation: o.Propagation}, !in.Facts.MountSetattr)
	}
	tree := b.slot("tree")
	b.openTree(str(in.Facts.Cgroup.Own), 0, tree)
	return b.attach(in, tree, t, mountopt.Options{Set: o.Set, Propagation: o.Propagation})
}

// hierarchy mounts one v1 hierarchy in a new folder of groups, and links its controllers' names to it if it has several.
func (b *builder) hierarchy(in *Input, h Hierarchy, groups plan.Slot, o mountopt.Options, source string) error {
	name := filepath.Base(h.Mount)
	b.about("mount cgroup %s", name)
	t := b.slot("target")
	b.call("mkdirat", value(groups), str(name), octal(0o755))
	b.openat2(groups, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, inRoot, 0).to(t)
	if err := b.mountHierarchy(in, h, t, o, source); err != nil {
		return err
	}
	for _, c := range h.Controllers {
		if c != name {
			b.call("symlinkat", str(name), value(groups), str(c)).ignore(unix.EEXIST)
		}
	}
	return nil
}

func (b *builder) mountHierarchy(in *Input, h Hierarchy, t plan.Slot, o mountopt.Options, source string) error {
	if in.newCgroupNS() {
		b.mount("cgroup", fdPath(t), "cgroup", o.Set, strings.Join(h.Controllers, ","))
		b.close(t)
		return nil
	}
	if tree, ok := b.early(source); ok {
		return b.place(tree, t, mountopt.Options{Set: o.Set}, !in.Facts.MountSetattr)
	}
	tree := b.slot("tree")
	b.openTree(str(filepath.Join(h.Mount, h.Path)), 0, tree)
	return b.attach(in, tree, t, mountopt.Options{Set: o.Set})
}
