package compiler

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox/mountopt"
	"github.com/coble-os/coble/sandbox/plan"
	"github.com/coble-os/coble/sandbox/spec"
)

// From inside a user namespace much of the machine can be neither reached nor mounted: bind sources in folders that
// only root may enter, the root file system, and procfs, sysfs and the like of namespaces that are not the user
// namespace's own. Such sources are opened early, by one who is root of the machine and sees a copy of its mounts:
// for a new user namespace a child of its own (Plan.Prepare), which sends their descriptors; for one that is joined
// the container's child itself, before it goes in.

// prepare makes the plan of the child that opens sources, where one is needed.
func (b *builder) prepare(in *Input) error {
	if !in.makes(specs.UserNamespace) || !in.makes(specs.MountNamespace) {
		return nil
	}
	pb := newBuilder()
	pb.p.CloneFlags, pb.p.PidNS, pb.p.Enter = unix.CLONE_NEWNS, b.p.PidNS, b.p.Enter
	if err := pb.sources(in); err != nil {
		return err
	}
	sock := pb.input("sources")
	for _, name := range pb.opened {
		pb.about("send %s to the parent", name)
		pb.call("sendmsg", value(sock), pb.rights(pb.slot(name)), num(0)).want(1)
		b.input(name)
	}
	pb.exit()
	pb.p.Sends = pb.opened
	b.p.Prepare, b.opened = pb.p, pb.opened
	return nil
}

// early returns the slot of a source that was opened early.
func (b *builder) early(name string) (plan.Slot, bool) {
	if !slices.Contains(b.opened, name) {
		return 0, false
	}
	return b.slot(name), true
}

// open names a slot of a source.
func (b *builder) open(name string) plan.Slot {
	b.opened = append(b.opened, name)
	return b.slot(name)
}

func sourceName(i int) string { return fmt.Sprintf("source.%d", i) }

// sources opens the root and all that oneMount will look for with early.
func (b *builder) sources(in *Input) error {
	b.about("make mounts %s", plan.MountBits.Text(unix.MS_SLAVE|unix.MS_REC))
	b.mount("", str("/"), "", unix.MS_SLAVE|unix.MS_REC, "")
	if err := b.rootSource(in); err != nil {
		return err
	}
	return eachMount(in, b.source)
}

func (b *builder) rootSource(in *Input) error {
	b.rootMounts(in)
	root := b.open("source.root")
	b.about("open root %s", in.Root)
	b.openTree(str(in.Root), unix.AT_RECURSIVE, root)
	if !in.MapRoot {
		return nil
	}
	b.about("id-map root %s", in.Root)
	return b.idmap(in, root, in.Spec.Linux.UIDMappings, in.Spec.Linux.GIDMappings, false)
}

func (b *builder) source(in *Input, i int, m specs.Mount, o mountopt.Options) error {
	switch {
	case o.Bind || m.Type == "bind":
		src, _, err := bindSource(in, m)
		if err != nil {
			return err
		}
		b.about("open %s for %s", src, m.Destination)
		return b.tree(in, src, m, o, b.open(sourceName(i)))
	case m.Type == "cgroup" || m.Type == "cgroup2":
		return b.cgroupSources(in, i, o)
	case foreign(in, m.Type):
		b.about("make %s for %s", m.Type, m.Destination)
		return b.newTree(m, o, b.open(sourceName(i)))
	}
	return nil
}

// foreign tells whether a file system shows a namespace that the container's user namespace does not own: its root may
// not mount it (fsopen(2), EPERM).
func foreign(in *Input, fstype string) bool {
	t := map[string]specs.LinuxNamespaceType{
		"proc": specs.PIDNamespace, "sysfs": specs.NetworkNamespace, "mqueue": specs.IPCNamespace,
	}[fstype]
	switch {
	case t == "" || !in.inUserNS():
		return false
	case t == specs.PIDNamespace && in.joins(specs.UserNamespace):
		return true
	}
	return !in.makes(t)
}

// cgroupSources opens the container's own groups, where it has no cgroup namespace to see them in.
func (b *builder) cgroupSources(in *Input, i int, o mountopt.Options) error {
	if in.newCgroupNS() {
		return nil
	}
	for k, dir := range in.Facts.Cgroup.dirs() {
		b.about("open cgroup %s", dir)
		tree := b.open(fmt.Sprintf("%s.%d", sourceName(i), k))
		b.openTree(str(dir), 0, tree)
		if err := b.ready(in, tree, mountopt.Options{Set: o.Set}); err != nil {
			return err
		}
	}
	return nil
}

// dirs lists the folders of the container's groups, in the order of Hierarchies.
func (c Cgroup) dirs() []string {
	if c.Unified {
		return []string{c.Own}
	}
	var out []string
	for _, h := range c.Hierarchies {
		out = append(out, filepath.Join(h.Mount, h.Path))
	}
	return out
}

// openTree leaves a copy of the mount at a path, attached nowhere, in the slot.
func (b *builder) openTree(path plan.Arg, more uint64, to plan.Slot) {
	text := "OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC"
	if more&unix.AT_RECURSIVE != 0 {
		text += "|AT_RECURSIVE"
	}
	b.call("open_tree", cwd(), path, named(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|more, text)).to(to)
}

