// Package mounts makes the first mounts of process 1 and undoes all of them at
// the end. It is a part of the keeper that has a folder of its own to be read by
// itself, and like the keeper imports only the standard library and
// golang.org/x/sys/unix.
package mounts

import (
	"bufio"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mount is one line of the table of first mounts.
type mount struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
	optional               bool // not every kernel has it
}

// firstMounts is what every appliance has before its engine starts, in order.
func firstMounts() []mount {
	const plain = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	return []mount{
		{"proc", "/proc", "proc", plain, "", false},
		{"sysfs", "/sys", "sysfs", plain, "", false},
		{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755", false},
		{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "ptmxmode=0666,mode=0620,gid=5", false},
		{"tmpfs", "/dev/shm", "tmpfs", plain, "mode=1777", false},
		{"mqueue", "/dev/mqueue", "mqueue", plain, "", true},
		{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755", false},
		{"tmpfs", "/tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777", false},
		{"cgroup2", "/sys/fs/cgroup", "cgroup2", plain, "nsdelegate,memory_recursiveprot", false},
		{"securityfs", "/sys/kernel/security", "securityfs", plain, "", true},
		{"efivarfs", "/sys/firmware/efi/efivars", "efivarfs", plain, "", true},
		{"pstore", "/sys/fs/pstore", "pstore", plain, "", true},
		{"bpf", "/sys/fs/bpf", "bpf", plain, "mode=0700", true},
	}
}

// Early makes the root file system one that containers can pivot from, makes the
// mounts of the table and moves stdin, stdout and stderr to the console. What goes wrong is
// logged and the boot goes on.
func Early(log func(format string, args ...any)) {
	unix.Umask(0o022)
	if err := leaveRootfs(); err != nil {
		log("%v; containers can't pivot their root", err)
	}
	for _, m := range firstMounts() {
		if err := m.mount(); err != nil && !m.optional {
			log("%v", err)
		}
	}
	if err := openConsole(); err != nil {
		log("%v", err)
	}
}

func (m mount) mount() error {
	if err := os.MkdirAll(m.target, 0o755); err != nil {
		return err
	}
	err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data)
	if err == unix.EINVAL && m.fstype == "cgroup2" { // options newer than the kernel
		err = unix.Mount(m.source, m.target, m.fstype, m.flags, "nsdelegate")
	}
	if err == unix.ENODEV && m.fstype == "devtmpfs" {
		return bareDev()
	}
	if err == unix.EBUSY { // there already
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "mount " + m.fstype, Path: m.target, Err: err}
	}
	return nil
}

// bareDev is /dev for a kernel without devtmpfs: the nodes every program needs.
func bareDev() error {
	if err := unix.Mount("tmpfs", "/dev", "tmpfs", unix.MS_NOSUID, "mode=0755"); err != nil {
		return &os.PathError{Op: "mount tmpfs", Path: "/dev", Err: err}
	}
	for _, n := range []struct {
		name         string
		major, minor uint32
	}{
		{"console", 5, 1},
		{"tty", 5, 0},
		{"ptmx", 5, 2},
		{"null", 1, 3},
		{"zero", 1, 5},
		{"full", 1, 7},
		{"random", 1, 8},
		{"urandom", 1, 9},
		{"kmsg", 1, 11},
	} {
		dev := int(unix.Mkdev(n.major, n.minor))
		if err := unix.Mknodat(unix.AT_FDCWD, "/dev/"+n.name, unix.S_IFCHR|0o600, dev); err != nil {
			return &os.PathError{Op: "make device", Path: "/dev/" + n.name, Err: err}
		}
		if n.major == 1 || n.name != "console" {
			_ = os.Chmod("/dev/"+n.name, 0o666)
		}
	}
	return nil
}

// leaveRootfs puts a mount over the initramfs and moves into it: pivot_root(2)
// refuses to work from rootfs itself, which has no parent mount.
func leaveRootfs() error {
	var st unix.Statfs_t
	if err := unix.Statfs("/", &st); err != nil {
		return &os.PathError{Op: "statfs", Path: "/", Err: err}
	}
	// 32-bit machines have the number as a negative one.
	if kind := uint32(st.Type); kind != unix.RAMFS_MAGIC && kind != unix.TMPFS_MAGIC {
		return nil // a root file system from a disk
	}
	const over = "/run" // any folder will do, nothing is mounted yet
	if err := os.MkdirAll(over, 0o755); err != nil {
		return err
	}
	for _, step := range []struct {
		op string
		do func() error
	}{
		{"bind / on " + over, func() error { return unix.Mount("/", over, "", unix.MS_BIND, "") }},
		{"enter " + over, func() error { return unix.Chdir(over) }},
		{"move " + over + " to /", func() error { return unix.Mount(".", "/", "", unix.MS_MOVE, "") }},
		{"make it the root", func() error { return unix.Chroot(".") }},
		{"enter /", func() error { return unix.Chdir("/") }},
	} {
		if err := step.do(); err != nil {
			return &os.SyscallError{Syscall: step.op, Err: err}
		}
	}
	return nil
}

// openConsole makes /dev/console stdin, stdout and stderr.
func openConsole() error {
	fd, err := unix.Open("/dev/console", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: "/dev/console", Err: err}
	}
	for to := range 3 {
		if fd == to {
			_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0)
		} else {
			err = unix.Dup3(fd, to, 0)
		}
		if err != nil {
			return os.NewSyscallError("dup3", err)
		}
	}
	if fd > 2 {
		unix.Close(fd)
	}
	return nil
}

// Late unmounts in reverse order what can be, makes the rest read-only, and
// syncs. It may hang on a dead device or server.
func Late(log func(format string, args ...any)) {
	unix.Sync()
	_ = unix.Chdir("/")
	for range 3 { // a mount may hide another, or hold it
		busy := 0
		for _, target := range slices.Backward(mountPoints()) {
			if target == "/" || target == "/proc" || target == "/dev" {
				continue
			}
			if err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW); err != nil && err != unix.EINVAL {
				busy++
			}
		}
		if busy == 0 {
			break
		}
	}
	for _, target := range slices.Backward(mountPoints()) {
		if target == "/proc" || target == "/dev" {
			continue
		}
		err := unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
		if err != nil && target != "/" {
			log("%s stays mounted: %v", target, err)
		}
	}
	unix.Sync()
}

// mountPoints lists this namespace's mounts in the order in which they were
// made (proc_pid_mountinfo(5), field 5).
func mountPoints() []string {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	defer f.Close()
	var targets []string
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if fields := strings.Fields(lines.Text()); len(fields) > 4 {
			targets = append(targets, unescape(fields[4]))
		}
	}
	return targets
}

// unescape undoes the octal escapes of mountinfo.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
