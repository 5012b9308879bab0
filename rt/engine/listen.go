package engine

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/coble-os/coble/configs"
	"github.com/coble-os/coble/netcfg"
	"github.com/coble-os/coble/rt/store"
)

// listenRules are where published ports are reached from.
type listenRules struct {
	mu             sync.Mutex
	names, uplinks []string // as NetworkOptions has them; guarded by mu
	last           string   // what they, and containers' own, stood for when the network was last told; guarded by mu
	follows        bool     // the host's links are followed; guarded by mu
}

// Follow takes over what the TOML file says of where ports are reached from. On a machine of coble's own the links that
// lead to the world are not among them.
func (o *NetworkOptions) Follow(c configs.Config, own bool) {
	o.Listen, o.Uplinks = c.Listen, nil
	if own {
		o.Uplinks = c.Uplinks()
	}
}

// setListen is for a file that was read again.
func (e *Engine) setListen(c configs.Config) {
	var o NetworkOptions
	o.Follow(c, e.o.Init)
	e.listen.mu.Lock()
	same := slices.Equal(e.listen.names, o.Listen) && slices.Equal(e.listen.uplinks, o.Uplinks)
	e.listen.names, e.listen.uplinks = o.Listen, o.Uplinks
	e.listen.mu.Unlock()
	if same {
		return
	}
	if err := e.applyNetwork(); err != nil {
		e.Problem("network: " + err.Error())
	}
}

// places are what listen's names stand for at one moment, each looked up once.
type places struct {
	e              *Engine
	names, uplinks []string
	known          map[string]netcfg.Listen
}

func (e *Engine) newPlaces() *places {
	e.listen.mu.Lock()
	defer e.listen.mu.Unlock()
	return &places{e: e, names: e.listen.names, uplinks: e.listen.uplinks, known: map[string]netcfg.Listen{}}
}

// of is where a container's ports are reached from that has this listen of its own.
func (p *places) of(own []string) (l netcfg.Listen, err error) {
	if len(own) == 0 {
		own = p.names
	}
	if len(own) == 0 && len(p.uplinks) == 0 {
		return l, nil
	}
	key := strings.Join(own, " ")
	if l, known := p.known[key]; known {
		return l, nil
	}
	if len(own) > 0 {
		l, err = whereWithZones(own)
	} else {
		l.Except = true
		l.Links, err = netcfg.Uplinks()
		l.Links = append(l.Links, p.uplinks...)
		slices.Sort(l.Links)
		l.Links = slices.Compact(l.Links)
	}
	p.known[key] = l
	return l, err
}

// whereWithZones also knows the zones of the host's firewall.
func whereWithZones(names []string) (netcfg.Listen, error) {
	rules, err := netcfg.Firewalls()
	if err != nil {
		return netcfg.Listen{}, err
	}
	return netcfg.Where(names, rules.Zones())
}

// followsListen tells whether listen counts for a port: it names no address.
func followsListen(l store.PortLease) bool { return l.HostIP == "" && !l.Everywhere }

// told notes what the network was told, and from the first time on that it was told of links follows them.
func (p *places) told() {
	if len(p.known) == 0 {
		return
	}
	l := &p.e.listen
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = fmt.Sprint(p.known)
	if l.follows {
		return
	}
	l.follows = true
	if err := netcfg.Follow(p.e.ctx.Done(), p.e.linksChanged); err != nil {
		p.e.Problem(err.Error())
	}
}

// linksChanged tells the network anew if names of listen have come to stand for something else.
func (e *Engine) linksChanged() {
	now := e.newPlaces()
	for _, c := range e.all() {
		if v := c.View(); slices.ContainsFunc(v.State.Ports, followsListen) {
			if _, err := now.of(v.Listen); err != nil {
				e.log.Error("where ports are reached from", "err", err)
				return
			}
		}
	}
	e.listen.mu.Lock()
	same := len(now.known) == 0 || fmt.Sprint(now.known) == e.listen.last && e.net.Proxied() == "" // whose sockets are of one link, not of a name
	e.listen.mu.Unlock()
	if same {
		return
	}
	if err := e.applyNetwork(); err != nil {
		e.log.Error("network", "err", err)
	}
}
