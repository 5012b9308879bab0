package devmapper

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/driver/devmapper/dm"
)

// maxRaces bounds how often another may be quicker to take a free device.
const maxRaces = 100

// loopOf finds or makes the loop device of a file, which the kernel takes away
// with its last user (LO_FLAGS_AUTOCLEAR, loop(4)). The open device is the
// caller's to close. Writes go through the page cache: with direct I/O the
// kernel takes one that a full file system cut short for a whole one.
func loopOf(path string) (dev *os.File, rdev uint64, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, 0, err
	}
	if dev, rdev = loopThere(&st); dev != nil {
		return dev, rdev, nil
	}
	ctl, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, 0, fmt.Errorf("%w: it needs CONFIG_BLK_DEV_LOOP (module loop): %w", dm.ErrKernel, err)
	}
	defer ctl.Close()
	for range maxRaces {
		n, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, 0, fmt.Errorf("find free loop device: %w", err)
		}
		dev, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
		if err != nil {
			return nil, 0, err
		}
		err = unix.IoctlLoopConfigure(int(dev.Fd()), &unix.LoopConfig{
			Fd: uint32(f.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR},
		})
		if err == nil {
			rdev, err = blockDevice(dev)
			return dev, rdev, err
		}
		dev.Close()
		if !errors.Is(err, unix.EBUSY) {
			return nil, 0, fmt.Errorf("set up loop device: %w", err)
		}
	}
	return nil, 0, errors.New("others take every free one")
}

// loopThere finds the device that has just this file.
func loopThere(st *unix.Stat_t) (*os.File, uint64) {
	all, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, p := range all {
		name, _, _ := strings.Cut(strings.TrimPrefix(p, "/sys/block/"), "/")
		dev, err := os.OpenFile("/dev/"+name, os.O_RDWR, 0)
		if err != nil {
			continue
		}
		i, err := unix.IoctlLoopGetStatus64(int(dev.Fd()))
		if err == nil && i.Device == uint64(st.Dev) && i.Inode == st.Ino && i.Offset == 0 && i.Sizelimit == 0 && i.Flags&unix.LO_FLAGS_READ_ONLY == 0 {
			if rdev, err := blockDevice(dev); err == nil {
				return dev, rdev
			}
		}
		dev.Close()
	}
	return nil, 0
}
