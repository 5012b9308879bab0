// Package driver says what a graph driver is: the part that keeps unpacked
// layers on a file system and stacks them for a container.
//
// # Vocabulary
//
// A layer is an immutable folder's worth of changes, known to the driver by
// a short id that the repository hands out. A stack is a list of layer ids,
// the topmost first; it may be empty. A top is a writable place over a
// stack, one for each container, known by an id of the same form.
//
// # Contract
//
// The driver is told the stack on every call and stores no relation between
// layers: those lie in the repository's transactional store, and there alone.
// The driver's folder holds what the store names and nothing else; what is
// there beside it is left over from a crash, and the repository removes it.
//
// Unpack either returns with the layer whole and on stable storage under its
// name, or returns an error and leaves at most something that List never
// names and Sweep removes. That holds for SIGKILL, power cuts and full disks
// at any moment. A layer that Unpack made is never changed again. What an
// Unpack took that found no space can be used again when it returns.
//
// Layers and tops hold whatever an archive or a container may have: there is
// no name that a driver keeps for itself, and no link of theirs is followed.
//
// The driver mounts nothing that a path leads to. Mounts gives what to mount,
// as data, and the caller does so in the container's own mount namespace: all
// of it, in its order, the last being the container's root.
//
// Ids are 1 to 12 characters of 0-9 and a-z. All methods may be called at
// once from several goroutines for different ids; the caller sees to it that
// one id is worked on by one call at a time, that no layer of a stack is
// removed while the stack is in use, and that no top is mounted while it is
// removed.
//
// # Example
//
//	d.Unpack(ctx, "1", nil, base, limits)
//	d.Unpack(ctx, "2", []string{"1"}, next, limits)
//	d.Create("c1", []string{"2", "1"}, 0)
//	ms, _ := d.Mounts("c1", []string{"2", "1"})
//	// mount each of ms on the container's root, in order
//	d.RemoveTop("c1")
//	d.Remove("2")
//	d.Remove("1")
package driver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/archive"
	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/driver/packed"
)

// Errors of drivers.
var (
	ErrUnsupported = errors.New("not supported here") // by Open and, with a limit, Create: the reason follows
	ErrMissing     = errors.New("missing on disk")    // a layer or top that should be there
)

// Mount is one mount(2) call, in the container's own mount namespace.
type Mount struct {
	Type   string  // file system type; empty for a bind mount
	Source string  // absolute path, or the driver's name
	Flags  uintptr // MS_*
	Data   string  // options; shorter than a page, with its zero (mount(2))

	Target string // absolute path of the folder to mount on; empty: the container's root

	// Volume, if set, has the file system: what Attach makes of it is to be
	// moved to the target, in place of a mount(2). Source is only its name.
	Volume Volume
	Tree   *os.File // by Attach: a mount that is attached nowhere

	// Dir, if set, is the folder to be in (chdir(2)) when mounting, because
	// Data has paths relative to it: they are too many to be absolute. It is
	// empty wherever absolute paths fit.
	Dir string
}

// Volume is a file system on a block device or in a file.
type Volume interface {
	// Mount mounts it where no path leads to, until the file is closed or its
	// mount moved somewhere.
	Mount() (*os.File, error)
}

// Attach mounts volumes where no path leads to, from which their mounts
// can be moved (move_mount(2)), once. It is done by who may open block
// devices, as a container's own process may not. release closes them.
func Attach(ms []Mount) (ready []Mount, release func(), err error) {
	release = func() {
		for _, m := range ready {
			if m.Tree != nil {
				m.Tree.Close()
			}
		}
	}
	for _, m := range ms {
		if m.Volume != nil {
			if m.Tree, err = m.Volume.Mount(); err != nil {
				release()
				return nil, nil, err
			}
			m.Volume = nil
		}
		ready = append(ready, m)
	}
	return ready, release, nil
}

