package overlay

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/driver"
	"github.com/coble-os/coble/layers/driver/packed"
)

// placeAttr has the packed.Place of a layer. No archive can bring it: only
// user.* and security.capability are unpacked.
const placeAttr = "trusted.coble.place"

// Adopt implements driver.Adopter.
func (d *Driver) Adopt(id string, p packed.Place) (err error) {
	temp, err := d.Temp(id)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			d.Discard(temp)
		}
	}()
	root, err := p.Open()
	if err != nil {
		return err
	}
	defer root.Close()
	if err := likeRoot(temp, root); err != nil {
		return fmt.Errorf("make folder of packed layer: %w", blob.NoSpace(err))
	}
	if err := unix.Setxattr(temp, placeAttr, []byte(p.String()), 0); err != nil {
		return fmt.Errorf("note place of packed layer: %w", blob.NoSpace(err))
	}
	return d.Commit(temp, d.Layer(id))
}

// likeRoot gives a folder owner, mode and opaqueness of another.
func likeRoot(path string, root *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(root.Fd()), &st); err != nil {
		return err
	}
	if err := unix.Chown(path, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Chmod(path, st.Mode&0o7777); err != nil {
		return err
	}
	if !isOpaque(within(root)) {
		return nil
	}
	return unix.Setxattr(path, "trusted.overlay.opaque", []byte("y"), 0)
}

// within is a path to an open folder that is good for a call which does not
// follow a link at its end.
func within(dir *os.File) string { return fmt.Sprintf("/proc/self/fd/%d/.", dir.Fd()) }

// place tells where a layer lies if it is packed.
func (d *Driver) place(id string) (p packed.Place, is bool, err error) {
	if err := driver.CheckID(id); err != nil {
		return p, false, err
	}
	raw := make([]byte, 8<<10) // PATH_MAX, and what JSON makes of it
	n, err := unix.Lgetxattr(d.Layer(id), placeAttr, raw)
	switch {
	case errors.Is(err, unix.ENODATA):
		return p, false, nil
	case errors.Is(err, unix.ENOENT):
		return p, false, fmt.Errorf("layer %s: %w", id, driver.ErrMissing)
	case err != nil:
		return p, false, fmt.Errorf("ask for place of layer %s: %w", id, err)
	}
	p, err = packed.Parse(string(raw[:n]))
	return p, true, err
}

// OpenLayer implements driver.Driver.
func (d *Driver) OpenLayer(id string) (*os.File, error) {
	p, is, err := d.place(id)
	if err != nil {
		return nil, err
	}
	if !is {
		return d.OpenFolder(id, "")
	}
	root, err := p.Open()
	if err != nil {
		return nil, fmt.Errorf("layer %s: %w", id, err)
	}
	return root, nil
}

// Has implements driver.Driver. A packed layer is there if its file is.
func (d *Driver) Has(id string) bool {
	p, is, err := d.place(id)
	return err == nil && (!is || p.Check() == nil)
}

// places are the mounts of the packed layers of a stack, which lie on those
// layers' folders, and the stack without what makes no difference: overlayfs
// refuses one file system twice, and all that a layer has is in the same one
// above already. ErrMissing if a layer or its file is not there.
func (d *Driver) places(stack []string) (ms []driver.Mount, rest []string, err error) {
	seen := map[string]bool{}
	for _, id := range stack {
		p, is, err := d.place(id)
		if err != nil {
			return nil, nil, err
		}
		if !is {
			rest = append(rest, id)
			continue
		}
		if err := p.Check(); err != nil {
			return nil, nil, fmt.Errorf("layer %s: %w: %w: put the file back, or load the image again", id, driver.ErrMissing, err)
		}
		if seen[p.Path] {
			continue
		}
		seen[p.Path] = true
		rest = append(rest, id)
		ms = append(ms, driver.Mount{
			Type: string(p.Format), Source: p.Path, Volume: p, Target: d.Layer(id),
		})
	}
	return ms, rest, nil
}

// trees are the paths at which a stack's layers can be read, until done is
// called.
func (d *Driver) trees(stack []string) (paths []string, done func(), err error) {
	var open []*os.File
	done = func() {
		for _, f := range open {
			f.Close()
		}
	}
	for _, id := range stack {
		p, is, err := d.place(id)
		if err != nil {
			done()
			return nil, nil, err
		}
		if !is {
			paths = append(paths, d.Layer(id))
			continue
		}
		root, err := p.Open()
		if err != nil {
			done()
			return nil, nil, fmt.Errorf("layer %s: %w", id, err)
		}
		open = append(open, root)
		paths = append(paths, within(root))
	}
	return paths, done, nil
}
