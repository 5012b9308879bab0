package overlay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/archive"
	"github.com/coble-os/coble/layers/driver"
)

// Changes implements driver.Driver. The top holds the changes already; the
// stack only tells an addition from a modification.
func (d *Driver) Changes(id string, stack []string) ([]driver.Change, error) {
	if err := d.NeedTop(id); err != nil {
		return nil, err
	}
	layers, done, err := d.trees(stack)
	if err != nil {
		return nil, err
	}
	defer done()
	upper := filepath.Join(d.Top(id), "u")
	var out []driver.Change
	var opaque []string
	err = driver.Walk(upper, func(path string, _ int, _ string, st *unix.Stat_t) error {
		if err := refuseForeign(upper, path, st); err != nil {
			return err
		}
		below, was := lookup(layers, path)
		switch {
		case archive.IsWhiteout(st):
			if was {
				out = append(out, driver.Change{Path: "/" + path, Kind: driver.Deleted})
			}
			return nil
		case !was:
			out = append(out, driver.Change{Path: "/" + path, Kind: driver.Added})
		default:
			out = append(out, driver.Change{Path: "/" + path, Kind: driver.Modified})
		}
		isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
		if isDir && was && below.Mode&unix.S_IFMT == unix.S_IFDIR && isOpaque(filepath.Join(upper, path)) {
			opaque = append(opaque, path)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, p := range opaque {
		out = append(out, hiddenBy(upper, layers, p)...)
	}
	driver.SortChanges(out)
	return out, nil
}

// Diff implements driver.Driver: the top is a layer already.
func (d *Driver) Diff(ctx context.Context, id string, _ []string, w io.Writer) error {
	if err := d.NeedTop(id); err != nil {
		return err
	}
	upper := filepath.Join(d.Top(id), "u")
	err := driver.Walk(upper, func(path string, _ int, _ string, st *unix.Stat_t) error {
		return refuseForeign(upper, path, st)
	})
	if err != nil {
		return err
	}
	root, err := os.Open(upper)
	if err != nil {
		return fmt.Errorf("open writable layer: %w", err)
	}
	defer root.Close()
	return archive.Pack(ctx, root, ".", w, archive.PackOptions{Marks: archive.OverlayMarks})
}

// errForeign says that a top is not what this package has mounted.
var errForeign = errors.New("written through an overlay with metacopy or redirect_dir, which leaves files in the layers below: mount it with those options elsewhere, and copy it out")

// refuseForeign fails for what has its content, or what lies in it, under
// another name in a layer below: Changes would be wrong, and so would be what
// is made of them.
func refuseForeign(upper, path string, st *unix.Stat_t) error {
	attr := ""
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		attr = "trusted.overlay.redirect"
	case unix.S_IFREG:
		attr = "trusted.overlay.metacopy"
	default:
		return nil
	}
	if _, err := unix.Lgetxattr(filepath.Join(upper, path), attr, nil); err != nil {
		return nil // ENODATA, as nearly always
	}
	return fmt.Errorf("read changes of writable layer: /%s: %w", path, errForeign)
}

func isOpaque(path string) bool {
	var b [1]byte
	n, err := unix.Lgetxattr(path, "trusted.overlay.opaque", b[:])
	return err == nil && n == 1 && (b[0] == 'y' || b[0] == 'x')
}

// lookup finds path in the trees of a stack as overlayfs would: the first layer that
// has it wins, and a hiding mark or something other than a folder on the way
// ends the search.
func lookup(layers []string, path string) (unix.Stat_t, bool) {
	for _, l := range layers {
		st, found, stop := lookIn(l, path)
		if found || stop {
			return st, found
		}
	}
	return unix.Stat_t{}, false
}

func lookIn(layer, path string) (st unix.Stat_t, found, stop bool) {
	stop = isOpaque(layer)
	for i := 0; i <= len(path); i++ {
		if i < len(path) && path[i] != '/' {
			continue
		}
		p := filepath.Join(layer, path[:i])
		if err := unix.Lstat(p, &st); err != nil {
			return unix.Stat_t{}, false, stop
		}
		if archive.IsWhiteout(&st) {
			return unix.Stat_t{}, false, true
		}
		if i == len(path) {
			return st, true, false
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return unix.Stat_t{}, false, true
		}
		stop = stop || isOpaque(p)
	}
	return unix.Stat_t{}, false, stop
}

// hiddenBy lists what an opaque folder of the top hides, one level deep: a
// folder that is gone is one deletion, as docker diff shows it.
func hiddenBy(upper string, layers []string, dir string) []driver.Change {
	var out []driver.Change
	seen := map[string]bool{}
	for _, l := range layers {
		_, found, _ := lookIn(l, dir)
		if !found {
			continue
		}
		_ = driver.Walk(filepath.Join(l, dir), func(path string, _ int, _ string, _ *unix.Stat_t) error {
			full := filepath.Join(dir, path)
			var st unix.Stat_t
			if seen[full] || unix.Lstat(filepath.Join(upper, full), &st) == nil {
				return driver.SkipDir
			}
			seen[full] = true
			if _, was := lookup(layers, full); was {
				out = append(out, driver.Change{Path: "/" + full, Kind: driver.Deleted})
			}
			return driver.SkipDir
		})
	}
	return out
}
