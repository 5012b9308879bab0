package seccomp

import (
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox/seccomp/syscalls"
)

// Default returns the filter of a container that holds these capabilities (its bounding set): the default profile
// of Docker 28, with one difference. Sockets may be of all families that Linux 6.18 has but AF_ALG, which later
// profiles of Docker refuse too, and AF_VSOCK. Docker 28 allows every number but that of AF_VSOCK, and so AF_VSOCK too
// if the upper half of the argument, which the kernel ignores, is not 0.
func Default(capabilities []string) *specs.LinuxSeccomp {
	allow := func(names string, args ...specs.LinuxSeccompArg) specs.LinuxSyscall {
		return specs.LinuxSyscall{Names: strings.Fields(names), Action: specs.ActAllow, Args: args}
	}
	def, none := uint(eperm), uint(enosys)
	p := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, DefaultErrnoRet: &def}
	all := syscalls.Architectures()
	for _, a := range all[:inDefault] {
		p.Architectures = append(p.Architectures, a.Name)
	}
	p.Syscalls = append(p.Syscalls, allow(always), allow(ofArch))
	p.Syscalls = append(p.Syscalls, allow("socket", specs.LinuxSeccompArg{Value: unix.AF_ALG, Op: specs.OpLessThan}))
	for _, v := range []uint64{unix.AF_NFC, unix.AF_KCM, unix.AF_QIPCRTR, unix.AF_SMC, unix.AF_XDP, unix.AF_MCTP} {
		p.Syscalls = append(p.Syscalls, allow("socket", specs.LinuxSeccompArg{Value: v, Op: specs.OpEqualTo}))
	}
	for _, v := range []uint64{0, 8, 0x20000, 0x20008, 0xffffffff} {
		p.Syscalls = append(p.Syscalls, allow("personality", specs.LinuxSeccompArg{Value: v, Op: specs.OpEqualTo}))
	}
	for _, c := range capabilities {
		if names := withCap(c); names != "" {
			p.Syscalls = append(p.Syscalls, allow(names))
		}
	}
	if slices.Contains(capabilities, "CAP_SYS_ADMIN") {
		return p
	}
	// No new namespaces: clone without the CLONE_NEW* bits, and no clone3, whose flags a filter cannot see.
	p.Syscalls = append(p.Syscalls,
		allow("clone", specs.LinuxSeccompArg{Value: 0x7e020000, Op: specs.OpMaskedEqual}),
		specs.LinuxSyscall{Names: []string{"clone3"}, Action: specs.ActErrno, ErrnoRet: &none})
	return p
}

// withCap names the calls that a capability makes useful, and that are safe only because they need it.
func withCap(name string) string {
	switch name {
	case "CAP_DAC_READ_SEARCH":
		return "open_by_handle_at"
	case "CAP_SYS_ADMIN":
		return "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie " +
			"lsm_get_self_attr lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount " +
			"open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog " +
			"umount umount2 unshare"
	case "CAP_SYS_BOOT":
		return "reboot"
	case "CAP_SYS_CHROOT":
		return "chroot"
	case "CAP_SYS_MODULE":
		return "delete_module init_module finit_module"
	case "CAP_SYS_PACCT":
		return "acct"
	case "CAP_SYS_PTRACE":
		return "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"
	case "CAP_SYS_RAWIO":
		return "iopl ioperm"
	case "CAP_SYS_TIME":
		return "settimeofday stime clock_settime clock_settime64"
	case "CAP_SYS_TTY_CONFIG":
		return "vhangup"
	case "CAP_SYS_NICE":
		return "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"
	case "CAP_SYSLOG":
		return "syslog"
	case "CAP_BPF":
		return "bpf"
	case "CAP_PERFMON":
		return "perf_event_open"
	default:
		return ""
	}
}

const always = "" +
	"_llseek _newselect accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod " +
	"chown chown32 clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime " +
	"clock_gettime64 clock_nanosleep clock_nanosleep_time64 close close_range connect copy_file_range " +
	"creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 " +
	"epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 " +
	"fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 " +
	"fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat " +
	"fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 " +
	"futex_wait futex_waitv futex_wake futimesat get_robust_list get_thread_area getcpu getcwd getdents " +
	"getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer " +
	"getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid " +
	"getresuid32 getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid getuid32 " +
	"getxattr getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel " +
	"io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioctl ioprio_get " +
	"ioprio_set ipc kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32 " +
	"lgetxattr link linkat listen listmount listxattr listxattrat llistxattr lremovexattr lseek lsetxattr " +
	"lstat lstat64 madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat " +
	"mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open " +
	"mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal " +
	"msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat " +
	"open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect " +
	"poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease process_vm_readv " +
	"process_vm_writev pselect6 pselect6_time64 ptrace pwrite64 pwritev pwritev2 read readahead readlink " +
	"readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr " +
	"removexattrat rename renameat renameat2 restart_syscall riscv_hwprobe rmdir rseq rt_sigaction " +
	"rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait " +
	"rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min " +
	"sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval " +
	"sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler " +
	"sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64 send sendfile sendfile64 " +
	"sendmmsg sendmsg sendto set_robust_list set_thread_area set_tid_address setfsgid setfsgid32 setfsuid " +
	"setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 " +
	"setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid setsockopt setuid " +
	"setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 " +
	"sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs statfs64 statmount statx " +
	"symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete " +
	"timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create " +
	"timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate truncate64 " +
	"ugetrlimit umask uname unlink unlinkat uretprobe utime utimensat utimensat_time64 utimes vfork " +
	"vmsplice wait4 waitid waitpid write writev"
