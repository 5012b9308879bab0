package netcfg

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
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
		host, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer host.Close()
		if err := shape(host, hostIf, b.In); err != nil {
			return err
		}
	}
	return inside(pid, func(ns *netlink.Handle) error { return shape(ns, ifName, b.Out) })
}

// shaper is the handle by which a link's queue is known to be coble's.
var shaper = netlink.MakeHandle(0xc0b1, 0)

// tickNanoseconds is the unit of the kernel's packet schedulers (linux/pkt_sched.h, PSCHED_SHIFT; the fourth of /proc/net/psched's
// numbers is 10^9).
const tickNanoseconds = 64

// shape limits what a link sends.
func shape(h *netlink.Handle, name string, bits uint64) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find link %s: %w", name, err)
	}
	attrs := netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Parent: netlink.HANDLE_ROOT, Handle: shaper}
	if bits == 0 {
		err := h.QdiscDel(&netlink.GenericQdisc{QdiscAttrs: attrs})
		if err == nil || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) { // there is none of ours
			return nil
		}
		return fmt.Errorf("lift the limit of link %s: %w", name, err)
	}
	q := bucket(bits, link.Attrs().MTU)
	q.QdiscAttrs = attrs
	err = h.QdiscReplace(q)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) { // no such scheduler, no schedulers
		err = ErrNoShaper
	}
	if err != nil {
		return fmt.Errorf("limit link %s to %d bit/s: %w", name, bits, err)
	}
	return nil
}

// bucket is pure: 10 ms may go at once, two packets at least, and what waits beside that is 100 ms' worth, ten packets at least.
func bucket(bits uint64, mtu int) *netlink.Tbf {
	const header = 18 // of Ethernet with a VLAN
	rate, packet := max(bits/8, 1), uint64(mtu+header)
	burst := max(rate/100, 2*packet)
	wait := max(rate/10, 10*packet)
	ticks := float64(burst) * 1e9 / float64(rate) / tickNanoseconds
	return &netlink.Tbf{Rate: rate, Buffer: uint32(ticks), Limit: uint32(min(burst+wait, 1<<31))}
}
