package networkdriver

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
	names, uplinks []string // as Config has them; guarded by mu
	last           string   // what they, and containers' own, stood for when the network was last told; guarded by mu
	follows        bool     // the host's links are followed; guarded by mu
}

// Follow takes over what the TOML file says of where ports are reached from. On a machine of coble's own the links that
// lead to the world are not among them.
func (o *Config) Follow(c configs.Config, own bool) {
	o.Listen, o.Uplinks = c.Listen, nil
	if own {
		o.Uplinks = c.Uplinks()
	}
}

// Follow is for a file that was read again.
func (d *Driver) Follow(c configs.Config) {
	var o Config
	o.Follow(c, d.o.Own)
	d.listen.mu.Lock()
	same := slices.Equal(d.listen.names, o.Listen) && slices.Equal(d.listen.uplinks, o.Uplinks)
	d.listen.names, d.listen.uplinks = o.Listen, o.Uplinks
	d.listen.mu.Unlock()
	if same {
		return
	}
	if err := d.Apply(); err != nil {
		d.o.Problem("network: " + err.Error())
	}
}

// places are what listen's names stand for at one moment, each looked up once.
type places struct {
	d              *Driver
	names, uplinks []string
	known          map[string]netcfg.Listen
}

func (d *Driver) newPlaces() *places {
	d.listen.mu.Lock()
	defer d.listen.mu.Unlock()
	return &places{d: d, names: d.listen.names, uplinks: d.listen.uplinks, known: map[string]netcfg.Listen{}}
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
	l := &p.d.listen
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = fmt.Sprint(p.known)
	if l.follows {
		return
	}
	l.follows = true
	if err := netcfg.Follow(p.d.ctx.Done(), p.d.linksChanged); err != nil {
		p.d.o.Problem(err.Error())
	}
}

// linksChanged tells the network anew if names of listen have come to stand for something else.
func (d *Driver) linksChanged() {
	now := d.newPlaces()
	for _, c := range d.o.Containers.All() {
		if v := c.View(); slices.ContainsFunc(v.State.Ports, followsListen) {
			if _, err := now.of(v.Listen); err != nil {
				d.o.Log.Error("where ports are reached from", "err", err)
				return
			}
		}
	}
	d.listen.mu.Lock()
	same := len(now.known) == 0 || fmt.Sprint(now.known) == d.listen.last && d.net.Proxied() == "" // whose sockets are of one link, not of a name
	d.listen.mu.Unlock()
	if same {
		return
	}
	if err := d.Apply(); err != nil {
		d.o.Log.Error("network", "err", err)
	}
}
