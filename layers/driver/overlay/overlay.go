// Package overlay keeps each layer as a folder of overlayfs: hidden names
// are character devices 0:0, opaque folders carry trusted.overlay.opaque.
// Unpacking needs no other layer, a container's start copies nothing.
//
// lowerdir is one string of at most a page (mount(2)), so folders have short
// names: ROOT/d/1a. With ROOT=/var/lib/coble/overlay that is 26 bytes each,
// and 127 layers fit (3,302 bytes). Where a longer root does not allow it,
// the mount comes with relative paths (d/1a) and the folder to be in.
//
// redirect_dir, metacopy and index are switched off by name in every mount,
// whatever the machine's defaults are: a folder that a container renames is
// copied, so that what a top holds is always whole files, which diff, commit
// and copying to another machine rely on. A top that something else wrote
// with them is refused by Changes. volatile is never used.
//
// A packed layer (package packed) is an empty folder that says in the
// attribute trusted.coble.place which file has its content, and has owner,
// mode and opaqueness of its root. The file is mounted on that folder in the
// container's own mount namespace, and the overlay over it: the machine never
// sees either, and the kernel takes away mount and loop device with the
// container, whoever is killed.
//
// A top's limit is a project quota (package quota) on its folder, which
// everything written through the overlay inherits.
package overlay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/archive"
	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/driver"
)

// maxData is the longest option string: a page of the smallest size, less
// the closing zero.
const maxData = 4095

// plainTops keeps tops from depending on their stack. All kernels since 5.10
// know these options, whatever they were built with (kernel documentation,
// filesystems/overlayfs.rst).
const plainTops = ",index=off,nfs_export=off,metacopy=off,redirect_dir=nofollow"

// Driver implements driver.Driver.
type Driver struct{ driver.Store }

// Open makes root if needed, and refuses with driver.ErrUnsupported and the
// reason if the kernel can't stack folders there.
func Open(root string) (*Driver, error) {
	s, err := driver.OpenStore(root, nil)
	if err != nil {
		return nil, err
	}
	d := &Driver{Store: s}
	if strings.ContainsAny(root, ":,\\") {
		return nil, fmt.Errorf("%w: overlay options can't name the folder %q", driver.ErrUnsupported, root)
	}
	if err := driver.Try(d.probe); err != nil {
		return nil, fmt.Errorf("%w: overlay on %s: %w", driver.ErrUnsupported, root, err)
	}
	return d, nil
}

// Name implements driver.Driver.
func (d *Driver) Name() string { return "overlay" }

// Marks implements driver.Driver.
func (d *Driver) Marks() archive.Marks { return archive.OverlayMarks }

// Unpack implements driver.Driver. The stack is not needed.
func (d *Driver) Unpack(ctx context.Context, id string, _ []string, tar io.Reader, l archive.Limits) (archive.Stats, error) {
	st, err := d.Stage(ctx, id, tar, l)
	if err != nil {
		return st, err
	}
	if err := d.Publish(id); err != nil {
		return st, errors.Join(err, d.Unstage(id), d.Remove(id))
	}
	return st, nil
}

// Stage implements driver.Stager.
func (d *Driver) Stage(ctx context.Context, id string, tar io.Reader, l archive.Limits) (archive.Stats, error) {
	temp, err := d.Temp(id)
	if err != nil {
		return archive.Stats{}, err
	}
	st, err := fill(ctx, temp, tar, l)
	if err != nil {
		d.Discard(temp)
	}
	return st, err
}

func fill(ctx context.Context, dir string, tar io.Reader, l archive.Limits) (archive.Stats, error) {
	root, err := os.Open(dir)
	if err != nil {
		return archive.Stats{}, fmt.Errorf("open layer folder: %w", err)
	}
	defer root.Close()
	if err := root.Chmod(0o755); err != nil {
		return archive.Stats{}, fmt.Errorf("set mode of layer folder: %w", err)
	}
	return archive.Unpack(ctx, root, tar, archive.Options{Limits: l, Marks: archive.OverlayMarks})
}

