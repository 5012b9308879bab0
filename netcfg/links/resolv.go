package links

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Resolv is the content of resolv.conf(5): name servers and domains of all links, each once, those of the file before
// those of DHCP servers, and links by name. It is empty where there is none of either.
func (w Wanted) resolv() string {
	var servers []netip.Addr
	var search []string
	add := func(s []netip.Addr, domains []string) {
		for _, a := range s {
			if !slices.Contains(servers, a) {
				servers = append(servers, a)
			}
		}
		for _, d := range domains {
			if !slices.Contains(search, d) {
				search = append(search, d)
			}
		}
	}
	var byName []string
	for i := range w.Links {
		byName = append(byName, w.Links[i].Name)
	}
	slices.Sort(byName)
	for _, name := range byName {
		l := find(w.Links, name)
		add(l.DNS, l.Search)
	}
	for _, name := range byName {
		for _, lease := range w.Leases[name] {
			add(lease.DNS, lease.Search)
		}
		add(w.Adverts[name+" servers"].DNS, w.Adverts[name+" search"].Search)
	}
	var b strings.Builder
	if len(search) > 0 {
		fmt.Fprintln(&b, "search", strings.Join(search, " "))
	}
	for _, a := range servers {
		fmt.Fprintln(&b, "nameserver", a)
	}
	return b.String()
}

// replace writes a file whole or not at all, and only if it has another content.
func replace(path, content string) error {
	if have, err := os.ReadFile(path); err == nil && string(have) == content {
		return nil
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".coble-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // nothing to remove when all went well
	_, err = f.WriteString(content)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
