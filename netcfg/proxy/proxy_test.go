package proxy

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

var loopbacks = []string{"127.0.0.1", "::1"}

// echo is a server that gives back what it got when the caller has ended its side.
func echo(t *testing.T, at string) netip.AddrPort {
	l, err := net.Listen("tcp", net.JoinHostPort(at, "0"))
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b, err := io.ReadAll(c)
				if err == nil {
					c.Write(b)
				}
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// freePort is a port that nobody has on either loopback address.
func freePort(t *testing.T) uint16 {
	l, err := net.Listen("tcp", "[::]:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

func newProxy(t *testing.T, ports ...Port) *Proxy {
	p := New()
	require.NoError(t, p.Set(ports))
	t.Cleanup(func() { p.Close() })
	return p
}

func at(ip string, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(ip), port)
}

// TestTCP: all that is sent comes through, both ways, and the end of one direction does not end the other.
func TestTCP(t *testing.T) {
	for _, ip := range loopbacks {
		port := freePort(t)
		w := Port{Proto: "tcp", At: at(ip, port), To: echo(t, ip)}
		p := newProxy(t, w)
		sent := make([]byte, 3<<20)
		rand.Read(sent)
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				c, err := net.Dial("tcp", at(ip, port).String())
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				c.Write(sent)
				c.(*net.TCPConn).CloseWrite() // the server answers only now
				got, err := io.ReadAll(c)
				if err != nil || !bytes.Equal(sent, got) {
					t.Errorf("%d of %d bytes: %v", len(got), len(sent), err)
				}
			})
		}
		wg.Wait()
		connections, count := uint64(0), uint64(0)
		for end := time.Now().Add(10 * time.Second); count != 20*uint64(len(sent)) && time.Now().Before(end); time.Sleep(time.Millisecond) {
			connections, count = p.Count([]Port{w, {Proto: "tcp", At: at(ip, port+1)}})
		}
		require.Equal(t, []uint64{10, 20 * uint64(len(sent))}, []uint64{connections, count}, "what came and what went")
	}
}

// TestEnds: what one side does at its end, the other sees: a closed port, a reset.
func TestEnds(t *testing.T) {
	port := freePort(t)
	closed := at("127.0.0.1", freePort(t))
	newProxy(t, Port{Proto: "tcp", At: at("127.0.0.1", port), To: closed})
	c, err := net.Dial("tcp", at("127.0.0.1", port).String())
	if err == nil {
		_, err = c.Read(make([]byte, 1))
		c.Close()
	}
	require.ErrorIs(t, err, unix.ECONNRESET, "a container that does not listen")

	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	port = freePort(t)
	newProxy(t, Port{Proto: "tcp", At: at("127.0.0.1", port), To: l.Addr().(*net.TCPAddr).AddrPort()})
	pair := func() (caller, container *net.TCPConn) {
		c, err := net.Dial("tcp", at("127.0.0.1", port).String())
		require.NoError(t, err)
		s, err := l.Accept()
		require.NoError(t, err)
		t.Cleanup(func() { c.Close(); s.Close() })
		deadline := time.Now().Add(10 * time.Second)
		c.SetDeadline(deadline)
		s.SetDeadline(deadline)
		return c.(*net.TCPConn), s.(*net.TCPConn)
	}
	caller, container := pair()
	caller.SetLinger(0)
	caller.Close()
	_, err = container.Read(make([]byte, 1))
	require.Error(t, err)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "the container hears of the caller's reset")

	caller, container = pair()
	container.SetLinger(0)
	container.Close()
	_, err = caller.Read(make([]byte, 1))
	require.ErrorIs(t, err, unix.ECONNRESET)

	caller, container = pair()
	require.NoError(t, container.CloseWrite())
	_, err = caller.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	_, err = caller.Write([]byte("x"))
	require.NoError(t, err)
	b := make([]byte, 1)
	_, err = container.Read(b)
	require.NoError(t, err)
	require.Equal(t, "x", string(b), "the other direction goes on")
}

// TestUDP: each client has answers of its own, from the address that it called, and is forgotten when it has gone quiet.
func TestUDP(t *testing.T) {
	for _, ip := range loopbacks {
		server, err := net.ListenPacket("udp", net.JoinHostPort(ip, "0"))
		require.NoError(t, err)
		defer server.Close()
		go func() {
			buf := make([]byte, 1<<16)
			for {
				n, from, err := server.ReadFrom(buf)
				if err != nil {
					return
				}
				server.WriteTo(append([]byte(from.String()+" "), buf[:n]...), from)
			}
		}()
		port := freePort(t)
		any, called := "0.0.0.0", "127.0.0.7" // not what the host would choose
		if ip == "::1" {
			any, called = "::", "::1"
		}
		w := Port{Proto: "udp", At: at(any, port), To: server.LocalAddr().(*net.UDPAddr).AddrPort()}
		p := newProxy(t, w)
		seen, both := map[string]bool{}, uint64(0)
		for i := range 5 {
			c, err := net.Dial("udp", at(called, port).String()) // takes answers from there alone
			require.NoError(t, err)
			defer c.Close()
			for range 2 {
				_, err = c.Write(fmt.Appendf(nil, "hello %d", i))
				require.NoError(t, err)
				buf := make([]byte, 100)
				c.SetDeadline(time.Now().Add(5 * time.Second))
				n, err := c.Read(buf)
				require.NoError(t, err)
				both += uint64(len("hello 0") + n)
				from, text, _ := strings.Cut(string(buf[:n]), " ")
				require.Equal(t, fmt.Sprintf("hello %d", i), text)
				seen[from] = true
			}
		}
		require.Len(t, seen, 5, "a socket for each client")
		callers, count := p.Count([]Port{w})
		require.Equal(t, []uint64{5, both}, []uint64{callers, count})
		later := func(d time.Duration) (flows, sockets int) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.sweep(time.Now().Add(d))
			return p.flows, len(p.sockets)
		}
		flows, sockets := later(quiet - time.Second)
		require.Equal(t, 5, flows)
		require.Equal(t, 6, sockets)
		flows, sockets = later(quiet + time.Second)
		require.Zero(t, flows)
		require.Equal(t, 1, sockets)
	}
}

