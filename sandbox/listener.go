package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox/compiler"
)

// handOverLimit is how long a seccomp agent may take to accept a connection and read what is sent.
const handOverLimit = 10 * time.Second

// handOver takes the descriptor of a seccomp listener from a child and gives it to the agent at linux.seccomp's
// listenerPath (config-linux.md, the container process state). It works while the child runs, because the child may
// wait for the agent before its execve.
type handOver struct {
	sock     *os.File // our end; the child has the input compiler.Listener
	path     string
	metadata string
	state    specs.State
	done     chan struct{} // closed by serve
	err      error         // valid after done
}

// listener makes the socket for a listener, if the spec has a place to send one to. The state is that of the
// container; a pid of 0 becomes that of the child.
func (r *runner) listener(s *specs.LinuxSeccomp, state specs.State) error {
	if s == nil || s.ListenerPath == "" {
		return nil
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make socket for seccomp listener: %w", err)
	}
	r.keep(compiler.Listener, os.NewFile(uintptr(fds[1]), "seccomp listener of child"))
	err = unix.SetNonblock(fds[0], true)
	if err == nil {
		err = unix.SetsockoptInt(fds[0], unix.SOL_SOCKET, unix.SO_PASSCRED, 1) // tells the child's pid
	}
	sock := os.NewFile(uintptr(fds[0]), "seccomp listener")
	r.files = append(r.files, sock)
	if err != nil {
		return fmt.Errorf("make socket for seccomp listener: %w", err)
	}
	r.hand = &handOver{sock: sock, path: s.ListenerPath, metadata: s.ListenerMetadata, state: state, done: make(chan struct{})}
	return nil
}

// start hands over in the background. If that fails, the context ends, and with it the child. wait returns the
// outcome, once the child has ended or sent what it has to send.
func (h *handOver) start(ctx context.Context, childEnd uintptr) (sub context.Context, wait func() error) {
	if h == nil {
		return ctx, func() error { return nil }
	}
	sub, cancel := context.WithCancel(ctx)
	go func() {
		defer close(h.done)
		if h.err = h.serve(ctx); h.err != nil {
			cancel()
		}
	}()
	return sub, func() error {
		defer cancel()
		// The child has sent its message, or never will: what is in the socket can still be read.
		if err := unix.Shutdown(int(childEnd), unix.SHUT_WR); err != nil {
			return fmt.Errorf("shut socket of seccomp listener: %w", err)
		}
		<-h.done
		return h.err
	}
}

// serve does the hand-over. A child that sends nothing has failed by itself, or has no notifications.
func (h *handOver) serve(ctx context.Context) error {
	fd, pid, err := h.receive()
	if err != nil || fd == nil {
		return err
	}
	defer fd.Close()
	ctx, cancel := context.WithTimeout(ctx, handOverLimit)
	defer cancel()
	if err := h.send(ctx, fd, pid); err != nil {
		return fmt.Errorf("hand seccomp listener to %s: %w", h.path, err)
	}
	return nil
}

// receive waits for the child's message; the file is nil if there is none.
func (h *handOver) receive() (*os.File, int, error) {
	rc, err := h.sock.SyscallConn()
	if err != nil {
		return nil, 0, err
	}
	buf, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(unix.SizeofUcred)+unix.CmsgSpace(4))
	n, oobn := 0, 0
	var rerr error
	err = rc.Read(func(fd uintptr) bool {
		n, oobn, _, _, rerr = unix.Recvmsg(int(fd), buf, oob, unix.MSG_CMSG_CLOEXEC)
		return rerr != unix.EAGAIN && rerr != unix.EINTR
	})
	if err = errors.Join(err, rerr); err != nil {
		return nil, 0, fmt.Errorf("receive seccomp listener: %w", err)
	}
	if n == 0 {
		return nil, 0, nil
	}
	return parseListener(oob[:oobn])
}

// parseListener finds one descriptor and the sender's credentials in control messages (unix(7)).
func parseListener(oob []byte) (*os.File, int, error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, 0, fmt.Errorf("receive seccomp listener: %w", err)
	}
	fd, pid := -1, 0
	for i := range msgs {
		if cred, err := unix.ParseUnixCredentials(&msgs[i]); err == nil {
			pid = int(cred.Pid)
			continue
		}
		if fds, err := unix.ParseUnixRights(&msgs[i]); err == nil && len(fds) == 1 {
			fd = fds[0]
		}
	}
	if fd < 0 {
		return nil, 0, errors.New("receive seccomp listener: no descriptor")
	}
	f := os.NewFile(uintptr(fd), "seccomp listener")
	if pid <= 0 {
		f.Close()
		return nil, 0, errors.New("receive seccomp listener: no sender")
	}
	return f, pid, nil
}

// send makes one connection, sends one message and closes it.
func (h *handOver) send(ctx context.Context, f *os.File, pid int) error {
	msg, err := json.Marshal(h.message(pid))
	if err != nil {
		return err
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", h.path)
	if err != nil {
		return err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return err
		}
	}
	n, _, err := conn.(*net.UnixConn).WriteMsgUnix(msg, unix.UnixRights(int(f.Fd())), nil)
	if err == nil && n < len(msg) {
		_, err = conn.Write(msg[n:])
	}
	return err
}

// message is the container process state.
func (h *handOver) message(pid int) specs.ContainerProcessState {
	s := h.state
	if s.Pid == 0 {
		s.Pid = pid
	}
	return specs.ContainerProcessState{
		Version: specs.Version, Fds: []string{specs.SeccompFdName}, Pid: pid, Metadata: h.metadata, State: s,
	}
}
