package netcfg

import "github.com/coble-os/coble/netcfg/nft"

// survey is what there is to be done about links.
type survey struct {
	unready bool     // a network's bridge is not there, or not as wanted
	stale   []*link  // the engine's bridges, the links on them and the parents that nobody wants
	astray  []*link  // in use and not on their bridge, which is there: it was removed, and is there again
	missing []string // in use and not there; they are about to be made, or somebody removed them
}

// settled tells whether nothing is.
func (s survey) settled() bool { return !s.unready && len(s.stale) == 0 && len(s.astray) == 0 }

// survey is pure. Each container's start comes here: it looks at each link once, and up in a map only what is wanted. Called with mu
// held.
func (h *Host) survey(c Config, links picture) (s survey) {
	wanted := map[string]bool{}
	for _, n := range c.Networks {
		wanted[n.Bridge] = true
		s.unready = s.unready || h.standing(n, links) == nil
	}
	for _, n := range c.Attached {
		wanted[n.Parent] = true
	}
	ours, mark := map[int32]bool{}, alias(h.name)
	for _, l := range links {
		made := l.alias == mark
		if made || l.kind == "bridge" && wanted[l.name] && !h.others(l) {
			ours[l.index] = true
		}
		if made && !wanted[l.name] {
			s.stale = append(s.stale, l)
		}
	}
	plugged := func(l *link) bool { return l.group == nft.LinkGroup && ours[l.master] } // the owner may put links of his own on a bridge
	unused := 0
	for _, l := range links {
		if plugged(l) {
			unused++
		}
	}
	for name, want := range c.Links {
		l, bridge := links[name], links[want.Bridge]
		if l == nil {
			s.missing = append(s.missing, name)
			continue
		}
		if plugged(l) {
			unused--
		}
		if bridge != nil && l.master != bridge.index {
			s.astray = append(s.astray, l)
		}
	}
	if unused == 0 {
		return s
	}
	for _, l := range links {
		if _, used := c.Links[l.name]; plugged(l) && !used {
			s.stale = append(s.stale, l)
		}
	}
	return s
}
