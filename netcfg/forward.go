package netcfg

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/coble-os/coble/netcfg/nft"
)

// forward switches forwarding on for what the network has. Where it was off, the table is told to let nothing through that
// is not ours, so that the host does not become a router for others.
func (h *Host) forward(n Network) error {
	if n.Internal {
		return nil
	}
	if n.V4.IsValid() {
		if err := h.forwardFamily(false); err != nil {
			return err
		}
	}
	if !n.V6.IsValid() {
		return nil
	}
	return h.forwardFamily(true)
}

var forwardKeys = [2]string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"}

// forwardFamily switches forwarding on for one family, of IPv6 if six. If it is on because of another engine, this one keeps the
// guard too: either may go.
func (h *Host) forwardFamily(six bool) error {
	i := 0
	if six {
		i = 1
	}
	b, err := os.ReadFile("/proc/sys/" + forwardKeys[i])
	if err != nil {
		return err
	}
	on := strings.TrimSpace(string(b)) == "1"
	g, err := h.guards()
	if err != nil {
		return err
	}
	if on && !g[i] {
		_, others, err := nft.Guards(h.name)
		if errors.Is(err, nft.ErrMissing) {
			return nil
		}
		if err != nil || !others[i] {
			return err
		}
	}
	if !g[i] || !on {
		if h.lacks == lacksAll {
			return nil
		}
		err := nft.Guard(h.name, six)
		if errors.Is(err, nft.ErrMissing) { // without a guard the host would be anybody's router
			return nil
		}
		if err != nil {
			return err
		}
		h.guard[i] = true
	}
	if on {
		return nil
	}
	if six {
		if err := keepAutoconf(); err != nil {
			return err
		}
	}
	return sysctl(forwardKeys[i], "1")
}

// keepAutoconf lets links that take their IPv6 address from router advertisements go on doing so when the host forwards
// (Documentation/networking/ip-sysctl, accept_ra).
func keepAutoconf() error {
	files, err := filepath.Glob("/proc/sys/net/ipv6/conf/*/accept_ra")
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil || strings.TrimSpace(string(b)) != "1" {
			continue // gone meanwhile, or set on purpose
		}
		if err := sysctl(strings.TrimPrefix(f, "/proc/sys/"), "2"); err != nil {
			return err
		}
	}
	return err
}

func sysctl(key, value string) error {
	if err := os.WriteFile("/proc/sys/"+key, []byte(value), 0); err != nil {
		return fmt.Errorf("set sysctl %s to %s: %w", strings.ReplaceAll(key, "/", "."), value, err)
	}
	return nil
}

// leaveDecided finds out whether another firewall decides what the host forwards, where coble would have to. Called with mu held.
func (h *Host) leaveDecided(r *nft.Rules) error {
	g, err := h.guards()
	if err != nil || g == [2]bool{} {
		return err
	}
	others, err := Firewalls()
	if err != nil {
		return err
	}
	r.Decided4, r.Decided6 = g[0] && others.Closed(false), g[1] && others.Closed(true)
	return nil
}

// guards says for which families forwarding was off before coble came, be it this engine or another that is still there.
// Called with mu held.
func (h *Host) guards() ([2]bool, error) {
	if h.guard != nil {
		return *h.guard, nil
	}
	own, _, err := nft.Guards(h.name)
	if errors.Is(err, nft.ErrMissing) {
		err = nil
	}
	if err == nil {
		h.guard = &own
	}
	return own, err
}

// stopForwarding switches forwarding off again where it was off before, unless another engine needs it still, or a firewall
// decides by now what is forwarded.
func stopForwarding(name string) error {
	own, _, err := nft.Guards(name)
	if errors.Is(err, nft.ErrMissing) {
		return nil
	}
	if err != nil || own == [2]bool{} {
		return err
	}
	links, err := listLinks()
	if err != nil {
		return err
	}
	for _, l := range links {
		if New(name).others(l) {
			return nil
		}
	}
	others, err := Firewalls()
	if err != nil {
		return err
	}
	for i, key := range forwardKeys {
		if own[i] && !others.Closed(i == 1) {
			err = errors.Join(err, sysctl(key, "0"))
		}
	}
	return err
}
