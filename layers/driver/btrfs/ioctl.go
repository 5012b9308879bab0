package btrfs

import (
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Names and layouts are those of linux/btrfs.h and linux/btrfs_tree.h.
const (
	subvolRdonly   = 1 << 1 // BTRFS_SUBVOL_RDONLY
	limitMaxExcl   = 1 << 1 // BTRFS_QGROUP_LIMIT_MAX_EXCL
	firstFree      = 256    // BTRFS_FIRST_FREE_OBJECTID: the inode of a subvolume's root
	emptySubvolDir = 2      // BTRFS_EMPTY_SUBVOL_DIR_OBJECTID: where a snapshot leaves out a subvolume
	rootTree       = 1      // BTRFS_ROOT_TREE_OBJECTID
	rootItem       = 132    // BTRFS_ROOT_ITEM_KEY
	maxName        = 255    // BTRFS_SUBVOL_NAME_MAX is larger, but a name is a file's
	quotaIsOff     = unix.ENOTCONN
)

// Numbers of ioctls, all of type 0x94 (BTRFS_IOCTL_MAGIC).
const (
	nrSync           = 8
	nrTreeSearch     = 17
	nrInoLookup      = 18
	nrSnapCreateV2   = 23
	nrSubvolCreateV2 = 24
	nrGetFlags       = 25
	nrSetFlags       = 26
	nrQgroupLimit    = 43
	nrSnapDestroyV2  = 63
)

// Directions of an ioctl's argument.
const (
	none  = 0
	write = 1
	read  = 2
	both  = 3
)

// volArgs is struct btrfs_ioctl_vol_args_v2.
type volArgs struct {
	fd      int64
	transid uint64
	flags   uint64
	unused  [4]uint64
	name    [4040]byte
}

// qgroupLimit is struct btrfs_ioctl_qgroup_limit_args.
type qgroupLimit struct {
	qgroupid                                  uint64 // 0: of the subvolume that the ioctl is made on
	flags, maxRfer, maxExcl, rsvRfer, rsvExcl uint64
}

// lookup is struct btrfs_ioctl_ino_lookup_args.
type lookup struct {
	treeid, objectid uint64
	name             [4080]byte
}

// search is struct btrfs_ioctl_search_args.
type search struct {
	treeID                                         uint64
	minObjectid, maxObjectid, minOffset, maxOffset uint64
	minTransid, maxTransid                         uint64
	minType, maxType, items, _                     uint32
	_                                              [4]uint64
	_                                              [4096 - 104]byte
}

// request is _IOC of asm-generic/ioctl.h, or of MIPS, which numbers the
// directions otherwise and has 13 bits for the size.
func request(dir, nr uint, size uintptr) uint {
	const magic = 0x94 << 8
	if strings.HasPrefix(runtime.GOARCH, "mips") {
		mips := [...]uint{none: 1, write: 4, read: 2, both: 6}
		return mips[dir]<<29 | uint(size)<<16 | magic | nr
	}
	return dir<<30 | uint(size)<<16 | magic | nr
}

func ioctl(fd int, req uint, arg unsafe.Pointer) error {
	for {
		_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(req), uintptr(arg))
		switch e {
		case 0:
			return nil
		case unix.EINTR:
			continue
		}
		return e
	}
}

func named(name string) (*volArgs, error) {
	if name == "" || len(name) > maxName {
		return nil, fmt.Errorf("subvolume name of %d bytes: %w", len(name), unix.ENAMETOOLONG)
	}
	a := &volArgs{}
	copy(a.name[:], name)
	return a, nil
}

// createSubvol makes an empty subvolume (BTRFS_IOC_SUBVOL_CREATE_V2).
func createSubvol(dir int, name string) error {
	a, err := named(name)
	if err != nil {
		return err
	}
	return ioctl(dir, request(write, nrSubvolCreateV2, unsafe.Sizeof(*a)), unsafe.Pointer(a))
}

