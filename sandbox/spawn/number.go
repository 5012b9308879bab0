package spawn

import "golang.org/x/sys/unix"

// number returns the number on this architecture of a call that plans use.
func number(name string) (uintptr, bool) {
	if nr, ok := identity(name); ok {
		return nr, true
	}
	switch name {
	case "capset":
		return unix.SYS_CAPSET, true
	case "chdir":
		return unix.SYS_CHDIR, true
	case "chroot":
		return unix.SYS_CHROOT, true
	case "close":
		return unix.SYS_CLOSE, true
	case "close_range":
		return unix.SYS_CLOSE_RANGE, true
	case "dup3":
		return unix.SYS_DUP3, true
	case "execve":
		return unix.SYS_EXECVE, true
	case "exit_group":
		return unix.SYS_EXIT_GROUP, true
	case "faccessat":
		return unix.SYS_FACCESSAT, true
	case "fchdir":
		return unix.SYS_FCHDIR, true
	case "fchmodat":
		return unix.SYS_FCHMODAT, true
	case "fsconfig":
		return unix.SYS_FSCONFIG, true
	case "fsmount":
		return unix.SYS_FSMOUNT, true
	case "fsopen":
		return unix.SYS_FSOPEN, true
	case "getcwd":
		return unix.SYS_GETCWD, true
	case "ioctl":
		return unix.SYS_IOCTL, true
	case "ioprio_set":
		return unix.SYS_IOPRIO_SET, true
	case "keyctl":
		return unix.SYS_KEYCTL, true
	case "lseek":
		return unix.SYS_LSEEK, true
	case "mkdirat":
		return unix.SYS_MKDIRAT, true
	case "mknodat":
		return unix.SYS_MKNODAT, true
	case "mount":
		return unix.SYS_MOUNT, true
	case "mount_setattr":
		return unix.SYS_MOUNT_SETATTR, true
	case "move_mount":
		return unix.SYS_MOVE_MOUNT, true
	case "open_tree":
		return unix.SYS_OPEN_TREE, true
	case "openat":
		return unix.SYS_OPENAT, true
	case "openat2":
		return unix.SYS_OPENAT2, true
	default:
		return number2(name)
	}
}

func number2(name string) (uintptr, bool) {
	switch name {
	case "personality":
		return unix.SYS_PERSONALITY, true
	case "pivot_root":
		return unix.SYS_PIVOT_ROOT, true
	case "ppoll":
		return unix.SYS_PPOLL, true
	case "prctl":
		return unix.SYS_PRCTL, true
	case "prlimit64":
		return unix.SYS_PRLIMIT64, true
	case "ptrace":
		return unix.SYS_PTRACE, true
	case "read":
		return unix.SYS_READ, true
	case "rt_sigprocmask":
		return unix.SYS_RT_SIGPROCMASK, true
	case "sched_setaffinity":
		return unix.SYS_SCHED_SETAFFINITY, true
	case "sched_setattr":
		return unix.SYS_SCHED_SETATTR, true
	case "seccomp":
		return unix.SYS_SECCOMP, true
	case "sendmsg":
		return unix.SYS_SENDMSG, true
	case "set_mempolicy":
		return unix.SYS_SET_MEMPOLICY, true
	case "setdomainname":
		return unix.SYS_SETDOMAINNAME, true
	case "sethostname":
		return unix.SYS_SETHOSTNAME, true
	case "setns":
		return unix.SYS_SETNS, true
	case "setsid":
		return unix.SYS_SETSID, true
	case "statx":
		return unix.SYS_STATX, true
	case "symlinkat":
		return unix.SYS_SYMLINKAT, true
	case "umask":
		return unix.SYS_UMASK, true
	case "umount2":
		return unix.SYS_UMOUNT2, true
	case "unshare":
		return unix.SYS_UNSHARE, true
	case "waitid":
		return unix.SYS_WAITID, true
	case "write":
		return unix.SYS_WRITE, true
	default:
		return 0, false
	}
}
