package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	maxUDP     = 4096             // bytes of a datagram (RFC 6891 asks for no more)
	atOnce     = 64               // questions of one container that are under way; the others wait in its socket
	patience   = 2 * time.Second  // with one resolver
	idleClient = 10 * time.Second // with a TCP client that says nothing
)

// Server answers one container.
type Server struct {
	zone   Zone
	udp    net.PacketConn
	tcp    net.Listener
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	slots  chan struct{}
	turn   atomic.Uint32
	done   sync.WaitGroup
}

// Serve answers on both sockets, which become its own, until Close.
func Serve(udp net.PacketConn, tcp net.Listener, z Zone) *Server {
	s := &Server{zone: z, udp: udp, tcp: tcp, slots: make(chan struct{}, atOnce)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.done.Go(s.datagrams)
	s.done.Go(s.connections)
	return s
}

// Close ends the server; questions under way get no answer.
func (s *Server) Close() {
	s.cancel()
	s.udp.Close()
	s.tcp.Close()
	s.done.Wait()
}

func (s *Server) datagrams() {
	for {
		buf := make([]byte, maxUDP)
		n, from, err := s.udp.ReadFrom(buf)
		if err != nil {
			if s.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			continue // an ICMP error of an earlier answer
		}
		s.slots <- struct{}{}
		s.done.Go(func() {
			defer func() { <-s.slots }()
			if reply := s.reply(buf[:n], "udp"); reply != nil {
				s.udp.WriteTo(reply, from)
			}
		})
	}
}

func (s *Server) connections() {
	for {
		c, err := s.tcp.Accept()
		if err != nil {
			if s.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			time.Sleep(10 * time.Millisecond) // out of descriptors
			continue
		}
		s.slots <- struct{}{}
		s.done.Go(func() {
			defer func() { <-s.slots }()
			stop := context.AfterFunc(s.ctx, func() { c.Close() })
			defer stop()
			defer c.Close()
			for {
				c.SetDeadline(time.Now().Add(idleClient))
				query, err := readMessage(c)
				if err != nil {
					return
				}
				reply := s.reply(query, "tcp")
				if reply == nil || writeMessage(c, reply) != nil {
					return
				}
			}
		})
	}
}

// reply is the zone's answer, or that of the first resolver that has one.
func (s *Server) reply(query []byte, proto string) []byte {
	reply, ok := Answer(query, s.zone, int(s.turn.Add(1)%1024))
	if !ok || reply != nil {
		return reply
	}
	for _, to := range s.zone.Upstream() {
		if reply, err := s.ask(query, proto, to); err == nil {
			return reply
		}
		if s.ctx.Err() != nil {
			return nil
		}
	}
	return Failure(query, dnsmessage.RCodeServerFailure)
}

// ask passes a query on, from the host's own network. Over UDP an answer counts only if it comes from there (the socket is
// connected) and has the query's number.
func (s *Server) ask(query []byte, proto string, to netip.AddrPort) ([]byte, error) {
	d := net.Dialer{Timeout: patience}
	c, err := d.DialContext(s.ctx, proto, to.String())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if proto == "tcp" {
		if err := writeMessage(c, query); err != nil {
			return nil, err
		}
		return readMessage(c)
	}
	if _, err := c.Write(query); err != nil {
		return nil, err
	}
	buf := make([]byte, maxUDP)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return nil, err
		}
		if n >= 12 && binary.BigEndian.Uint16(buf) == binary.BigEndian.Uint16(query) {
			return buf[:n], nil
		}
	}
}

// readMessage and writeMessage are of DNS over TCP: two bytes of length before each (RFC 1035, section 4.2.2).
func readMessage(r io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(r, b)
	return b, err
}

func writeMessage(w io.Writer, b []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
	return err
}
