// Package packed knows layers that are a compressed, read-only file system in
// one file, and that are used from where the file lies: nothing is unpacked,
// there is no second copy. The file has the tree of a layer as overlayfs
// wants it (a hidden name is a character device 0:0, an opaque folder has
// trusted.overlay.opaque=y), made with mksquashfs(1) or mkfs.erofs(1).
//
// The kernel reads the file as a file system. It trusts what it reads more
// than it should trust a stranger, so such files come from the machine's
// owner, never from a registry or a client.
package packed

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Format of a packed layer: the kernel's name of the file system.
type Format string

// The formats.
const (
	Squashfs Format = "squashfs"
	Erofs    Format = "erofs"
)

// Media types of packed layers in an OCI manifest. The diff id of such a
// layer is the digest of the file.
const (
	MediaSquashfs = "application/vnd.coble.layer.v1.squashfs"
	MediaErofs    = "application/vnd.coble.layer.v1.erofs"
)

// ByMedia is the format of a layer's media type, "" for an archive.
func ByMedia(mediaType string) Format {
	switch mediaType {
	case MediaSquashfs:
		return Squashfs
	case MediaErofs:
		return Erofs
	}
	return ""
}

// Media is the media type of a format.
func (f Format) Media() string {
	if f == Erofs {
		return MediaErofs
	}
	return MediaSquashfs
}

// Errors.
var (
	ErrKernel  = errors.New("this kernel can't") // the option that it lacks follows
	ErrChanged = errors.New("changed since it was checked")
)

// Place is a packed layer's file, as it was when its digest was checked.
type Place struct {
	Path   string // absolute
	Format Format
	Size   int64 // bytes
	MTime  int64 // nanoseconds since 1970
}

// Of describes an open file, whose path is asked of the kernel (links in the
// path that it was opened by may change later).
func Of(f *os.File, format Format) (Place, error) {
	st, err := f.Stat()
	if err != nil {
		return Place{}, fmt.Errorf("stat packed layer: %w", err)
	}
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		return Place{}, fmt.Errorf("find path of packed layer: %w", err)
	}
	return Place{Path: path, Format: format, Size: st.Size(), MTime: st.ModTime().UnixNano()}, nil
}

// Check fails if the file is not there, or with ErrChanged if it is another
// one. It reads nothing of it.
func (p Place) Check() error {
	st, err := os.Stat(p.Path)
	switch {
	case err != nil:
		return fmt.Errorf("find packed layer: %w", err)
	case st.Size() != p.Size:
		return fmt.Errorf("packed layer %s: %w: it has %d bytes, and had %d", p.Path, ErrChanged, st.Size(), p.Size)
	case st.ModTime().UnixNano() != p.MTime:
		return fmt.Errorf("packed layer %s: %w: its time of modification is another", p.Path, ErrChanged)
	}
	return nil
}

// String is what is stored of it.
func (p Place) String() string {
	raw, _ := json.Marshal(p) // a struct of strings and numbers
	return string(raw)
}

// Parse reads what String wrote.
func Parse(raw string) (p Place, err error) {
	if err = json.Unmarshal([]byte(raw), &p); err != nil {
		return p, fmt.Errorf("parse place of packed layer: %w", err)
	}
	return p, nil
}

// Mount mounts the file, read-only, where no path leads to, until the
// descriptor is closed or its mount moved somewhere (move_mount(2)). That
// needs the right to open the loop device.
func (p Place) Mount() (*os.File, error) {
	src, keep, err := p.source()
	if err != nil {
		return nil, err
	}
	if keep != nil {
		defer keep.Close()
	}
	ctx, err := unix.Fsopen(string(p.Format), unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, p.explain(err)
	}
	defer unix.Close(ctx)
	err = unix.FsconfigSetString(ctx, "source", src)
	if err == nil {
		err = unix.FsconfigSetFlag(ctx, "ro")
	}
	if err == nil {
		err = unix.FsconfigCreate(ctx)
	}
	if err != nil {
		return nil, p.explain(err)
	}
	fd, err := unix.Fsmount(ctx, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return nil, p.explain(err)
	}
	return os.NewFile(uintptr(fd), p.Path), nil
}

