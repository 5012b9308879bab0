package sandbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox/plan"
)

// moveLinks moves links of this network namespace into that of a process, under their new names, with the addresses
// that are not tied to this place, and up (OCI runtime spec, config-linux.md, "Network Devices"). When the namespace
// ends, the kernel gives physical ones back, under whatever name they had.
func moveLinks(pid int, devices []plan.NetDevice) error {
	if len(devices) == 0 {
		return nil
	}
	there, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer there.Close()
	h, err := netlink.NewHandleAt(netns.NsHandle(there.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("talk to the network namespace: %w", err)
	}
	defer h.Close()
	for _, d := range devices {
		if err := moveLink(h, int(there.Fd()), d); err != nil {
			return fmt.Errorf("move link %s: %w", d.Host, err)
		}
	}
	return nil
}

func moveLink(there *netlink.Handle, nsFD int, d plan.NetDevice) error {
	link, err := netlink.LinkByName(d.Host)
	if err != nil {
		return err
	}
	addrs, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	if _, err := there.LinkByName(d.Name); err == nil {
		return fmt.Errorf("name it %s: %w", d.Name, unix.EEXIST)
	}
	if err := sendLink(link.Attrs().Index, nsFD, d.Name); err != nil {
		return err
	}
	if link, err = there.LinkByName(d.Name); err != nil {
		return err
	}
	for _, a := range addrs {
		if a.Scope != unix.RT_SCOPE_UNIVERSE || a.Flags&unix.IFA_F_PERMANENT == 0 {
			continue
		}
		again := &netlink.Addr{IPNet: a.IPNet, Peer: a.Peer, Broadcast: a.Broadcast}
		if err := there.AddrAdd(link, again); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add address %s: %w", a.IPNet, err)
		}
	}
	return there.LinkSetUp(link)
}

// sendLink changes namespace and name in one request. The kernel moves first: a name that is taken must be found before.
func sendLink(index, nsFD int, name string) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.IFLA_NET_NS_FD, binary.NativeEndian.AppendUint32(nil, uint32(nsFD))))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}
