// Package compiler turns an OCI runtime spec into a plan (sandbox/plan): the list of system calls that makes a container
// ([Compile]), or another process in one ([CompileExec]).
//
// It is pure: it opens nothing, changes nothing, and needs no root. What it must know about the machine
// (which bind sources are folders, how cgroups are mounted) comes in as [Facts].
//
// Only the *at forms of calls are used, since arm64 and riscv64 have no others. The oldest kernel is 5.10.
package compiler

import (
	"errors"
	"fmt"
	"path/filepath"
	"sort"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox/mountopt"
	"github.com/coble-os/coble/sandbox/plan"
	"github.com/coble-os/coble/sandbox/spec"
)

// Input is all that Compile looks at.
type Input struct {
	ID         string // of the container; needed for linux.intelRdt
	Spec       *specs.Spec
	Bundle     string  // relative bind sources start here
	Root       string  // absolute path of the root folder on the host
	RootMounts []Mount // mounted on Root before anything else
	Facts      Facts
	Barrier    bool // stop for the caller between the making of namespaces and the mounts
	MapRoot    bool // mount the root id-mapped: its files belong to the numbers that they have inside
	Gate       bool // stop before the execve until the container is started; needs a barrier
	Keep       int  // so many descriptors above 2 are the program's too
	// KeepKeyring leaves the caller's session keyring to the child.
	KeepKeyring bool
	Init        string // path in the container of the program (sandbox/reaper) that runs the command; "": none does
}

// Facts are what a plan depends on besides the spec.
type Facts struct {
	Dirs         map[string]bool   // for each bind source: is it a folder? A source that is missing does not exist
	MountSetattr bool              // mount_setattr(2), Linux 5.12
	SourceFlags  map[string]uint64 // without it: MS_ flags of the mount that a bind source lies on, which a remount must repeat
	LastCap      int               // /proc/sys/kernel/cap_last_cap
	TimeOnExec   bool              // execve changes the time namespace, Linux 6.3
	AppArmor     bool              // the kernel has it, and it is on
	SELinux      bool              // likewise
	Resctrl      bool              // the resource control file system is mounted
	Cgroup       Cgroup
	Host         map[string]bool // paths of namespaces that are the machine's own
	BareRoot     bool            // the root mount has no parent, as in an initramfs: pivot_root(2) refuses it
	OwnStdio     [3]bool         // 0, 1 and 2 are pipes or sockets, which are given to the process's user
}

// Cgroup is where the container's control groups are.
type Cgroup struct {
	Unified     bool        // cgroup v2: the child is born in its group, or joins it through its one hierarchy
	Own         string      // v2: folder of the container's group; "" if it has none
	Hierarchies []Hierarchy // v1, those that the container joins
}

// Hierarchy is one mounted hierarchy of control groups.
type Hierarchy struct {
	Mount       string   // where it is mounted, such as /sys/fs/cgroup/cpu,cpuacct
	Controllers []string // what it controls; empty for v2
	Path        string   // of the container's group, below Mount
	Input       string   // name of the plan's input for a descriptor of its tasks file
}

// Compile turns a spec into a plan. What the spec asks for and coble does not do is an error that names the field.
//
// Inputs of the plan: stdin, stdout, stderr (without a terminal), or console (a socket that the pty's master is
// sent to); the Input of each v1 hierarchy; sync and sync.parent (with a barrier), which sandbox/spawn makes; those of
// UserNS; those that Prepare sends; copyup, a socket (with a Stop that says so); [Listener] (a socket, where seccomp has
// an action SCMP_ACT_NOTIFY); [Gate]; [StateCreating] and [StateCreated], where hooks read them.
func Compile(in Input) (*plan.Plan, error) {
	if err := spec.Validate(in.Spec); err != nil {
		return nil, err
	}
	b := newBuilder()
	b.spec, b.gated, b.keep, b.keyring = in.Spec, in.Gate, in.Keep, in.KeepKeyring
	steps := []func(*Input) error{
		b.namespaces, b.prepare, b.cgroups, b.oomScore, b.joinUser, b.timeNS, b.barrier, b.enterTime, b.filesystem, b.names, b.process,
	}
	for _, step := range steps {
		if err := step(&in); err != nil {
			return nil, err
		}
	}
	return b.p, checkStrings(b.p)
}

// checkStrings refuses strings that the kernel would see only a part of.
func checkStrings(p *plan.Plan) error {
	for i := range p.Calls {
		for k := range p.Calls[i].Args {
			a := &p.Calls[i].Args[k]
			for _, s := range a.Strs {
				if strings.IndexByte(s, 0) >= 0 {
					return nulByte(&p.Calls[i], s)
				}
			}
			if strings.IndexByte(a.Str, 0) >= 0 {
				return nulByte(&p.Calls[i], a.Str)
			}
		}
	}
	return nil
}

