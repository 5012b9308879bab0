package oci

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// socket is what conmon and containerd's shim listen on for a terminal.
type socket struct {
	path string
	l    *net.UnixListener
}

func newSocket(t *testing.T) *socket {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return &socket{path, l}
}

// receive returns the master that was sent.
func (s *socket) receive(t *testing.T) *os.File {
	c, err := s.l.AcceptUnix()
	require.NoError(t, err)
	defer c.Close()
	oob, b := make([]byte, unix.CmsgSpace(4)), make([]byte, 100)
	n, nn, _, _, err := c.ReadMsgUnix(b, oob)
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(string(b[:n]), "/dev/pts/"), "%s", b[:n])
	msgs, err := unix.ParseSocketControlMessage(oob[:nn])
	require.NoError(t, err)
	fds, err := unix.ParseUnixRights(&msgs[0])
	require.NoError(t, err)
	return os.NewFile(uintptr(fds[0]), "master")
}

func readAll(t *testing.T, f *os.File) string {
	b, err := io.ReadAll(f)
	require.ErrorIs(t, err, unix.EIO)
	require.NoError(t, f.Close())
	return string(b)
}

func TestConsoleSocket(t *testing.T) {
	r := newRuntime(t, "tty; echo end")
	r.spec.Process.Terminal = true
	r.write()
	s := newSocket(t)
	r.ok("create", "--console-socket", s.path, "c")
	master := s.receive(t)
	r.ok("start", "c")
	require.Equal(t, "/dev/pts/0\r\nend\r\n", readAll(t, master))
	r.reach("c", specs.StateStopped)
	r.ok("delete", "c")
	r.ok("run", "-d", "--console-socket", s.path, "c")
	require.Equal(t, "/dev/pts/0\r\nend\r\n", readAll(t, s.receive(t)))
	r.reach("c", specs.StateStopped)
	r.ok("delete", "c")
	r.fails(1, "cannot allocate tty if runc will detach without setting console socket", "create", "c")
	r.fails(1, "cannot use console socket if runc will not detach or allocate tty", "run", "--console-socket", s.path, "c")
	r.fails(1, "connect to console socket /nope", "create", "--console-socket", "/nope", "c")
	require.NoDirExists(t, filepath.Join(r.root, "c"))
}

func TestExecConsole(t *testing.T) {
	r := newRuntime(t, "exec sleep 1000")
	r.ok("run", "-d", "c")
	s := newSocket(t)
	r.ok("exec", "-d", "-t", "--console-socket", s.path, "c", "tty")
	require.Equal(t, "/dev/pts/0\r\n", readAll(t, s.receive(t)))
	r.fails(255, "cannot allocate tty if runc will detach", "exec", "-d", "-t", "c", "tty")
}

// TestForegroundTerminal: runc relays a terminal, in raw mode, with its size, if it has one itself.
func TestForegroundTerminal(t *testing.T) {
	r := newRuntime(t, `stty size; read x; echo "got $x"`)
	r.spec.Process.Terminal = true
	r.write()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	require.NoError(t, err)
	require.NoError(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	require.NoError(t, unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 11, Col: 44}))
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	cmd := r.command("run", "c")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	require.NoError(t, cmd.Start())
	slave.Close()
	got := ""
	b := make([]byte, 200)
	for !strings.Contains(got, "got word") {
		k, err := master.Read(b)
		got += string(b[:k])
		require.NoError(t, err, "%q", got)
		if strings.Contains(got, "44\r\n") && !strings.Contains(got, "word") {
			_, err := master.WriteString("word\n")
			require.NoError(t, err)
		}
	}
	require.NoError(t, cmd.Wait())
	require.Equal(t, "11 44\r\nword\r\ngot word", strings.TrimSpace(got))
}