// Create implements driver.Driver. The top's root gets owner and mode of the
// stack's, which overlayfs shows from the top alone.
func (d *Driver) Create(id string, stack []string, limit int64) (err error) {
	if _, _, err := d.places(stack); err != nil {
		return err
	}
	temp, err := d.Temp(id)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			d.Discard(temp)
		}
	}()
	if err = d.Limit(temp, id, limit); err != nil {
		return err
	}
	for _, sub := range []string{"u", "w"} {
		if err := os.Mkdir(filepath.Join(temp, sub), 0o755); err != nil {
			return fmt.Errorf("make writable layer: %w", blob.NoSpace(err))
		}
	}
	if err := d.copyRoot(filepath.Join(temp, "u"), stack); err != nil {
		return err
	}
	if len(stack) == 0 {
		// overlayfs wants at least one lower folder.
		if err := os.Mkdir(filepath.Join(temp, "e"), 0o755); err != nil {
			return fmt.Errorf("make writable layer: %w", blob.NoSpace(err))
		}
	}
	return d.Commit(temp, d.Top(id))
}

func (d *Driver) copyRoot(upper string, stack []string) error {
	mode, uid, gid := uint32(0o755), 0, 0
	if len(stack) > 0 {
		var st unix.Stat_t
		if err := unix.Lstat(d.Layer(stack[0]), &st); err != nil {
			return fmt.Errorf("stat layer %s: %w", stack[0], err)
		}
		mode, uid, gid = st.Mode&0o7777, int(st.Uid), int(st.Gid)
	}
	if err := unix.Chown(upper, uid, gid); err != nil {
		return fmt.Errorf("set owner of writable layer: %w", err)
	}
	if err := unix.Chmod(upper, mode); err != nil {
		return fmt.Errorf("set mode of writable layer: %w", err)
	}
	return nil
}

// Mounts implements driver.Driver.
func (d *Driver) Mounts(id string, stack []string) ([]driver.Mount, error) {
	if err := d.NeedTop(id); err != nil {
		return nil, err
	}
	stack = d.visible(stack)
	below, stack, err := d.places(stack)
	if err != nil {
		return nil, err
	}
	m := driver.Mount{Type: "overlay", Source: "overlay", Data: d.data(d.Root()+"/", id, stack)}
	if len(m.Data) > maxData {
		m.Dir, m.Data = d.Root(), d.data("", id, stack)
	}
	if len(m.Data) > maxData {
		return nil, fmt.Errorf("mount writable layer %s: options for %d layers have %d bytes, at most %d are allowed", id, len(stack), len(m.Data), maxData)
	}
	return append(below, m), nil
}

// visible cuts the stack below a layer whose root is opaque: overlayfs heeds
// that mark on every folder but the roots of layers.
func (d *Driver) visible(stack []string) []string {
	for i, id := range stack {
		if isOpaque(d.Layer(id)) {
			return stack[:i+1]
		}
	}
	return stack
}

// data writes the option string with every path behind prefix.
func (d *Driver) data(prefix, id string, stack []string) string {
	var b strings.Builder
	b.WriteString("lowerdir=")
	for i, l := range stack {
		if i > 0 {
			b.WriteByte(':')
		}
		b.WriteString(prefix + "d/" + l)
	}
	top := prefix + "c/" + id
	if len(stack) == 0 {
		b.WriteString(top + "/e")
	}
	b.WriteString(",upperdir=" + top + "/u,workdir=" + top + "/w")
	b.WriteString(plainTops)
	return b.String()
}

// Size implements driver.Driver.
func (d *Driver) Size(id string, _ []string) (int64, error) {
	if err := d.NeedTop(id); err != nil {
		return 0, err
	}
	return driver.Usage(filepath.Join(d.Top(id), "u"))
}
