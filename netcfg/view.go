package netcfg

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"

	attrs "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/netcfg/dump"
)

// link is what has to be known of one of the host's links. There may be thousands.
type link struct {
	index, master int32 // master 0: none
	mtu           int32 // bytes
	group         uint32
	flags         uint32 // netdevice(7), IFF_…
	name, alias   string
	kind          string   // bridge, veth, …; "" for hardware
	others        []string // names of its (ip-link(8), property)
}

// device is the link for the library's calls that take no more than its index.
func (l *link) device() netlink.Link {
	return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: int(l.index), Name: l.name}}
}

// picture is what links the host has, by name.
type picture map[string]*link

// named finds a link by its name or another name of its, as the kernel does; nil if there is none.
func (p picture) named(name string) *link {
	if l := p[name]; l != nil {
		return l
	}
	for _, l := range p {
		if slices.Contains(l.others, name) {
			return l
		}
	}
	return nil
}

// errPart says that a message does not tell all of a link.
var errPart = errors.New("a part of a link")

// decodeLink is pure: a link, of the body of a message (rtnetlink(7), RTM_NEWLINK). Those of a bridge about its port (of family
// AF_BRIDGE) and of wireless drivers about their state lack most, such as the group.
func decodeLink(b []byte) (*link, error) {
	if len(b) < unix.SizeofIfInfomsg {
		return nil, errors.New("a short message about a link")
	}
	l := &link{index: int32(binary.NativeEndian.Uint32(b[4:])), flags: binary.NativeEndian.Uint32(b[8:])}
	whole := false
	d, err := attrs.NewAttributeDecoder(b[unix.SizeofIfInfomsg:])
	if err != nil {
		return nil, err
	}
	for d.Next() {
		switch d.Type() {
		case unix.IFLA_IFNAME:
			l.name = d.String()
		case unix.IFLA_IFALIAS:
			l.alias = d.String()
		case unix.IFLA_MASTER:
			l.master = d.Int32()
		case unix.IFLA_MTU:
			l.mtu = d.Int32()
		case unix.IFLA_GROUP:
			l.group, whole = d.Uint32(), true
		case unix.IFLA_LINKINFO, unix.IFLA_PROP_LIST:
			d.Nested(func(d *attrs.AttributeDecoder) error {
				for d.Next() {
					switch d.Type() {
					case unix.IFLA_INFO_KIND:
						l.kind = d.String()
					case unix.IFLA_ALT_IFNAME:
						l.others = append(l.others, d.String())
					}
				}
				return nil
			})
		}
	}
	if d.Err() == nil && !whole {
		return nil, errPart
	}
	return l, d.Err()
}

// take is pure but for the picture: what a message of the kernel's tells of links is in it then.
func (p picture) take(m syscall.NetlinkMessage) error {
	if m.Header.Type != unix.RTM_NEWLINK && m.Header.Type != unix.RTM_DELLINK {
		return fmt.Errorf("message of type %d among those about links", m.Header.Type)
	}
	l, err := decodeLink(m.Data)
	if errors.Is(err, errPart) {
		return nil
	}
	if err != nil {
		return err
	}
	p.drop(l)
	if m.Header.Type == unix.RTM_NEWLINK {
		p[l.name] = l
	}
	return nil
}

// drop forgets a link, under whatever name it was known.
func (p picture) drop(l *link) {
	if old := p[l.name]; old != nil && old.index == l.index {
		delete(p, l.name)
		return
	}
	for name, old := range p {
		if old.index == l.index {
			delete(p, name)
			return
		}
	}
}

// listLinks are all of the host's.
func listLinks() (picture, error) {
	all, err := dump.List(func() ([][]byte, error) {
		req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
		req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
		return req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	})
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	p := picture{}
	for _, b := range all {
		l, err := decodeLink(b)
		if err != nil {
			return nil, fmt.Errorf("list links: %w", err)
		}
		p[l.name] = l
	}
	return p, nil
}

// view is the picture of the links of the network namespace that its user is in. They are listed once; after that the kernel's own
// news are read (rtnetlink(7), RTMGRP_LINK), and only when somebody looks: until then they wait in the socket, and nobody is woken. When
// they were more than it holds, or cannot be understood, the links are listed again. The kernel tells all that a picture has, but for
// an alias, a group and other names that a link gets while it is down (net/core/dev.c, netdev_state_change): they are seen when it comes
// up. So what is to be changed is decided on a new list. The zero value is ready, for one user at a time.
type view struct {
	links  picture
	socket *os.File // which does not go to the poller; nil before there is one
	space  uint64   // inode of the socket's namespace, which lives while the socket does
	room   int      // bytes of the socket's buffer; 0: newsRoom
	lists  int      // how often all links were listed; for tests
}

// newsRoom holds what some twenty links have to tell while they come and go. The kernel doubles it (socket(7), SO_RCVBUF).
const newsRoom = 64 << 10

// look is the picture as it is now. It is the view's: it changes with the next look.
func (v *view) look() (picture, error) {
	var here unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &here); err != nil {
		return nil, fmt.Errorf("find this thread's network namespace: %w", err)
	}
	if v.socket == nil || v.space != here.Ino {
		if err := v.open(); err != nil {
			return nil, fmt.Errorf("follow links: %w", err)
		}
		v.space = here.Ino
	}
	if v.drain() && v.links != nil {
		return v.links, nil
	}
	return v.list()
}

// list makes the picture anew. What is told meanwhile, or was before, is taken into it at the next look: the last word is the newest.
func (v *view) list() (picture, error) {
	var err error
	v.lists++
	v.links, err = listLinks()
	return v.links, err
}

// aboutLinks is a filter (Documentation/networking/filter.rst) that lets through what is of family AF_UNSPEC: half of what is told when
// a link comes and goes is a bridge's about its port.
var aboutLinks = [...]unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: unix.SizeofNlMsghdr}, // ifi_family
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.AF_UNSPEC, Jf: 1},
	{Code: unix.BPF_RET | unix.BPF_K, K: 1<<32 - 1},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0},
}

func (v *view) open() error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	if v.socket != nil {
		v.socket.Close()
	}
	v.socket, v.links = os.NewFile(uintptr(fd), "rtnetlink"), nil
	room := v.room
	if room == 0 {
		room = newsRoom
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, room),
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(aboutLinks)), Filter: &aboutLinks[0]}),
	)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_LINK})
	}
	if err != nil {
		v.socket.Close()
		v.socket = nil
	}
	return err
}

// drain takes what the kernel has told into the picture, and tells whether that is right then. It reads to the end: after an overrun
// the kernel keeps silent until then (af_netlink.c, netlink_rcv_wake).
func (v *view) drain() (right bool) {
	buf := make([]byte, 8<<10)
	right = true
	for {
		n, from, err := unix.Recvfrom(int(v.socket.Fd()), buf, unix.MSG_DONTWAIT|unix.MSG_TRUNC)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return right
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOBUFS): // some were lost (netlink(7)); there may be others
			right = false
			continue
		case err != nil:
			return false
		}
		if a, is := from.(*unix.SockaddrNetlink); !is || a.Pid != 0 || !right {
			continue // not the kernel's, or of no use any more
		}
		right = n <= len(buf) && v.links.read(buf[:n]) == nil
	}
}

// read takes a datagram's messages into the picture.
func (p picture) read(b []byte) error {
	list, err := syscall.ParseNetlinkMessage(b)
	for _, m := range list {
		if err == nil && p != nil {
			err = p.take(m)
		}
	}
	return err
}
