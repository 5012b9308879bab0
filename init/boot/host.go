package boot

import (
	"context"
	"errors"
	"fmt"
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

// NameFiles writes /etc/hosts below root ("" is /), unless it exists and is not
// empty, and an empty /etc/resolv.conf if there is none: containers get a copy.
func NameFiles(root, hostname string) error {
	hosts := "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
	if hostname != "" {
		hosts += "127.0.1.1\t" + hostname + "\n"
	}
	if err := os.MkdirAll(root+"/etc", 0o755); err != nil {
		return err
	}
	return errors.Join(
		writeIfMissing(root+"/etc/hosts", hosts),
		writeIfMissing(root+"/etc/resolv.conf", ""))
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
