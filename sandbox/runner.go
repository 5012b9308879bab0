package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox/cgroup"
	"github.com/coble-os/coble/sandbox/compiler"
	"github.com/coble-os/coble/sandbox/plan"
	"github.com/coble-os/coble/sandbox/spawn"
	"github.com/coble-os/coble/sandbox/spec"
)

// runner holds the descriptors of one start.
type runner struct {
	inputs  map[string]uintptr
	own     [3]bool
	stdio3  [3]int      // descriptors of 0, 1 and 2 to be
	files   []*os.File  // closed at the end
	console *os.File    // our end of the socket that a pty's master comes by
	hand    *handOver   // of a seccomp listener, or nil
	filled  *os.File    // our end of the socket that a tmpfs to be filled comes by
	states  [2]*os.File // state.creating and state.created, or nil
	report  *os.File    // of a child that waits for its start, or nil
	hooked  bool        // hooks were run
	ahead   *Ahead      // namespaces that are made meanwhile, or nil
}

func (r *runner) close() {
	for _, f := range r.files {
		f.Close()
	}
}

// keep remembers a descriptor as an input and closes it at the end.
func (r *runner) keep(name string, f *os.File) {
	r.files = append(r.files, f)
	r.inputs[name] = f.Fd()
}

// stdio copies the caller's files to descriptors above 2, where the plan's dup3 cannot meet them, or makes the
// socket for a terminal.
func (r *runner) stdio(c *Config) error {
	if c.Spec.Process == nil {
		return errors.New("process: missing")
	}
	if c.Spec.Process.Terminal {
		return r.terminal()
	}
	for i, f := range []*os.File{c.Stdin, c.Stdout, c.Stderr} {
		name := [3]string{"stdin", "stdout", "stderr"}[i]
		fd, err := above2(f)
		if err != nil {
			return fmt.Errorf("copy %s: %w", name, err)
		}
		r.keep(name, os.NewFile(uintptr(fd), name))
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return fmt.Errorf("stat %s: %w", name, err)
		}
		kind := st.Mode & unix.S_IFMT
		r.own[i] = kind == unix.S_IFIFO || kind == unix.S_IFSOCK
		r.stdio3[i] = fd
	}
	return nil
}

// above2 opens another descriptor of f, or of /dev/null if f is nil, above 2.
func above2(f *os.File) (int, error) {
	if f != nil {
		return unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	}
	fd, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil || fd > 2 {
		return fd, err
	}
	defer unix.Close(fd)
	return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
}

// give gives pipes to a user of a user namespace, who could not open /dev/stdout otherwise. Inside of it nobody can.
func (r *runner) give(uids []specs.LinuxIDMapping, user uint32) error {
	for i, mine := range r.own {
		host, ok := spec.HostID(uids, user)
		r.own[i] = false
		if !mine || !ok {
			continue
		}
		if err := unix.Fchown(r.stdio3[i], int(host), -1); err != nil {
			return fmt.Errorf("give descriptor %d to user %d: %w", i, host, err)
		}
	}
	return nil
}

func (r *runner) terminal() error {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make console socket: %w", err)
	}
	r.console = os.NewFile(uintptr(fds[0]), "console")
	r.files = append(r.files, r.console)
	r.keep("console", os.NewFile(uintptr(fds[1]), "console of child"))
	return nil
}

// start runs the plan in a group, which may be nil.
func (r *runner) start(ctx context.Context, p *plan.Plan, g *cgroup.Group, o spawn.Options) (*Process, error) {
	if g != nil {
		if err := r.group(g, &o); err != nil {
			return nil, err
		}
	}
	if err := r.prepare(ctx, p); err != nil {
		return nil, err
	}
	o.Made = r.ahead.namespaces()
	defer spawn.CloseNamespaces(o.Made)
	o.Inputs = r.inputs
	o.Barrier = r.atStops(p, o.Barrier)
	sub, handed := r.hand.start(ctx, r.inputs[compiler.Listener])
	child, err := spawn.Run(sub, p, o)
	if herr := handed(); herr != nil {
		return nil, errors.Join(herr, discard(child, err))
	}
	if err != nil {
		return nil, execError(p.ExecName, p.Lookup, err)
	}
	proc, err := newProcess(child.Pid, child.PidFD, child.StartTime)
	if err != nil || r.console == nil {
		return proc, err
	}
	if proc.Console, err = receiveConsole(r.console); err != nil {
		return nil, errors.Join(err, proc.destroy())
	}
	return proc, nil
}

// discard ends a child that was started in vain; one that failed is gone already.
func discard(c spawn.Child, failed error) error {
	if failed != nil {
		return nil
	}
	p, err := newProcess(c.Pid, c.PidFD, c.StartTime)
	if err != nil {
		return err
	}
	return p.destroy()
}

// group opens what the child joins its group by.
func (r *runner) group(g *cgroup.Group, o *spawn.Options) error {
	dir, err := g.FD()
	if err != nil {
		return err
	}
	if dir != nil {
		r.files = append(r.files, dir)
		o.CgroupFD = int(dir.Fd())
		return nil
	}
	joins, err := g.Joins()
	if err != nil {
		return err
	}
	for _, j := range joins {
		r.keep(inputName(j.Hierarchy), j.Tasks)
	}
	return nil
}

// execError turns a failed execve, or the look-up of what an init shall run, into an ExecError.
func execError(name string, lookup bool, err error) error {
	var e *spawn.Error
	if errors.As(err, &e) && e.Call.Doc == fmt.Sprintf("exec %q", name) {
		return &ExecError{Name: name, Lookup: lookup, Errno: e.Errno}
	}
	return err
}

// receiveConsole takes the master of a terminal from the socket.
func receiveConsole(sock *os.File) (*os.File, error) {
	fd, err := receiveFD(sock)
	if err != nil {
		return nil, fmt.Errorf("receive terminal: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("receive terminal: %w", err)
	}
	return os.NewFile(uintptr(fd), "pty master"), nil
}

// receiveFD takes the one descriptor that a message which is there already brings. The caller closes it.
func receiveFD(sock *os.File) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(int(sock.Fd()), make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	if err != nil {
		return -1, err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) != 1 {
		return -1, fmt.Errorf("%d messages (%v)", len(msgs), err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return -1, fmt.Errorf("%d descriptors (%v)", len(fds), err)
	}
	return fds[0], nil
}