// TestMadeUpClients: no more than a bounded number of clients have sockets.
func TestMadeUpClients(t *testing.T) {
	port := freePort(t)
	p := newProxy(t, Port{Proto: "udp", At: at("127.0.0.1", port), To: at("127.0.0.1", freePort(t))})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flows = maxFlows - 1
	l := p.ports[Port{Proto: "udp", At: at("127.0.0.1", port), To: p.portsTo()}]
	require.NotNil(t, p.newFlow(l, client{from: at("192.0.2.1", 1)}))
	require.Nil(t, p.newFlow(l, client{from: at("192.0.2.1", 2)}))
}

func (p *Proxy) portsTo() (to netip.AddrPort) {
	for w := range p.ports {
		to = w.To
	}
	return to
}

// TestSet: ports that stay keep their connections and sockets, others are closed, and one that somebody has is named.
func TestSet(t *testing.T) {
	server, one, two := echo(t, "127.0.0.1"), freePort(t), freePort(t)
	first, second := Port{Proto: "tcp", At: at("0.0.0.0", one), To: server}, Port{Proto: "tcp", At: at("127.0.0.1", two), To: server}
	p := newProxy(t, first, second)
	c, err := net.Dial("tcp", at("127.0.0.1", one).String())
	require.NoError(t, err)
	defer c.Close()
	fd := p.ports[first].fd
	require.NoError(t, p.Set([]Port{first}))
	require.Equal(t, fd, p.ports[first].fd)
	_, err = net.Dial("tcp", at("127.0.0.1", two).String())
	require.ErrorIs(t, err, unix.ECONNREFUSED)
	c.Write([]byte("on"))
	c.(*net.TCPConn).CloseWrite()
	b, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Equal(t, "on", string(b))

	taken := server.Port()
	err = p.Set([]Port{first, {Proto: "tcp", At: at("127.0.0.1", taken), To: server}})
	require.ErrorIs(t, err, unix.EADDRINUSE)
	require.ErrorContains(t, err, fmt.Sprintf("bind port 127.0.0.1:%d/tcp", taken))
	require.Len(t, p.ports, 1, "the others are there")
	require.NoError(t, p.Close())
	require.Empty(t, p.sockets)
	require.NoError(t, p.Set([]Port{second}), "and may be opened again")
	_, err = net.Dial("tcp", at("127.0.0.1", two).String())
	require.NoError(t, err)
}

// TestCost: ports have no goroutines or threads, and nothing is left of what was there.
func TestCost(t *testing.T) {
	server := echo(t, "127.0.0.1")
	p := newProxy(t)
	var ports []Port
	for i := range uint16(100) {
		proto := "tcp"
		if i%2 == 1 {
			proto = "udp"
		}
		ports = append(ports, Port{Proto: proto, At: at("127.0.77.1", 20000+i), To: server})
	}
	require.NoError(t, p.Set(ports[:1]))
	before, files := quietly(t)
	var m0, m1 runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m0)
	require.NoError(t, p.Set(ports))
	runtime.GC()
	runtime.ReadMemStats(&m1)
	require.LessOrEqual(t, runtime.NumGoroutine(), before)
	_, now := quietly(t)
	require.Equal(t, files+99, now)
	perPort := (int64(m1.HeapAlloc) - int64(m0.HeapAlloc)) / 99
	t.Logf("%d bytes of heap a port", perPort)
	require.Less(t, perPort, int64(1024))
	for range 50 {
		c, err := net.Dial("tcp", "127.0.77.1:20000")
		require.NoError(t, err)
		c.Close()
	}
	require.NoError(t, p.Close())
	goroutines, left := quietly(t)
	require.Less(t, goroutines, before)
	require.Equal(t, files-2, left, "neither the first port nor the epoll")
}

// quietly counts goroutines and descriptors when no connection of an earlier test, nor a pipe of a splice, is on its way out.
func quietly(t *testing.T) (goroutines, files int) {
	for same := 0; same < 10; time.Sleep(10 * time.Millisecond) {
		runtime.GC()
		if g, f := runtime.NumGoroutine(), descriptors(t); g == goroutines && f == files {
			same++
		} else {
			goroutines, files, same = g, f, 0
		}
	}
	return goroutines, files
}

func descriptors(t *testing.T) int {
	list, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(list)
}
