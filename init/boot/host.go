package boot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Hostname sets the host name: 1 to 64 bytes of letters, digits, '-' and '.'.
func Hostname(name string) error {
	if name == "" || len(name) > 64 {
		return fmt.Errorf("host name %.80q has %d bytes, not 1 to 64", name, len(name))
	}
	for _, c := range name {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '.' {
			return fmt.Errorf("host name %q has a %q in it", name, c)
		}
	}
	if err := unix.Sethostname([]byte(name)); err != nil {
		return fmt.Errorf("set host name %s: %w", name, err)
	}
	return nil
}

// NameFiles writes /etc/hosts and /etc/resolv.conf below root ("" is /) unless
// they exist and are not empty.
func NameFiles(root, hostname string, servers []netip.Addr) error {
	hosts := "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
	if hostname != "" {
		hosts += "127.0.1.1\t" + hostname + "\n"
	}
	var resolv strings.Builder
	for _, s := range servers {
		fmt.Fprintf(&resolv, "nameserver %s\n", s)
	}
	if err := os.MkdirAll(root+"/etc", 0o755); err != nil {
		return err
	}
	return errors.Join(
		writeIfMissing(root+"/etc/hosts", hosts),
		writeIfMissing(root+"/etc/resolv.conf", resolv.String()))
}

func writeIfMissing(name, content string) error {
	if st, err := os.Stat(name); err == nil && st.Size() > 0 {
		return nil
	}
	return os.WriteFile(name, []byte(content), 0o644)
}

// Loopback brings up lo.
func Loopback() error {
	link, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring up lo: %w", err)
	}
	return nil
}

// StaticLink waits for the link name until ctx ends, gives it an address and,
// when gateway is valid, a default route. Other addresses stay.
func StaticLink(ctx context.Context, name string, address netip.Prefix, gateway netip.Addr) error {
	link, err := waitLink(ctx, name)
	if err != nil {
		return err
	}
	if err := netlink.AddrReplace(link, netlinkAddr(address)); err != nil {
		return fmt.Errorf("give %s the address %s: %w", name, address, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring up %s: %w", name, err)
	}
	if !gateway.IsValid() {
		return nil
	}
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway.AsSlice()}
	if err := netlink.RouteReplace(route); err != nil {
		return fmt.Errorf("set default route by %s over %s: %w", gateway, name, err)
	}
	return nil
}

func netlinkAddr(p netip.Prefix) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{
		IP:   p.Addr().AsSlice(),
		Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen()),
	}}
}

func waitLink(ctx context.Context, name string) (netlink.Link, error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		link, err := netlink.LinkByName(name)
		if err == nil {
			return link, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("find link %s: %w (%w)", name, err, ctx.Err())
		}
	}
}

// FirstLink is the name of the first link that has hardware behind it, waiting
// for one until ctx ends.
func FirstLink(ctx context.Context) (string, error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		entries, err := os.ReadDir("/sys/class/net")
		if err != nil {
			return "", err
		}
		for _, e := range entries {
			if _, err := os.Stat("/sys/class/net/" + e.Name() + "/device"); err == nil {
				return e.Name(), nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return "", fmt.Errorf("find a network link: %w", ctx.Err())
		}
	}
}

// Param is the value of key on a kernel command line: the last KEY=VALUE wins,
// values may be quoted, and a bare KEY has the empty value.
func Param(cmdline, key string) (value string, ok bool) {
	for _, word := range splitParams(cmdline) {
		if k, v, _ := strings.Cut(word, "="); k == key {
			value, ok = v, true
		}
	}
	return value, ok
}

// splitParams splits at white space outside of double quotes, which it drops.
func splitParams(cmdline string) []string {
	var words []string
	var word strings.Builder
	quoted := false
	for _, c := range cmdline + " " {
		switch {
		case c == '"':
			quoted = !quoted
		case !quoted && (c == ' ' || c == '\n' || c == '\t'):
			if word.Len() > 0 {
				words = append(words, word.String())
				word.Reset()
			}
		default:
			word.WriteRune(c)
		}
	}
	if quoted && word.Len() > 0 {
		words = append(words, strings.TrimSuffix(word.String(), " "))
	}
	return words
}
