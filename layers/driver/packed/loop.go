package packed

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// source is what a mount takes as the source of the file system: a loop
// device of the file, read-only, which the kernel takes away with its last
// user (LO_FLAGS_AUTOCLEAR, loop(4)). The file that is returned with it keeps
// it until the mount is made, and is the caller's to close. So nothing is
// left of it when the caller is killed.
//
// All mounts of one file share one device, and with it one cache. A kernel
// without loop devices mounts erofs from the file itself (Linux 6.12,
// CONFIG_EROFS_FS_BACKED_BY_FILE): then there is no file to keep.
func (p Place) source() (source string, keep *os.File, err error) {
	if err := p.Check(); err != nil {
		return "", nil, err
	}
	keep, err = loop(p.Path)
	switch {
	case err == nil:
		return keep.Name(), keep, nil
	case errors.Is(err, ErrKernel) && p.Format == Erofs:
		return p.Path, nil, nil
	}
	return "", nil, fmt.Errorf("find loop device for packed layer %s: %w", p.Path, err)
}

// maxRaces bounds how often another may be quicker to take a free device.
const maxRaces = 100

func loop(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, errors.New("it is no regular file")
	}
	if dev := existing(path, &st); dev != nil {
		return dev, nil
	}
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: it needs CONFIG_BLK_DEV_LOOP (module loop): %w", ErrKernel, err)
	}
	defer control.Close()
	for range maxRaces {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if errors.Is(err, unix.ENOTTY) {
			return nil, fmt.Errorf("%w: it needs CONFIG_BLK_DEV_LOOP (module loop): %w", ErrKernel, err)
		}
		if err != nil {
			return nil, fmt.Errorf("find free loop device: %w", err)
		}
		dev, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDONLY, 0)
		if err != nil {
			return nil, err
		}
		err = unix.IoctlLoopConfigure(int(dev.Fd()), &unix.LoopConfig{
			Fd: uint32(f.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR},
		})
		if err == nil {
			return dev, nil
		}
		dev.Close()
		if !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("set up loop device: %w", err)
		}
	}
	return nil, errors.New("others take every free one")
}

// existing finds a device that shows just this file already. What the kernel
// says of it counts once it is open: until then it may become another's.
func existing(path string, st *unix.Stat_t) *os.File {
	all, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, p := range all {
		raw, err := os.ReadFile(p)
		if err != nil || strings.TrimSuffix(string(raw), "\n") != path {
			continue
		}
		dev, err := os.OpenFile("/dev/"+filepath.Base(filepath.Dir(filepath.Dir(p))), os.O_RDONLY, 0)
		if err != nil {
			continue
		}
		const flags = unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR
		i, err := unix.IoctlLoopGetStatus64(int(dev.Fd()))
		if err == nil && i.Device == uint64(st.Dev) && i.Inode == st.Ino && i.Offset == 0 && i.Sizelimit == 0 && i.Flags&flags == flags {
			return dev
		}
		dev.Close()
	}
	return nil
}
