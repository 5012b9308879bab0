package daemon_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/netcfg/dns"
	"github.com/coble-os/coble/netcfg/nstest"
)

// TestAskedMeanwhile: a name that a container asks for while no engine lives is answered by the next one, as often as engines die. The
// keeper has no more of it than one descriptor, until the container ends.
func TestAskedMeanwhile(t *testing.T) {
	m := newMachine(t, "")
	m.loadBox()
	m.do("POST", "/networks/create", map[string]any{"Name": "lan"})
	id := m.start("web", func(r *request) { r.HostConfig.NetworkMode = "lan" }, "sleep", "1000")
	address := m.inspect(id).NetworkSettings.Networks["lan"].IPAddress
	fd := asker(t, m.inspect(id).State.Pid)
	keeper := m.cmd.Process.Pid
	before := descriptors(t, keeper)
	for range 2 {
		old := m.enginePid()
		require.NoError(t, unix.Kill(keeper, unix.SIGSTOP)) // it starts no other
		require.NoError(t, unix.Kill(old, unix.SIGKILL))
		m.until("the engine's end", func() bool {
			stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", old))
			return strings.Contains(string(stat), ") Z ")
		})
		q := dnsmessage.Message{Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("web."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}}
		query, err := q.Pack()
		require.NoError(t, err)
		_, err = unix.Write(fd, query)
		require.NoError(t, err)
		require.NoError(t, unix.Kill(keeper, unix.SIGCONT))
		buf := make([]byte, 512)
		n, err := unix.Read(fd, buf)
		for err == unix.EINTR { // a socket with a limit of time is not read on
			n, err = unix.Read(fd, buf)
		}
		require.NoError(t, err)
		var reply dnsmessage.Message
		require.NoError(t, reply.Unpack(buf[:n]))
		require.Len(t, reply.Answers, 1)
		require.Equal(t, address.As4(), reply.Answers[0].Body.(*dnsmessage.AResource).A)
		m.awaitEngine(old)
	}
	require.Equal(t, before, descriptors(t, keeper))
	m.do("DELETE", "/containers/web?force=1", nil)
	m.until("the keeper's letting go", func() bool { return descriptors(t, keeper) < before-2 }) // it has had the output's two as well
}

// asker is a UDP socket in the network namespace of a process, from which its name server is asked.
func asker(t *testing.T, pid int) (fd int) {
	require.NoError(t, nstest.Visit(pid, func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		return err
	}))
	t.Cleanup(func() { unix.Close(fd) })
	tv := unix.NsecToTimeval(patience.Nanoseconds())
	require.NoError(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv))
	require.NoError(t, unix.Connect(fd, &unix.SockaddrInet4{Port: 53, Addr: dns.Address.As4()}))
	return fd
}