func nulByte(c *plan.Call, s string) error { return fmt.Errorf("%s: %q has a NUL byte", c.Doc, s) }

// cgroups joins the v1 groups. "0" is the writer itself; the tasks file, unlike cgroup.procs, spares a writer that
// moves only itself the lock over all forks of the machine (Linux 5.17, cgroup_procs_write_start).
func (b *builder) cgroups(in *Input) error {
	for _, h := range in.Facts.Cgroup.Hierarchies {
		b.about("join cgroup %s", filepath.Join(h.Mount, h.Path))
		b.call("write", value(b.input(h.Input)), str("0"), num(1)).want(1)
	}
	if in.newCgroupNS() && !in.joins(specs.UserNamespace) {
		b.about("make cgroup namespace")
		b.call("unshare", flags(unix.CLONE_NEWCGROUP, plan.CloneBits))
	}
	return nil
}

// writeFile writes text to a file of the host's procfs, which nothing of the container can have replaced yet.
func (b *builder) writeFile(path, text string) {
	fd := b.slot("file")
	b.call("openat", cwd(), str(path), flags(unix.O_WRONLY|unix.O_CLOEXEC, plan.OpenBits), num(0)).to(fd)
	b.call("write", value(fd), str(text), num(len(text))).want(len(text))
	b.close(fd)
}

func (b *builder) oomScore(in *Input) error {
	if adj := in.Spec.Process.OOMScoreAdj; adj != nil && !in.makes(specs.UserNamespace) {
		b.about("set oom score adjustment %d", *adj)
		b.writeFile("/proc/self/oom_score_adj", fmt.Sprint(*adj))
	}
	return nil
}

// filesystem does all that needs a mount namespace.
func (b *builder) filesystem(in *Input) error {
	if err := checkMountLabel(in); err != nil {
		return err
	}
	if err := b.openLabels(in.Spec.Process, in.Facts); err != nil {
		return err
	}
	root, leave := b.rootfs, b.pivot
	if !in.hasMountNS() {
		if err := withoutMountNS(in); err != nil {
			return err
		}
		if in.Root == "/" {
			return b.createHooks(in)
		}
		root, leave = b.hostRoot, b.chroot
	}
	steps := []func(*Input) error{
		root, b.nullDevice, b.mounts, b.devices, b.console, b.sysctls, b.readonlyPaths, b.maskedPaths, b.createHooks, leave,
	}
	for _, step := range steps {
		if err := step(in); err != nil {
			return err
		}
	}
	return nil
}

// withoutMountNS refuses what would change the machine's own mounts, or what only its root could do.
func withoutMountNS(in *Input) error {
	l := in.Spec.Linux
	switch {
	case len(in.RootMounts) > 0:
		return errors.New("mounts of the root: need a mount namespace")
	case l.RootfsPropagation != "":
		return errors.New("linux.rootfsPropagation: needs a mount namespace")
	case in.Root != "/" && in.inUserNS():
		return errors.New("linux.namespaces: with a user namespace a root folder needs a mount namespace")
	case in.Root != "/":
		return nil
	case len(in.Spec.Mounts) > 0:
		return errors.New("mounts: need a mount namespace")
	case in.Spec.Root != nil && in.Spec.Root.Readonly:
		return errors.New("root.readonly: needs a mount namespace")
	case len(l.MaskedPaths) > 0:
		return errors.New("linux.maskedPaths: need a mount namespace")
	case len(l.ReadonlyPaths) > 0:
		return errors.New("linux.readonlyPaths: need a mount namespace")
	case len(l.Devices) > 0:
		return errors.New("linux.devices: need a mount namespace")
	case len(l.Sysctl) > 0:
		return errors.New("linux.sysctl: needs a mount namespace")
	case in.Spec.Process.Terminal:
		return errors.New("process.terminal: needs a mount namespace")
	}
	return nil
}

// hostRoot makes the root where there is no mount namespace. All that is mounted lies below one bind mount on the root,
// which is private: nobody else on the machine gets a copy, and who takes it away takes all of it.
func (b *builder) hostRoot(in *Input) error {
	b.about("bind root %s", in.Root)
	b.mount(in.Root, str(in.Root), "", unix.MS_BIND|unix.MS_REC, "")
	b.mount("", str(in.Root), "", unix.MS_PRIVATE|unix.MS_REC, "")
	b.openRoot(in)
	return nil
}

