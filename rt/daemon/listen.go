package daemon

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/rt/engine"
)

// listen opens unix://path, tcp://host:port or fd://number. The keeper holds a copy of a socket that is listened on, so
// that clients which call while the engine is started anew wait instead of being refused.
func listen(e *engine.Engine, host string, insecure bool) (net.Listener, error) {
	kind, addr, ok := strings.Cut(host, "://")
	if !ok {
		return nil, fmt.Errorf("listen on %q: want unix://path, tcp://host:port or fd://number", host)
	}
	if l := e.TakeListener(host); l != nil {
		return l, nil
	}
	var l net.Listener
	var err error
	switch kind {
	case "unix":
		l, err = listenUnix(addr)
	case "tcp":
		l, err = listenTCP(addr, insecure)
	case "fd":
		l, err = listenFD(addr)
	default:
		err = errors.New("unknown kind of address: want unix, tcp or fd")
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", host, err)
	}
	return l, e.StoreListener(host, l)
}

// listenUnix makes a socket that only root's processes, and its group's, can open.
func listenUnix(path string) (net.Listener, error) {
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return nil, errors.New("another daemon answers there already")
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if st, err := os.Lstat(path); err == nil && st.Mode()&os.ModeSocket != 0 {
		os.Remove(path)
	}
	old := unix.Umask(0o117)
	l, err := net.Listen("unix", path)
	unix.Umask(old)
	if err != nil {
		return nil, err
	}
	// The next engine listens on the same socket: its name stays.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	return l, nil
}

// listenTCP serves loopback only, unless asked for more in words: who reaches the API owns the machine.
func listenTCP(addr string, insecure bool) (net.Listener, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	ip, err := netip.ParseAddr(host)
	if (err != nil || !ip.IsLoopback()) && host != "localhost" && !insecure {
		return nil, errors.New("everybody who reaches this address would own the machine: use a loopback address, or say --insecure-tcp")
	}
	return net.Listen("tcp", addr)
}

func listenFD(number string) (net.Listener, error) {
	fd, err := strconv.Atoi(number)
	if err != nil || fd < 3 {
		return nil, fmt.Errorf("descriptor %q: want the number of a listening socket, 3 or more", number)
	}
	f := os.NewFile(uintptr(fd), number)
	defer f.Close()
	return net.FileListener(f)
}
