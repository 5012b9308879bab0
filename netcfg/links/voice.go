package links

import (
	"context"
	"net/netip"
	"time"

	"github.com/coble-os/coble/netcfg/mdns"
)

// voice says the machine's name on a link.
type voice struct {
	index     int
	addresses chan []netip.Prefix
	stop      context.CancelFunc
}

// announce starts and stops voices, and tells them what addresses there are.
func (k *Keeper) announce(ctx context.Context, s *State) {
	for i := range k.want.Links {
		l := &k.want.Links[i]
		if !l.Announce {
			continue
		}
		v, d := k.voices[l.Name], s.Devices[l.Name]
		if v != nil && (d == nil || d.Index != v.index) {
			v.stop()
			delete(k.voices, l.Name)
			v = nil
		}
		if d == nil {
			continue
		}
		if v == nil {
			v = k.speak(ctx, l.Name, d.Index)
		}
		select {
		case v.addresses <- said(d.Addresses):
		case <-ctx.Done():
		}
	}
}

func (k *Keeper) speak(ctx context.Context, link string, index int) *voice {
	ctx, stop := context.WithCancel(ctx)
	v := &voice{index: index, addresses: make(chan []netip.Prefix, 1), stop: stop}
	k.voices[link] = v
	k.saying.Go(func() {
		mdns.Link{Name: link, Index: index, Host: k.o.Host, Log: k.o.Log}.Run(ctx, v.addresses)
	})
	return v
}

// said are the addresses that others can use: those of the link only just if there are no others of IPv6.
func said(all map[netip.Prefix]time.Time) (out []netip.Prefix) {
	six := false
	for p := range all {
		six = six || p.Addr().Is6() && !p.Addr().IsLinkLocalUnicast()
	}
	for _, p := range sorted(all) {
		if p.Addr().Is4() || !six || !p.Addr().IsLinkLocalUnicast() {
			out = append(out, p)
		}
	}
	return out
}
