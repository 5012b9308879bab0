package compiler

import (
	"fmt"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox/caps"
	"github.com/coble-os/coble/sandbox/plan"
	"github.com/coble-os/coble/sandbox/seccomp"
	"github.com/coble-os/coble/sandbox/spec"
)

// process turns the child into the spec's process. The order matters: what needs privilege comes before it is
// given up; descriptors are closed last but for the filter (see filterEarly), so that nothing here can leak one.
func (b *builder) process(in *Input) error {
	p := in.Spec.Process
	b.session(p, in.Facts.OwnStdio)
	if err := b.rlimits(p, in.inUserNS()); err != nil {
		return err
	}
	if err := b.persona(in.Spec.Linux.Personality); err != nil {
		return err
	}
	if err := b.scheduler(p.Scheduler); err != nil {
		return err
	}
	if err := b.ioPriority(p.IOPriority); err != nil {
		return err
	}
	if err := b.memoryPolicy(in.Spec.Linux.MemoryPolicy); err != nil {
		return err
	}
	if in.hasMountNS() || in.Root != "/" {
		b.makeCwd(p.Cwd)
	}
	return b.identity(p, in.Spec.Linux.Seccomp, in.Facts, in.Init)
}

// session makes a new session, takes the terminal as the controlling one, and puts stdio in its place. A terminal
// and pipes are given to the user, who could not open /dev/stdout otherwise.
func (b *builder) session(p *specs.Process, own [3]bool) {
	b.about("make session")
	b.call("setsid")
	b.sessionKeyring()
	if p.Terminal {
		tty := b.slot("tty")
		b.about("set controlling terminal")
		b.call("ioctl", value(tty), named(unix.TIOCSCTTY, "TIOCSCTTY"), num(0))
		b.about("set stdio to the terminal")
		for fd := range 3 {
			b.call("dup3", value(tty), num(fd), num(0))
		}
		own = [3]bool{true, false, false}
	} else {
		// They come in at 3 or above, so none is overwritten before it is used.
		for fd, name := range []string{"stdin", "stdout", "stderr"} {
			b.about("set %s", name)
			b.call("dup3", value(b.input(name)), num(fd), num(0))
		}
	}
	for fd, mine := range own {
		if mine && p.User.UID != 0 {
			b.about("give descriptor %d to user %d", fd, p.User.UID)
			b.call("fchownat", num(fd), str(""), id(&p.User.UID), num(-1), named(unix.AT_EMPTY_PATH, "AT_EMPTY_PATH"))
		}
	}
}

// sessionKeyring makes a keyring: the parent's keys are not for the container.
func (b *builder) sessionKeyring() {
	if b.keyring {
		return
	}
	b.about("make session keyring")
	b.call("keyctl", named(unix.KEYCTL_JOIN_SESSION_KEYRING, "KEYCTL_JOIN_SESSION_KEYRING"), null()).
		ignore(unix.ENOSYS, unix.EPERM, unix.EDQUOT) // no keys in this kernel, a filter around all of this, too many
}

// rlimits sets limits; in a user namespace the parent does, since only the machine's root may raise some.
func (b *builder) rlimits(p *specs.Process, byParent bool) error {
	var s plan.Stop
	for i, r := range p.Rlimits {
		n := spec.Rlimit(r.Type)
		if n < 0 {
			return fmt.Errorf("process.rlimits[%d]: unknown limit %q", i, r.Type)
		}
		if byParent {
			s.Rlimits = append(s.Rlimits, plan.Rlimit{Name: r.Type, Resource: n, Soft: r.Soft, Hard: r.Hard})
			continue
		}
		b.about("set %s", r.Type)
		v := mem(u64(r.Soft, r.Hard), fmt.Sprintf("{%d, %d}", r.Soft, r.Hard))
		b.call("prlimit64", num(0), named(uint64(n), r.Type), v, null())
	}
	if byParent && len(s.Rlimits) > 0 {
		b.stop(s)
	}
	return nil
}

// makeCwd makes the working directory where it is missing, as the root user of the container.
func (b *builder) makeCwd(dir string) {
	rel := relative(dir)
	if rel == "." {
		return
	}
	b.about("make working directory %s", dir)
	top, t := b.slot("top"), b.slot("target")
	b.call("openat", cwd(), str("/"), flags(unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, plan.OpenBits), num(0)).to(top)
	b.folder(top, rel, t, 0)
	b.close(t)
	b.close(top)
}

