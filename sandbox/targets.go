package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox/rootfs"
)

// makeTargets makes the folders that links of the image name and that are not there, so that files can be mounted where
// those links lead: /etc/resolv.conf is often a link into a /run that is empty. The child, which makes all other
// targets, can't follow a link to what does not exist. Everything stays inside the root, and what somebody changes
// meanwhile the child meets as it is. A root that is mounted by the child is not there yet: its owner must have it right.
func (c *Config) makeTargets() error {
	root, err := c.root()
	if err != nil || len(c.RootMounts) > 0 || len(c.Spec.Mounts) == 0 {
		return err
	}
	r, err := rootfs.Open(root)
	if err != nil {
		return nil // the child has the error
	}
	defer r.Close()
	for _, m := range c.Spec.Mounts {
		if m.Type != "bind" && !slices.Contains(m.Options, "bind") && !slices.Contains(m.Options, "rbind") {
			continue
		}
		if err := makeTarget(r, m.Destination, c.source(m)); err != nil {
			return fmt.Errorf("make the folder that %s leads to: %w", m.Destination, err)
		}
	}
	return nil
}

// makeTarget makes the folder of what p leads to, or that itself for a source that is a folder, if p is a link to what is
// not there.
func makeTarget(r *rootfs.Root, p, source string) error {
	f, err := r.OpenFile(p, unix.O_PATH, 0)
	if err == nil {
		return f.Close()
	}
	if !errors.Is(err, unix.ENOENT) {
		return nil // the child has the error
	}
	end, links, err := leadsTo(r, p)
	if err != nil || links == 0 {
		return err
	}
	if st, err := os.Stat(source); err != nil || !st.IsDir() {
		end = path.Dir(end)
	}
	if f, err = r.MkdirAll(end, 0o755); err != nil {
		return err
	}
	return f.Close()
}

// maxLinks is how many links the kernel follows (path_resolution(7)).
const maxLinks = 40

// leadsTo follows the links of p, as far as they are there, inside the root, and counts them. The result has none.
func leadsTo(r *rootfs.Root, p string) (end string, links int, err error) {
	end = "/"
	rest := strings.Split(p, "/")
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			end = path.Dir(end)
			continue
		}
		to, err := readLink(r, end, name)
		if err != nil {
			return "", 0, err
		}
		if to == "" {
			end = path.Join(end, name)
			continue
		}
		if links++; links > maxLinks {
			return "", 0, unix.ELOOP
		}
		if path.IsAbs(to) {
			end = "/"
		}
		rest = append(strings.Split(to, "/"), rest...)
	}
	return end, links, nil
}

// readLink returns what a link says, "" if it is none, or not there.
func readLink(r *rootfs.Root, dir, name string) (string, error) {
	f, err := r.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if errors.Is(err, unix.ENOENT) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(f.Fd()), name, buf)
	if err == unix.ENOENT || err == unix.EINVAL {
		return "", nil
	}
	return string(buf[:max(n, 0)]), err
}