// Open is Mount for reading: it gives the root folder.
func (p Place) Open() (*os.File, error) {
	mnt, err := p.Mount()
	if err != nil {
		return nil, err
	}
	defer mnt.Close()
	// What fsmount gives is O_PATH: folders are read through another.
	fd, err := unix.Openat(int(mnt.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, p.explain(err)
	}
	f := os.NewFile(uintptr(fd), p.Path)
	if err := p.checkAttrs(f); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// explain says what an error of mounting means, and names what the kernel
// lacks if it is that.
func (p Place) explain(err error) error {
	wrap := func(why error) error {
		return fmt.Errorf("mount packed layer %s as %s: %w: %w", p.Path, p.Format, why, err)
	}
	switch {
	case errors.Is(err, unix.ENODEV):
		return wrap(fmt.Errorf("%w: it needs %s (module %s)", ErrKernel, p.option(), p.Format))
	case errors.Is(err, unix.ENOTBLK):
		return wrap(fmt.Errorf("%w: it needs CONFIG_BLK_DEV_LOOP (module loop) or, for erofs, CONFIG_EROFS_FS_BACKED_BY_FILE", ErrKernel))
	case errors.Is(err, unix.EINVAL) && p.Format == Squashfs:
		h, herr := p.header()
		if herr != nil {
			return wrap(herr)
		}
		return wrap(fmt.Errorf("it is packed with %s, for which the kernel needs %s, or it is damaged", h.compression(), h.option()))
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		return wrap(errors.New("it is damaged, or packed in a way that the kernel was not built for (CONFIG_EROFS_FS_ZIP); the kernel's log has more"))
	}
	return wrap(errors.New("it can't be read"))
}

func (p Place) option() string {
	if p.Format == Erofs {
		return "CONFIG_EROFS_FS"
	}
	return "CONFIG_SQUASHFS"
}

// checkAttrs refuses a file with extended attributes on a kernel that passes
// them over: opaque folders would show what they hide. squashfs says in its
// header whether it has any.
func (p Place) checkAttrs(root *os.File) error {
	_, err := unix.Fgetxattr(int(root.Fd()), "trusted.overlay.opaque", nil)
	if err == nil || errors.Is(err, unix.ENODATA) {
		return nil
	}
	if p.Format == Squashfs {
		h, herr := p.header()
		if herr != nil || !h.hasAttrs() {
			return herr
		}
	}
	return fmt.Errorf("read attributes of packed layer %s: %w: it needs %s_XATTR: %w", p.Path, ErrKernel, p.option(), err)
}

// header is the superblock of a squashfs (kernel source, squashfs_fs.h).
type header [96]byte

func (p Place) header() (h header, err error) {
	f, err := os.Open(p.Path)
	if err != nil {
		return h, fmt.Errorf("open packed layer: %w", err)
	}
	defer f.Close()
	if _, err := io.ReadFull(f, h[:]); err != nil {
		return h, fmt.Errorf("it is damaged: %w", err)
	}
	if string(h[:4]) != "hsqs" {
		return h, errors.New("it is no squashfs")
	}
	return h, nil
}

func (h header) compression() string {
	names := []string{"?", "gzip", "lzma", "lzo", "xz", "lz4", "zstd"}
	if n := binary.LittleEndian.Uint16(h[20:]); int(n) < len(names) {
		return names[n]
	}
	return names[0]
}

func (h header) option() string {
	switch c := h.compression(); c {
	case "gzip":
		return "CONFIG_SQUASHFS_ZLIB"
	case "lzo":
		return "CONFIG_SQUASHFS_LZO"
	case "xz":
		return "CONFIG_SQUASHFS_XZ"
	case "lz4":
		return "CONFIG_SQUASHFS_LZ4"
	case "zstd":
		return "CONFIG_SQUASHFS_ZSTD"
	default:
		return "what no kernel has"
	}
}

func (h header) hasAttrs() bool { return binary.LittleEndian.Uint64(h[56:]) != 1<<64-1 }