// identity gives up privilege and executes the program.
func (b *builder) identity(p *specs.Process, filter *specs.LinuxSeccomp, f Facts, init string) error {
	sets, err := parseCaps(p.Capabilities)
	if err != nil {
		return err
	}
	if p.Capabilities != nil {
		b.boundingSet(sets.bounding, f.LastCap)
	}
	b.changeDir(p.Cwd)
	early := filter != nil && filterEarly(p, filter)
	if early {
		if err := b.seccomp(filter); err != nil {
			return err
		}
	}
	b.user(p.User)
	if p.Capabilities != nil {
		if filter != nil && !early && !p.NoNewPrivileges {
			sets = sets.forFilter()
		}
		b.capabilities(sets)
	}
	mask := uint32(0o022)
	if p.User.Umask != nil {
		mask = *p.User.Umask
	}
	b.about("set umask")
	b.call("umask", octal(mask))
	if err := b.gate(p); err != nil {
		return err
	}
	b.startHooks()
	b.about("unblock signals")
	b.call("rt_sigprocmask", named(unix.SIG_SETMASK, "SIG_SETMASK"), mem(make([]byte, sigsetSize), "[]"), null(), num(sigsetSize))
	b.writeLabels(p, f)
	b.about("close descriptors")
	b.call("close_range", num(3+b.keep), named(0xffffffff, "~0"), num(0))
	if p.NoNewPrivileges {
		b.about("set no_new_privs")
		b.call("prctl", named(unix.PR_SET_NO_NEW_PRIVS, "PR_SET_NO_NEW_PRIVS"), num(1), num(0), num(0), num(0))
	}
	if filter != nil && !early {
		if err := b.seccomp(filter); err != nil {
			return err
		}
	}
	b.exec(p, init)
	return nil
}

// filterEarly tells whether a filter is loaded before the user changes, and so the rest of the start lives with it: one
// with a listener, whose descriptor must reach the parent while it is there, and one that needs privilege where the spec
// leaves the capabilities to the change of users. All others come last: old profiles know nothing of close_range and
// the like.
func filterEarly(p *specs.Process, s *specs.LinuxSeccomp) bool {
	return s.ListenerPath != "" || !p.NoNewPrivileges && p.Capabilities == nil
}

// seccomp loads a filter. The descriptor of a listener, if there is one, is sent to the input listener: that needs the
// call sendmsg, which Compile makes sure of. What is left of both descriptors is closed by the execve.
func (b *builder) seccomp(s *specs.LinuxSeccomp) error {
	prog, err := seccomp.Compile(s)
	if err != nil {
		return fmt.Errorf("linux.seccomp: %w", err)
	}
	b.about("load seccomp filter%s", needs(prog.Flags))
	code := mem(prog.Bytes(), "")
	fprog := mem(make([]byte, 2*wordSize), fmt.Sprintf("<filter of %d instructions>", len(prog.Filter)))
	fprog.Mem[0], fprog.Mem[1] = byte(len(prog.Filter)), byte(len(prog.Filter)>>8) // struct sock_fprog, little-endian
	fprog.Fixes = []plan.Fix{{Off: wordSize, Sub: &code}}
	c := b.call("seccomp", named(unix.SECCOMP_SET_MODE_FILTER, "SECCOMP_SET_MODE_FILTER"), named(uint64(prog.Flags),
		fmt.Sprintf("%#x", prog.Flags)), fprog)
	if !prog.Notifies() {
		c.want(0) // with TSYNC, the number of a thread that stands in the way
		return nil
	}
	fd := b.slot("notify")
	c.to(fd)
	b.about("send seccomp listener to the parent")
	b.call("sendmsg", value(b.input(Listener)), b.rights(fd), num(0)).want(1)
	return nil
}

// Listener is the name of the input that the descriptor of a seccomp listener is sent to.
const Listener = "listener"

// needs names what a kernel must have for a filter beside CONFIG_SECCOMP_FILTER.
func needs(flags uint32) string {
	if flags&unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV != 0 {
		return " with SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (Linux 5.19)"
	}
	return " (CONFIG_SECCOMP_FILTER)"
}

type capSets struct{ bounding, effective, inheritable, permitted, ambient caps.Set }

// forFilter adds what seccomp(2) needs without no_new_privs. It does not outlive the execve, for which neither the old
// permitted nor the old effective set counts (capabilities(7), "Transformation of capabilities during execve()").
func (s capSets) forFilter() capSets {
	s.permitted |= 1 << unix.CAP_SYS_ADMIN
	s.effective |= 1 << unix.CAP_SYS_ADMIN
	return s
}

func parseCaps(c *specs.LinuxCapabilities) (s capSets, err error) {
	if c == nil {
		return s, nil
	}
	for _, f := range []struct {
		name string
		list []string
		set  *caps.Set
	}{
		{"bounding", c.Bounding, &s.bounding},
		{"effective", c.Effective, &s.effective},
		{"inheritable", c.Inheritable, &s.inheritable},
		{"permitted", c.Permitted, &s.permitted},
		{"ambient", c.Ambient, &s.ambient},
	} {
		if *f.set, err = caps.Parse(f.list); err != nil {
			return s, fmt.Errorf("process.capabilities.%s: %w", f.name, err)
		}
	}
	return s, nil
}

