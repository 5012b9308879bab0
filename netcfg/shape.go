package netcfg

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Bandwidth is how much a container may receive and send at most on each of its links, in bits per second; 0: no limit.
type Bandwidth struct{ In, Out uint64 }

// ErrNoShaper says that the kernel cannot limit bandwidth.
var ErrNoShaper = errors.New("the kernel has no token bucket filter (CONFIG_NET_SCHED, CONFIG_NET_SCH_TBF; is the module sch_tbf loaded?)")

// ShaperModules are those of the kernel's that Limit takes, if it has them as such.
var ShaperModules = []string{"sch_tbf"}

// Limit makes b what a container's link may do, whose host's end is hostIf and whose own, in the namespace of a process, is ifName.
// Both are limited where they send, by a token bucket (tc-tbf(8)): what waits is not lost, and TCP slows down by itself. What the
// container sends is held back in its own namespace: one that may administer its network (CAP_NET_ADMIN) may lift that. A link
// without an end on the host cannot have In. Without a limit the kernel's usual queue is there again.
func Limit(hostIf string, pid int, ifName string, b Bandwidth) error {
	if hostIf == "" && b.In != 0 {
		return fmt.Errorf("limit what comes in through %s: a link without an end on the host (macvlan, ipvlan) can be limited in what it sends alone", ifName)
	}
	if hostIf != "" {
		link, err := netlink.LinkByName(hostIf)
		if err != nil {
			return fmt.Errorf("find link %s: %w", hostIf, err)
		}
		if err := shape(nil, link.Attrs(), b.In); err != nil {
			return err
		}
	}
	ns, err := netns.GetFromPid(pid)
	if err != nil {
		return fmt.Errorf("open network namespace of process %d: %w", pid, err)
	}
	defer ns.Close()
	s, err := nl.GetNetlinkSocketAt(ns, netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("enter network namespace of process %d: %w", pid, err)
	}
	defer s.Close()
	return inside(pid, func(ns *netlink.Handle) error {
		link, err := ns.LinkByName(ifName)
		if err != nil {
			return fmt.Errorf("find %s in the container: %w", ifName, err)
		}
		return shape(map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: s}}, link.Attrs(), b.Out)
	})
}

// shaper is the handle by which a link's queue is known to be coble's.
const shaper = 0xc0b1 << 16

// tickNanoseconds is the unit of the kernel's packet schedulers (linux/pkt_sched.h, PSCHED_SHIFT; the fourth of /proc/net/psched's
// numbers is 10^9).
const tickNanoseconds = 64

// shape limits what a link sends. The message is made by hand: the library's knows all kinds of queues, in 20 KiB.
func shape(sockets map[int]*nl.SocketHandle, link *netlink.LinkAttrs, bits uint64) error {
	ask := func(kind, flags int, more ...nl.NetlinkRequestData) error {
		req := nl.NewNetlinkRequest(kind, flags|unix.NLM_F_ACK)
		req.Sockets = sockets
		req.AddData(&nl.TcMsg{Ifindex: int32(link.Index), Handle: shaper, Parent: netlink.HANDLE_ROOT})
		for _, m := range more {
			req.AddData(m)
		}
		_, err := req.Execute(unix.NETLINK_ROUTE, 0)
		return err
	}
	if bits == 0 {
		err := ask(unix.RTM_DELQDISC, 0)
		if err == nil || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) { // there is none of ours
			return nil
		}
		return fmt.Errorf("lift the limit of link %s: %w", link.Name, err)
	}
	q := bucket(bits, link.MTU)
	options := nl.NewRtAttr(nl.TCA_OPTIONS, nil)
	options.AddRtAttr(nl.TCA_TBF_PARMS, q.Serialize())
	options.AddRtAttr(nl.TCA_TBF_RATE64, nl.Uint64Attr(bits/8))
	err := ask(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, nl.NewRtAttr(nl.TCA_KIND, nl.ZeroTerminated("tbf")), options)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) { // no such scheduler, no schedulers
		err = ErrNoShaper
	}
	if err != nil {
		return fmt.Errorf("limit link %s to %d bit/s: %w", link.Name, bits, err)
	}
	return nil
}

// bucket is pure: 20 ms may go at once, two packets at least, and what waits beside that is 100 ms' worth, ten packets at least.
func bucket(bits uint64, mtu int) nl.TcTbfQopt {
	const header = 18 // of Ethernet with a VLAN
	rate, packet := max(bits/8, 1), uint64(mtu+header)
	burst := max(rate/50, 2*packet)
	wait := max(rate/10, 10*packet)
	ticks := float64(burst) * 1e9 / float64(rate) / tickNanoseconds
	q := nl.TcTbfQopt{Buffer: uint32(ticks), Limit: uint32(min(burst+wait, 1<<31))}
	q.Rate.Rate = uint32(min(rate, 1<<32-1)) // RATE64 says it whole
	return q
}