// Do makes the mount on root, the container's, in the calling thread's mount
// namespace.
func (m Mount) Do(root string) error {
	target := root
	if m.Target != "" {
		target = m.Target
	}
	if m.Dir != "" {
		if err := unix.Chdir(m.Dir); err != nil {
			return fmt.Errorf("change to %s: %w", m.Dir, err)
		}
	}
	var err error
	if m.Tree != nil {
		err = unix.MoveMount(int(m.Tree.Fd()), "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
	} else {
		err = unix.Mount(m.Source, target, m.Type, m.Flags, m.Data)
	}
	if err != nil {
		return fmt.Errorf("mount %s on %s: %w", m.Type, target, err)
	}
	return nil
}

// Kind of a change, with Docker's numbers.
type Kind int

// Kinds of changes.
const (
	Modified Kind = 0
	Added    Kind = 1
	Deleted  Kind = 2
)

// Change is one path that a top has otherwise than its stack.
type Change struct {
	Path string // absolute in the container
	Kind Kind
}

// Driver keeps layers. The package comment has the whole contract.
type Driver interface {
	// Name is the driver's name: overlay, btrfs, devmapper, vfs.
	Name() string

	// Marks is how the folder that OpenLayer opens shows what a layer hides.
	// With archive.OverlayMarks it holds the layer alone; with
	// archive.FileMarks the driver unpacked the layer over what lies below it,
	// and the folder shows both and no marks.
	Marks() archive.Marks

	// Unpack makes the layer id over the stack out of a plain tar stream,
	// which it reads to its end. An error that the stream gives comes back
	// wrapped. Left-overs of an earlier try under the same id are replaced.
	// The stream may be an archive.Recorder: it has to reach archive.Unpack
	// as it is, not wrapped.
	Unpack(ctx context.Context, id string, stack []string, tar io.Reader, l archive.Limits) (archive.Stats, error)

	// Has tells whether the layer is there. It looks at its folder's
	// existence only.
	Has(id string) bool

	// OpenLayer opens a folder in which every regular file that the layer
	// brought lies under its own path, with the content that it came with;
	// what lies below the layer may be there besides. Nothing in it may be
	// changed. It is the caller's to close. ErrMissing if the layer is not
	// there.
	OpenLayer(id string) (*os.File, error)

	// Remove takes a layer away. One that is not there is no error.
	Remove(id string) error

	// Create makes an empty top over the stack, into which at most limit
	// bytes can be written: then writers get EDQUOT or ENOSPC. Zero is no
	// limit. ErrMissing if a layer of the stack is not there, ErrUnsupported
	// with the reason if a limit can't be had here. On return the top is on
	// stable storage.
	Create(id string, stack []string, limit int64) error

	// Mounts says how to mount a top. ErrMissing if it or a layer of its
	// stack is not there.
	Mounts(id string, stack []string) ([]Mount, error)

	// Size is what the container wrote into its top, in bytes of file
	// content as stat(2) counts blocks; files replaced count whole.
	Size(id string, stack []string) (int64, error)

	// Changes lists what the container did, sorted by path.
	Changes(id string, stack []string) ([]Change, error)

	// Diff writes what the container did as the tar stream of a layer, with
	// whiteouts: unpacked over the same stack, it shows what the top shows.
	// Who writes into the top meanwhile may find half of it there.
	Diff(ctx context.Context, id string, stack []string, w io.Writer) error

	// RemoveTop takes a top and all that was written into it away. One that
	// is not there is no error.
	RemoveTop(id string) error

	// List names the layers and the tops that are on disk.
	List() (layers, tops []string, err error)

	// Sweep removes what Unpack, Remove and RemoveTop left over when they
	// were cut short. No other call may be under way.
	Sweep() error
}

// Adopter is a Driver that can also use layers where they lie.
type Adopter interface {
	// Adopt makes the layer id of a packed file, which is not copied: it must
	// stay where it is, and as it is, as long as the layer. Its content has
	// been checked. A layer whose file is gone or changed is not there, for
	// Has, Create and Mounts, and the errors of the latter name the file. Over
	// what other layers it is used makes no difference.
	Adopt(id string, p packed.Place) error
}

// Try runs a driver's probe. A full disk proves nothing against a driver, and
// the engine has to start on one.
func Try(probe func() error) error {
	if err := blob.NoSpace(probe()); !errors.Is(err, blob.ErrNoSpace) {
		return err
	}
	return nil
}

// CheckID refuses ids of another form than the contract's, before they
// become part of a path.
func CheckID(id string) error {
	ok := len(id) >= 1 && len(id) <= 12
	for _, c := range id {
		ok = ok && (c >= '0' && c <= '9' || c >= 'a' && c <= 'z')
	}
	if !ok {
		return fmt.Errorf("layer id %q is not 1 to 12 characters of 0-9a-z", id)
	}
	return nil
}

// SortChanges puts changes into the order of the contract.
func SortChanges(cs []Change) {
	sort.Slice(cs, func(i, j int) bool { return cs[i].Path < cs[j].Path })
}

// SameFile tells whether two files look alike to docker diff: kind, mode,
// owner, size and time, and device for nodes. Folders' sizes and times are
// left out, since every change below them shows there.
func SameFile(a, b *unix.Stat_t) bool {
	if a.Mode != b.Mode || a.Uid != b.Uid || a.Gid != b.Gid || a.Rdev != b.Rdev {
		return false
	}
	if a.Mode&unix.S_IFMT == unix.S_IFDIR {
		return true
	}
	return a.Size == b.Size && a.Mtim == b.Mtim
}
