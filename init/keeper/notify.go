package keeper

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/init/keeper/wire"
)

const (
	maxFDs   = 4096
	maxNames = 120 << 10 // bytes of LISTEN_FDNAMES; one string of execve(2) ends at 128 KiB
)

// fdStore is what the engine gave into keeping.
type fdStore struct {
	fds   []storedFD
	bytes int // of all names and their separators
}

type storedFD struct {
	name string
	fd   int // owned by the store, close-on-exec
}

func (s *fdStore) add(name string, fds []int) error {
	size := (len(name) + 1) * len(fds)
	if len(s.fds)+len(fds) > maxFDs || s.bytes+size > maxNames {
		return fmt.Errorf("the store is full with %d descriptors", len(s.fds))
	}
	s.bytes += size
	for _, fd := range fds {
		s.fds = append(s.fds, storedFD{name, fd})
	}
	return nil
}

func (s *fdStore) remove(name string) {
	kept := s.fds[:0]
	for _, f := range s.fds {
		if f.name != name {
			kept = append(kept, f)
			continue
		}
		unix.Close(f.fd)
		s.bytes -= len(f.name) + 1
	}
	s.fds = kept
}

func (s *fdStore) closeAll() {
	closeAll(fdNumbers(s.fds))
	*s = fdStore{}
}

func fdNumbers(fds []storedFD) []int {
	numbers := make([]int, len(fds))
	for i, f := range fds {
		numbers[i] = f.fd
	}
	return numbers
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// listenNotify binds the notify socket at path, in place of an older one.
func listenNotify(path string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("make notify socket: %w", err)
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		unix.Close(fd)
		return -1, err
	}
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: path})
	}
	if err == nil {
		err = os.Chmod(path, 0o600)
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("bind %s: %w", path, err)
	}
	return fd, nil
}

// waitReadable tells the loop when there is something to read and waits until
// it was read. It takes nothing itself: a datagram in its hands would be lost
// when the keeper replaces itself.
func waitReadable(fd int, readable chan<- struct{}, handled <-chan struct{}) {
	for fd >= 0 {
		set := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(set, -1); err != nil || n == 0 {
			if err != unix.EINTR {
				time.Sleep(time.Second) // out of memory; nothing else is possible here
			}
			continue
		}
		readable <- struct{}{}
		<-handled
	}
}

// receive handles the datagrams that have arrived, and tells whether there may be more.
func (k *keeper) receive() bool {
	data := make([]byte, wire.MaxMessage)
	oob := make([]byte, unix.CmsgSpace(4*253)+unix.CmsgSpace(unix.SizeofUcred)+64)
	for range 64 { // then the loop looks at its other events
		n, oobn, flags, _, err := unix.Recvmsg(k.notify, data, oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return false // EAGAIN: all read
		}
		if err := k.datagram(data[:n], oob[:oobn], flags); err != nil {
			k.log.f("notify: %v", err)
		}
	}
	return true
}

func (k *keeper) datagram(data, oob []byte, flags int) error {
	cred, fds, err := wire.Control(oob)
	defer func() { closeAll(fds) }()
	if err != nil {
		return err
	}
	if cred == nil || int(cred.Pid) != k.engine.pid || k.engine.pid == 0 ||
		(cred.Uid != 0 && int(cred.Uid) != os.Geteuid()) {
		return fmt.Errorf("datagram from %s refused: not the engine", sender(cred))
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		return errors.New("datagram too long")
	}
	m, err := wire.Parse(data)
	if err != nil {
		return fmt.Errorf("bad datagram: %w", err)
	}
	if m.Store {
		if err := k.store.add(m.Name, fds); err != nil {
			return fmt.Errorf("keep %d descriptors as %s: %w", len(fds), m.Name, err)
		}
		fds = nil
	}
	if m.Remove {
		k.store.remove(m.Name)
	}
	k.handle(m)
	return nil
}

func sender(cred *unix.Ucred) string {
	if cred == nil {
		return "an unknown process"
	}
	return fmt.Sprintf("pid %d of uid %d", cred.Pid, cred.Uid)
}

// handle acts on everything in m but descriptors.
func (k *keeper) handle(m wire.Message) {
	for _, f := range m.Forget {
		k.exits.forget(f.PID, f.Start)
	}
	if m.Ready && !k.engine.ready {
		k.engine.ready, k.engine.readyAt = true, time.Now()
		k.log.f("engine %d is ready", k.engine.pid)
	}
	if m.Stopping {
		k.engine.stopping = true
	}
	if m.Extend > 0 {
		k.stopTime = m.Extend
		if !k.deadline.IsZero() {
			k.deadline = time.Now().Add(m.Extend)
		}
	}
	k.passOn(m.PassOn)
	if m.Reexec {
		k.reexec = true
	}
	if m.Shutdown != "" {
		k.beginStop(m.Shutdown, "the engine's request")
	}
}

// passOn tells the service manager above what concerns it, if there is one.
func (k *keeper) passOn(lines []string) {
	if k.forward == "" || len(lines) == 0 {
		return
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err == nil {
		defer unix.Close(fd)
		err = unix.Sendto(fd, []byte(strings.Join(lines, "\n")), 0, &unix.SockaddrUnix{Name: k.forward})
	}
	if err != nil {
		k.log.f("tell %s: %v", k.forward, err)
	}
}