// snapshot makes a writable snapshot of the subvolume that from is the root
// of (BTRFS_IOC_SNAP_CREATE_V2). The kernel commits its transaction for it.
func snapshot(from, dir int, name string) error {
	a, err := named(name)
	if err != nil {
		return err
	}
	a.fd = int64(from)
	return ioctl(dir, request(write, nrSnapCreateV2, unsafe.Sizeof(*a)), unsafe.Pointer(a))
}

// destroySubvol takes a subvolume's name away at once; the kernel frees what
// it holds later (BTRFS_IOC_SNAP_DESTROY_V2). ENOTEMPTY if subvolumes lie in
// it.
func destroySubvol(dir int, name string) error {
	a, err := named(name)
	if err != nil {
		return err
	}
	return ioctl(dir, request(write, nrSnapDestroyV2, unsafe.Sizeof(*a)), unsafe.Pointer(a))
}

// setReadonly sets or clears the one flag of a subvolume
// (BTRFS_IOC_SUBVOL_SETFLAGS).
func setReadonly(root int, on bool) error {
	var f uint64
	if on {
		f = subvolRdonly
	}
	return ioctl(root, request(write, nrSetFlags, unsafe.Sizeof(f)), unsafe.Pointer(&f))
}

func isReadonly(root int) (bool, error) {
	var f uint64
	err := ioctl(root, request(read, nrGetFlags, unsafe.Sizeof(f)), unsafe.Pointer(&f))
	return f&subvolRdonly != 0, err
}

// limitExclusive bounds what the subvolume holds that no other does, in
// bytes (BTRFS_IOC_QGROUP_LIMIT, which linux/btrfs.h declares as _IOR).
func limitExclusive(root int, bytes uint64) error {
	a := qgroupLimit{flags: limitMaxExcl, maxExcl: bytes}
	return ioctl(root, request(read, nrQgroupLimit, unsafe.Sizeof(a)), unsafe.Pointer(&a))
}

// subvolID is the number of the subvolume that an open file lies in
// (BTRFS_IOC_INO_LOOKUP).
func subvolID(fd int) (uint64, error) {
	a := lookup{objectid: firstFree}
	err := ioctl(fd, request(both, nrInoLookup, unsafe.Sizeof(a)), unsafe.Pointer(&a))
	return a.treeid, err
}

// exists tells whether the kernel still holds anything of a subvolume
// (BTRFS_IOC_TREE_SEARCH in the tree of roots).
func exists(fd int, id uint64) (bool, error) {
	a := search{
		treeID: rootTree, minObjectid: id, maxObjectid: id, maxOffset: math.MaxUint64, maxTransid: math.MaxUint64,
		minType: rootItem, maxType: rootItem, items: 1,
	}
	err := ioctl(fd, request(both, nrTreeSearch, unsafe.Sizeof(a)), unsafe.Pointer(&a))
	return a.items > 0, err
}

// commit commits the transaction, and makes the kernel free what destroyed
// subvolumes held soon after (BTRFS_IOC_SYNC).
func commit(fd int) error { return ioctl(fd, request(none, nrSync, 0), nil) }

// openDir opens a folder without following a link.
func openDir(dir int, name string) (*os.File, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open folder", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// isSubvol tells whether st is the root of a subvolume; the caller knows
// that it lies on btrfs.
func isSubvol(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFDIR && (st.Ino == firstFree || st.Ino == emptySubvolDir)
}

// onBtrfs fails unless a folder lies on btrfs (statfs(2)).
func onBtrfs(path string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return fmt.Errorf("ask for file system: %w", err)
	}
	if uint32(st.Type) != unix.BTRFS_SUPER_MAGIC {
		return errors.New("it is another file system")
	}
	return nil
}

// gone tells whether nothing bears the name any more.
func gone(err error) bool { return errors.Is(err, unix.ENOENT) }
