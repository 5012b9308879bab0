package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox/cgroup"
	"github.com/coble-os/coble/sandbox/compiler"
)

// facts turns a layout into what the plan needs to know. On v2 a child is born in its group.
func facts(path string, l cgroup.Layout) compiler.Cgroup {
	out := compiler.Cgroup{Unified: l.Unified}
	if l.Unified {
		out.Own = filepath.Join(l.Hierarchies[0].Mount, path)
		return out
	}
	for _, h := range l.Hierarchies {
		out.Hierarchies = append(out.Hierarchies, compiler.Hierarchy{
			Mount: h.Mount, Controllers: h.Controllers, Path: path, Input: inputName(h),
		})
	}
	return out
}

func inputName(h cgroup.Hierarchy) string { return "cgroup." + strings.Join(h.Controllers, ",") }

// dirs looks at the bind sources: whether they are folders, and the flags of the mounts that they lie on.
func (c *Config) dirs() (dirs map[string]bool, flags map[string]uint64) {
	dirs, flags = map[string]bool{}, map[string]uint64{}
	for _, m := range c.Spec.Mounts {
		if m.Type != "bind" && !slices.Contains(m.Options, "bind") && !slices.Contains(m.Options, "rbind") {
			continue
		}
		src := c.source(m)
		var st unix.Stat_t
		if unix.Stat(src, &st) != nil {
			continue // the plan has the error
		}
		dirs[src] = st.Mode&unix.S_IFMT == unix.S_IFDIR
		var fs unix.Statfs_t
		if !kernel.get().setattr || c.noSetattr {
			if unix.Statfs(src, &fs) == nil {
				flags[src] = uint64(fs.Flags) & keptFlags
			}
		}
	}
	return dirs, flags
}

// source is the absolute path of a bind source.
func (c *Config) source(m specs.Mount) string {
	if filepath.IsAbs(m.Source) {
		return m.Source
	}
	return filepath.Join(c.Bundle, m.Source)
}

// keptFlags are the flags of a mount that statfs(2) shows with the numbers that mount(2) has for them.
const keptFlags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NODIRATIME

// kernel is what is true of the running kernel from its start to its end: asked for once.
var kernel kernelFacts

type kernelFacts struct {
	once                                   sync.Once
	setattr, timeOnExec, appArmor, seLinux bool
	lastCap                                int
}

// get fills it in at the first call.
func (k *kernelFacts) get() *kernelFacts {
	k.once.Do(func() {
		k.setattr, k.timeOnExec, k.appArmor, k.seLinux, k.lastCap = hasMountSetattr(), release(6, 3), appArmor(), seLinux(), lastCap()
	})
	return k
}

// hasMountSetattr asks the kernel with arguments that it refuses.
func hasMountSetattr() bool {
	return unix.MountSetattr(-1, "", 0, &unix.MountAttr{}) != unix.ENOSYS
}

// bareRoot tells whether the root mount is the first of its namespace: its parent is itself (mountinfo's first two
// fields), as long as nothing like switch_root(8) was done.
func bareRoot() bool {
	var st unix.Statfs_t
	if err := unix.Statfs("/", &st); err == nil && uint32(st.Type) != unix.RAMFS_MAGIC && uint32(st.Type) != unix.TMPFS_MAGIC {
		return false // the first mount is a ramfs or tmpfs, always
	}
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 4 && f[4] == "/" {
			return f[0] == f[1]
		}
	}
	return false
}

// lastCap is the kernel's highest capability.
func lastCap() int {
	b, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	n := 0
	if err == nil {
		_, err = fmt.Sscan(string(b), &n)
	}
	if err != nil {
		return 40 // CAP_CHECKPOINT_RESTORE, the last since Linux 5.9
	}
	return n
}

// release tells whether the kernel is at least this version.
func release(major, minor int) bool {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return false
	}
	var a, b int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &a, &b); err != nil {
		return false
	}
	return a > major || a == major && b >= minor
}

// appArmor tells whether AppArmor is in the kernel and on.
func appArmor() bool {
	b, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	return err == nil && len(b) > 0 && b[0] == 'Y'
}

// seLinux tells whether SELinux is on: then, and only then, its file system is mounted (selinux(8)).
func seLinux() bool {
	var st unix.Statfs_t
	return unix.Statfs("/sys/fs/selinux", &st) == nil && uint32(st.Type) == unix.SELINUX_MAGIC
}

// ownNamespaces lists those of the paths whose namespace this process is in. One that cannot be looked at is not: to
// join it fails too.
func ownNamespaces(list []specs.LinuxNamespace) map[string]bool {
	out := map[string]bool{}
	for _, n := range list {
		name := map[specs.LinuxNamespaceType]string{specs.MountNamespace: "mnt", specs.NetworkNamespace: "net"}[n.Type]
		if name == "" {
			name = string(n.Type)
		}
		if n.Path == "" {
			continue
		}
		if same, err := samePath(n.Path, "/proc/self/ns/"+name); err == nil && same {
			out[n.Path] = true
		}
	}
	return out
}

// sameNS tells whether a process is in this process's namespace of a kind, such as "user".
func sameNS(pid int, kind string) (bool, error) {
	return samePath(fmt.Sprintf("/proc/%d/ns/%s", pid, kind), "/proc/self/ns/"+kind)
}

// sameTimeNS is sameNS for the time namespace, which kernels without CONFIG_TIME_NS have none of.
func sameTimeNS(pid int) (bool, error) {
	same, err := sameNS(pid, "time")
	if errors.Is(err, os.ErrNotExist) {
		if _, own := os.Stat("/proc/self/ns/time"); own != nil {
			return true, nil
		}
	}
	return same, err
}

// samePath tells whether two paths are of one namespace.
func samePath(a, b string) (bool, error) {
	var x, y unix.Stat_t
	if err := unix.Stat(a, &x); err != nil {
		return false, fmt.Errorf("look at namespace %s: %w", a, err)
	}
	if err := unix.Stat(b, &y); err != nil {
		return false, fmt.Errorf("look at namespace %s: %w", b, err)
	}
	return x.Ino == y.Ino && x.Dev == y.Dev, nil
}