// chroot makes the root the process's own, which is all that can be done without a mount namespace: whoever holds
// CAP_SYS_CHROOT or CAP_SYS_ADMIN inside can leave it.
func (b *builder) chroot(in *Input) error {
	root := b.slot("root")
	b.about("change root to %s", in.Root)
	b.call("fchdir", value(root))
	b.call("chroot", str("."))
	if in.Spec.Root.Readonly {
		b.readonlyRoot(in)
	}
	b.close(root)
	return nil
}

// sysctls are written through a procfs of their own, attached nowhere: nothing can be mounted or linked over it.
func (b *builder) sysctls(in *Input) error {
	l := in.Spec.Linux
	if len(l.Sysctl) == 0 {
		return nil
	}
	keys := make([]string, 0, len(l.Sysctl))
	for k := range l.Sysctl {
		if err := spec.CheckSysctl(in.Spec, k, in.Facts.Host); err != nil {
			return err
		}
		keys = append(keys, k)
	}
	sort.Strings(keys)
	proc, fd := b.procfs(), b.slot("file")
	for _, k := range keys {
		v := l.Sysctl[k]
		b.about("set sysctl %s", k)
		b.openat2(proc, "sys/"+spec.SysctlPath(k), unix.O_WRONLY|unix.O_CLOEXEC,
			unix.RESOLVE_BENEATH|unix.RESOLVE_NO_XDEV|unix.RESOLVE_NO_SYMLINKS, 0).to(fd)
		b.call("write", value(fd), str(v), num(len(v))).want(len(v))
		b.close(fd)
	}
	b.close(proc)
	return nil
}

// procfs leaves a descriptor of a new, unattached procfs in the returned slot.
func (b *builder) procfs() plan.Slot {
	b.about("open a private procfs")
	fs, proc := b.slot("fs"), b.slot("proc")
	b.call("fsopen", str("proc"), named(unix.FSOPEN_CLOEXEC, "FSOPEN_CLOEXEC")).to(fs)
	b.call("fsconfig", value(fs), named(unix.FSCONFIG_CMD_CREATE, "FSCONFIG_CMD_CREATE"), null(), null(), num(0))
	b.call("fsmount", value(fs), named(unix.FSMOUNT_CLOEXEC, "FSMOUNT_CLOEXEC"),
		flags(unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC, plan.AttrBits)).to(proc)
	b.close(fs)
	return proc
}

// pivot makes the new root the root, and lets go of the old one.
func (b *builder) pivot(in *Input) error {
	root, old := b.slot("root"), b.slot("old")
	b.about("pivot to root %s", in.Root)
	const oflags = unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC
	b.call("openat", cwd(), str("/"), flags(oflags, plan.OpenBits), num(0)).to(old)
	b.call("fchdir", value(root))
	b.call("pivot_root", str("."), str("."))
	b.call("fchdir", value(old))
	if p, err := spec.RootPropagation(in.Spec); err == nil && p&unix.MS_SHARED != 0 {
		b.mount("", str("."), "", unix.MS_SLAVE|unix.MS_REC, "") // or the machine's own would be unmounted too
	}
	b.call("umount2", str("."), named(unix.MNT_DETACH, "MNT_DETACH"))
	b.call("chdir", str("/"))
	b.close(old)
	b.finalPropagation(in)
	if in.Spec.Root.Readonly {
		b.readonlyRoot(in)
	}
	b.close(root)
	return nil
}

// finalPropagation makes the mounts of the container what the spec says; without a word of it they stay as they are.
func (b *builder) finalPropagation(in *Input) {
	if in.Spec.Linux.RootfsPropagation == "" {
		return
	}
	prop := mountopt.Propagation(in.Spec.Linux.RootfsPropagation)
	b.about("make the container's mounts %s", plan.MountBits.Text(prop))
	b.mount("", str("/"), "", prop, "")
}

// readonlyRoot adds the flag where the kernel can add one (5.12). A remount sets all flags, so it repeats those that
// the root was mounted with.
func (b *builder) readonlyRoot(in *Input) {
	b.about("make root read-only")
	if in.Facts.MountSetattr {
		b.setattr(b.slot("root"), unix.AT_EMPTY_PATH, unix.MOUNT_ATTR_RDONLY, 0)
		return
	}
	keep := uint64(0)
	if n := len(in.RootMounts); n > 0 {
		keep = uint64(in.RootMounts[n-1].Flags) & (unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME)
	}
	b.mount("", str("/"), "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|keep, "")
}

func (b *builder) names(in *Input) error {
	if h := in.Spec.Hostname; h != "" {
		b.about("set host name %s", h)
		b.call("sethostname", str(h), num(len(h)))
	}
	if d := in.Spec.Domainname; d != "" {
		b.about("set domain name %s", d)
		b.call("setdomainname", str(d), num(len(d)))
	}
	return nil
}
