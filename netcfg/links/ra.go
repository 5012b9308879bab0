package links

import (
	"encoding/binary"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/netcfg/dhcp"
)

// advert is what a router says of name servers (RFC 8106): the kernel leaves that to others.
type advert struct {
	index  int // of the link
	DNS    []netip.Addr
	Search []string
	Until  time.Time
}

// readAdvert reads a message of type RTM_NEWNDUSEROPT: struct nduseroptmsg, 16 bytes (linux/rtnetlink.h), then one option of
// the router's.
func readAdvert(b []byte, now time.Time) (a advert, ok bool) {
	const head, rdnss, dnssl = 16, 25, 31
	if len(b) < head+8 || b[0] != unix.AF_INET6 {
		return a, false
	}
	a.index = int(binary.NativeEndian.Uint32(b[4:]))
	o := b[head:]
	size := int(o[1]) * 8
	if size < 8 || size > len(o) {
		return a, false
	}
	a.Until = now.Add(time.Duration(binary.BigEndian.Uint32(o[4:])) * time.Second)
	switch o[0] {
	case rdnss:
		a.DNS = dhcp.Addresses(o[8:size], 16)
	case dnssl:
		a.Search = dhcp.Names(o[8:size])
	}
	return a, len(a.DNS) > 0 || len(a.Search) > 0
}

// advertised notes it, for links where routers are obeyed. Servers and domains come one by one, and replace those of before.
func (k *Keeper) advertised(a advert, s *State) {
	for name, v := range s.Devices {
		if l := find(k.want.Links, name); v.Index != a.index || l == nil || !l.obeys() {
			continue
		}
		if a.DNS != nil {
			k.memory.Adverts[name+" servers"] = a
		} else {
			k.memory.Adverts[name+" search"] = a
		}
	}
}

// acceptRA is the sysctl's value, empty for the kernel's own. Where this machine gives addresses out, it is the router, and would
// hear itself (RFC 4861, 6.2).
func (l *Link) acceptRA() string {
	switch {
	case l.obeys():
		return "2" // though the machine forwards
	case l.RA != nil || l.PrefixFrom != "":
		return "0"
	}
	return ""
}

// obeys says whether the file wants to hear of routers.
func (l *Link) obeys() bool { return l.RA != nil && *l.RA }

// adverts are those that still hold, and when the first of them ends.
func (k *Keeper) adverts(now time.Time) (all map[string]advert, next time.Time) {
	all = map[string]advert{}
	for i := range k.want.Links {
		name, obeyed := k.want.Links[i].Name, k.want.Links[i].obeys()
		for _, what := range []string{" servers", " search"} {
			a, has := k.memory.Adverts[name+what]
			if !has || !obeyed || !a.Until.After(now) {
				delete(k.memory.Adverts, name+what)
				continue
			}
			all[name+what] = a
			if next.IsZero() || a.Until.Before(next) {
				next = a.Until
			}
		}
	}
	return all, next
}