// tree opens a bind source and gives the copy its attributes, where the kernel can do that before it is attached.
func (b *builder) tree(in *Input, src string, m specs.Mount, o mountopt.Options, to plan.Slot) error {
	more := uint64(0)
	if o.Recursive {
		more = unix.AT_RECURSIVE
	}
	b.openTree(str(src), more, to)
	if err := b.ready(in, to, o); err != nil {
		return err
	}
	uids, gids, err := idMaps(in, m, o)
	if err != nil || uids == nil {
		return err
	}
	b.about("id-map %s", m.Destination)
	return b.idmap(in, to, uids, gids, o.IDMapRec)
}

// idMaps returns the mappings of an id-mapped mount, nil for others. Without any of its own the container's count.
func idMaps(in *Input, m specs.Mount, o mountopt.Options) (uids, gids []specs.LinuxIDMapping, err error) {
	uids, gids = m.UIDMappings, m.GIDMappings
	switch {
	case len(uids) == 0 && len(gids) == 0 && !o.IDMap:
		return nil, nil, nil
	case len(uids) == 0 && len(gids) == 0:
		uids, gids = in.Spec.Linux.UIDMappings, in.Spec.Linux.GIDMappings
	}
	if len(uids) == 0 || len(gids) == 0 {
		return nil, nil, errors.New("an id-mapped mount needs uidMappings and gidMappings, or those of a user namespace")
	}
	return uids, gids, nil
}

// idmap changes who owns the files of a mount that is attached nowhere yet (mount_setattr(2), MOUNT_ATTR_IDMAP).
func (b *builder) idmap(in *Input, tree plan.Slot, uids, gids []specs.LinuxIDMapping, rec bool) error {
	if !in.Facts.MountSetattr {
		return errors.New("an id-mapped mount needs Linux 5.12")
	}
	at, text := unix.AT_EMPTY_PATH, "AT_EMPTY_PATH"
	if rec {
		at, text = recursive, text+"|AT_RECURSIVE"
	}
	who := b.userNS(plan.Maps{UID: spec.MapText(uids), GID: spec.MapText(gids)})
	attr := mem(u64(unix.MOUNT_ATTR_IDMAP, 0, 0, 0), "{set MOUNT_ATTR_IDMAP, userns $"+b.p.Slots[who]+"}")
	attr.Fixes = []plan.Fix{{Off: 24, Slot: who}}
	b.call("mount_setattr", value(tree), str(""), named(uint64(at), text), attr, num(mountAttrSize))
	return nil
}

// userNS returns the input for a user namespace with these maps.
func (b *builder) userNS(m plan.Maps) plan.Slot {
	for _, u := range b.p.UserNS {
		if u.Maps == m {
			return b.slot(u.Input)
		}
	}
	u := plan.UserNS{Input: fmt.Sprintf("userns.%d", len(b.p.UserNS)), Maps: m}
	b.p.UserNS = append(b.p.UserNS, u)
	return b.input(u.Input)
}

// newTree makes a file system that is attached nowhere (fsopen(2)). Options of the file system are its parameters.
func (b *builder) newTree(m specs.Mount, o mountopt.Options, to plan.Slot) error {
	a, known := mountopt.Attrs(o.Set)
	if !known {
		return fmt.Errorf("flags %s cannot be set on a mount of this kind", plan.MountBits.Text(o.Set))
	}
	fs := b.slot("fs")
	b.call("fsopen", str(m.Type), named(unix.FSOPEN_CLOEXEC, "FSOPEN_CLOEXEC")).to(fs)
	for _, p := range append([]string{"source=" + m.Source}, strings.Split(o.Data, ",")...) {
		key, v, hasValue := strings.Cut(p, "=")
		switch {
		case key == "" || p == "source=":
		case hasValue:
			b.call("fsconfig", value(fs), named(unix.FSCONFIG_SET_STRING, "FSCONFIG_SET_STRING"), str(key), str(v), num(0))
		default:
			b.call("fsconfig", value(fs), named(unix.FSCONFIG_SET_FLAG, "FSCONFIG_SET_FLAG"), str(key), null(), num(0))
		}
	}
	b.call("fsconfig", value(fs), named(unix.FSCONFIG_CMD_CREATE, "FSCONFIG_CMD_CREATE"), null(), null(), num(0))
	b.call("fsmount", value(fs), named(unix.FSMOUNT_CLOEXEC, "FSMOUNT_CLOEXEC"), flags(a, plan.AttrBits)).to(to)
	b.close(fs)
	if o.RecSet|o.RecClear != 0 {
		b.setattr(to, recursive, o.RecSet, o.RecClear)
	}
	return nil
}

// NewUserNS is the plan of a child that waits in a new user namespace with these maps, and ends.
func NewUserNS(m plan.Maps) *plan.Plan {
	b := newBuilder()
	b.p.CloneFlags = unix.CLONE_NEWUSER
	b.stop(plan.Stop{Maps: &m, Created: true})
	b.exit()
	return b.p
}

// InUserNS is the plan of a child that waits in the user namespace at path, and ends.
func InUserNS(path string) *plan.Plan {
	b := newBuilder()
	b.join(specs.LinuxNamespace{Type: specs.UserNamespace, Path: path})
	b.stop(plan.Stop{Created: true})
	b.exit()
	return b.p
}
