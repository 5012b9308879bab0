package proxy

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const serveEnv = "COBLE_TEST_PROXY"

func TestMain(m *testing.M) {
	if at := os.Getenv(serveEnv); at != "" {
		serve(at)
	}
	os.Exit(m.Run())
}

// serve is a proxy in a process of its own: "FIRST COUNT TO".
func serve(what string) {
	f := strings.Fields(what)
	first, count, to := netip.MustParseAddrPort(f[0]), 0, netip.MustParseAddrPort(f[2])
	fmt.Sscan(f[1], &count)
	var ports []Port
	for i := range count {
		ports = append(ports, Port{Proto: "tcp", At: netip.AddrPortFrom(first.Addr(), first.Port()+uint16(i)), To: to})
	}
	if err := New().Set(ports); err != nil {
		panic(err)
	}
	select {}
}

// proxies starts what carries count ports from first on: coble's in one process, or Docker's (which $COBLE_DOCKER_PROXY
// names), which has one for each port.
func proxies(t testing.TB, docker bool, first netip.AddrPort, count int, to netip.AddrPort) (pids []int) {
	start := func(cmd *exec.Cmd) {
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
		require.NoError(t, cmd.Start())
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		pids = append(pids, cmd.Process.Pid)
	}
	if !docker {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d %s", serveEnv, first, count, to))
		start(cmd)
	}
	for i := range count {
		at := netip.AddrPortFrom(first.Addr(), first.Port()+uint16(i))
		if docker {
			cmd := exec.Command(os.Getenv("COBLE_DOCKER_PROXY"), "-proto", "tcp", "-host-ip", at.Addr().String(), "-host-port", strconv.Itoa(int(at.Port())),
				"-container-ip", to.Addr().String(), "-container-port", strconv.Itoa(int(to.Port())))
			ready, told, err := os.Pipe() // descriptor 3: it says there that it listens
			require.NoError(t, err)
			cmd.ExtraFiles = []*os.File{told}
			start(cmd)
			told.Close()
			t.Cleanup(func() { ready.Close() })
		}
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			c, err := net.Dial("tcp", at.String())
			if err == nil {
				c.Close()
				break
			}
			require.True(t, time.Now().Before(deadline), "%v", err)
		}
	}
	return pids
}

// sink takes all that comes.
func sink(t testing.TB) netip.AddrPort {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				buf := make([]byte, 1<<20)
				for {
					n, err := c.Read(buf)
					if err != nil {
						c.Close()
						return
					}
					if buf[n-1] == 1 { // the end of what is timed
						c.Write([]byte{1})
					}
				}
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// kinds are the proxies to measure: coble's, and Docker's beside it if $COBLE_DOCKER_PROXY is its program.
func kinds() []bool {
	if os.Getenv("COBLE_DOCKER_PROXY") != "" {
		return []bool{false, true}
	}
	return []bool{false}
}

func nameOf(docker bool) string {
	if docker {
		return "docker-proxy"
	}
	return "coble"
}

// BenchmarkThroughput moves 1 MiB at a time over one connection.
func BenchmarkThroughput(b *testing.B) {
	for i, docker := range kinds() {
		b.Run(nameOf(docker), func(b *testing.B) {
			at := netip.AddrPortFrom(netip.MustParseAddr("127.0.78.1"), uint16(21000+i))
			proxies(b, docker, at, 1, sink(b))
			c, err := net.Dial("tcp", at.String())
			require.NoError(b, err)
			defer c.Close()
			chunk := make([]byte, 1<<20)
			b.SetBytes(int64(len(chunk)))
			for b.Loop() {
				if _, err := c.Write(chunk); err != nil {
					b.Fatal(err)
				}
			}
			c.Write([]byte{1})
			_, err = io.ReadFull(c, make([]byte, 1))
			require.NoError(b, err)
		})
	}
}

// BenchmarkConnect opens connections and closes them.
func BenchmarkConnect(b *testing.B) {
	for i, docker := range kinds() {
		b.Run(nameOf(docker), func(b *testing.B) {
			at := netip.AddrPortFrom(netip.MustParseAddr("127.0.78.2"), uint16(21000+i))
			proxies(b, docker, at, 1, sink(b))
			for b.Loop() {
				c, err := net.Dial("tcp", at.String())
				if err != nil {
					b.Fatal(err)
				}
				c.Write([]byte{1})
				io.ReadFull(c, make([]byte, 1))
				c.(*net.TCPConn).SetLinger(0)
				c.Close()
			}
		})
	}
}

// BenchmarkMemory tells the proportional memory of processes that carry a hundred ports.
func BenchmarkMemory(b *testing.B) {
	for i, docker := range kinds() {
		b.Run(nameOf(docker), func(b *testing.B) {
			pids := proxies(b, docker, netip.AddrPortFrom(netip.MustParseAddr("127.0.78.3"), uint16(22000+200*i)), 100, sink(b))
			total := 0
			for _, pid := range pids {
				text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
				require.NoError(b, err)
				for line := range strings.Lines(string(text)) {
					if rest, is := strings.CutPrefix(line, "Pss:"); is {
						kib := 0
						fmt.Sscan(rest, &kib)
						total += kib
					}
				}
			}
			for b.Loop() { // which forgets metrics
			}
			b.ReportMetric(float64(total), "KiB-PSS")
			b.ReportMetric(0, "ns/op")
		})
	}
}