func (b *builder) boundingSet(keep caps.Set, last int) {
	names := caps.All().Names()
	for n := range last + 1 {
		if keep.Has(n) {
			continue
		}
		name := fmt.Sprintf("capability %d", n)
		if n < len(names) {
			name = names[n]
		}
		b.about("drop %s from bounding set", name)
		b.call("prctl", named(unix.PR_CAPBSET_DROP, "PR_CAPBSET_DROP"), named(uint64(n), name), num(0), num(0), num(0))
	}
}

// user sets groups and users. Permitted capabilities are kept over it, for capset to choose from.
func (b *builder) user(u specs.User) {
	b.about("keep capabilities")
	b.call("prctl", named(unix.PR_SET_KEEPCAPS, "PR_SET_KEEPCAPS"), num(1), num(0), num(0), num(0))
	b.about("set groups")
	gids := u32(u.AdditionalGids...)
	b.call("setgroups", num(len(u.AdditionalGids)), mem(append(gids, 0, 0, 0, 0), fmt.Sprint(u.AdditionalGids)))
	g, uid := named(uint64(u.GID), fmt.Sprint(u.GID)), named(uint64(u.UID), fmt.Sprint(u.UID))
	b.about("set group %d", u.GID)
	b.call("setresgid", g, g, g)
	b.about("set user %d", u.UID)
	b.call("setresuid", uid, uid, uid)
}

// capabilities sets the five sets but the bounding one (capabilities(7)).
func (b *builder) capabilities(s capSets) {
	b.about("set capabilities")
	hdr := mem(u32(unix.LINUX_CAPABILITY_VERSION_3, 0), "{version 3}")
	lo := func(c caps.Set) uint32 { return uint32(c) }
	hi := func(c caps.Set) uint32 { return uint32(c >> 32) }
	data := mem(u32(lo(s.effective), lo(s.permitted), lo(s.inheritable), hi(s.effective), hi(s.permitted), hi(s.inheritable)),
		fmt.Sprintf("{effective %#x, permitted %#x, inheritable %#x}", uint64(s.effective), uint64(s.permitted), uint64(s.inheritable)))
	b.call("capset", hdr, data)
	b.about("clear ambient capabilities")
	b.call("prctl", named(unix.PR_CAP_AMBIENT, "PR_CAP_AMBIENT"), named(unix.PR_CAP_AMBIENT_CLEAR_ALL, "PR_CAP_AMBIENT_CLEAR_ALL"),
		num(0), num(0), num(0))
	for n := range caps.Last + 1 {
		if !s.ambient.Has(n) {
			continue
		}
		b.about("raise ambient %s", caps.Name(n))
		b.call("prctl", named(unix.PR_CAP_AMBIENT, "PR_CAP_AMBIENT"), named(unix.PR_CAP_AMBIENT_RAISE, "PR_CAP_AMBIENT_RAISE"),
			named(uint64(n), caps.Name(n)), num(0), num(0)).ignore(unix.EPERM) // one that is not inheritable is not granted
	}
}

// changeDir goes to the working directory, still as root (an image may have one that its user may not enter), and
// makes sure that it is inside the root: the kernel says "(unreachable)" in front of a path that is not (getcwd(2)).
func (b *builder) changeDir(dir string) {
	if dir == "" {
		dir = "/"
	}
	b.about("change to working directory %s", dir)
	b.call("chdir", str(dir))
	b.about("check that working directory %s is inside the root", dir)
	b.call("getcwd", mem(make([]byte, unix.PathMax), "<path>"), num(unix.PathMax)).check(field(0, 0, 1, 0xff, '/'))
}

// exec executes the program, looked up in PATH if it has no slash. The look-up is made of real execves, so that it
// happens in the container, as its user. Where an init runs the program, the look-up asks whether it may be executed:
// what is not there is an error of the start, as it is without an init. faccessat(2), which filters have known for longer
// than faccessat2, goes by the real user: it is the effective one by then.
func (b *builder) exec(p *specs.Process, init string) {
	name := p.Args[0]
	b.p.ExecName = name
	b.about("exec %q", name)
	env := strs(p.Env)
	env.Text = fmt.Sprintf("[%d variables]", len(p.Env))
	b.p.Lookup = !strings.Contains(name, "/")
	for _, file := range candidates(p) {
		switch {
		case init != "":
			at := b.next()
			b.call("faccessat", cwd(), str(file), named(unix.X_OK, "X_OK")).ignore(unix.ENOENT, unix.ENOTDIR, unix.EACCES)
			b.call("execve", str(init), strs(append([]string{init, "--", file}, p.Args...)), env)
			b.skipOn(at)
		case b.p.Lookup:
			b.call("execve", str(file), strs(p.Args), env).ignore(unix.ENOENT, unix.ENOTDIR, unix.EACCES)
		default:
			b.call("execve", str(file), strs(p.Args), env)
		}
	}
}

// searchPath returns the last PATH of env, or Docker's default.
func searchPath(env []string) string {
	for i := len(env) - 1; i >= 0; i-- {
		if v, ok := strings.CutPrefix(env[i], "PATH="); ok && v != "" {
			return v
		}
	}
	return "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
}
