// Package dm speaks to the kernel's device mapper: the ioctls of
// /dev/mapper/control (linux/dm-ioctl.h), one function each, and nothing above
// them. It runs no program and keeps nothing between calls.
//
// Devices are known by names of at most 127 bytes. Sectors have 512 bytes.
// Errors wrap the kernel's: ENXIO where there is no such device, EBUSY where
// one is open, or where a name is taken.
package dm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrKernel is what a kernel without the device mapper, or without a target,
// gives; the option and the module follow.
var ErrKernel = errors.New("this kernel has no device mapper for it")

const control = "/dev/mapper/control"

// Target is one line of a device's table.
type Target struct {
	Start, Sectors uint64
	Type, Params   string
}

// Device is what the kernel says of one.
type Device struct {
	Number   uint64 // dev_t
	Open     int    // how many have it open
	Live     bool   // it has a table in use
	Deferred bool   // it goes when nobody has it open any more
}

// Node is the path of the device's node (devtmpfs).
func (d Device) Node() string { return fmt.Sprintf("/dev/dm-%d", unix.Minor(d.Number)) }

// String is the device's number as tables name it.
func (d Device) String() string { return Number(d.Number) }

// Number is how tables name a block device.
func Number(rdev uint64) string { return fmt.Sprintf("%d:%d", unix.Major(rdev), unix.Minor(rdev)) }

// most bounds what an answer may take, in bytes: the longest list of devices.
const most = 4 << 20

// call is one ioctl. data follows the header; out is what the kernel puts
// there instead, as far as it is in use.
func call(req uintptr, name, uuid string, flags uint32, targets int, data []byte) (h unix.DmIoctl, out []byte, err error) {
	if len(name) >= unix.DM_NAME_LEN || len(uuid) >= unix.DM_UUID_LEN {
		return h, nil, unix.ENAMETOOLONG
	}
	f, err := os.OpenFile(control, os.O_RDWR, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) {
		return h, nil, fmt.Errorf("%w: it needs CONFIG_BLK_DEV_DM (module dm_mod): %w", ErrKernel, err)
	}
	if err != nil {
		return h, nil, err
	}
	defer f.Close()
	for size := 4096; ; size *= 4 {
		buf := make([]uint64, (unix.SizeofDmIoctl+max(size, len(data))+7)/8) // aligned as the kernel wants it
		p := (*unix.DmIoctl)(unsafe.Pointer(&buf[0]))
		p.Version = [3]uint32{unix.DM_VERSION_MAJOR}
		p.Data_size, p.Data_start = uint32(len(buf)*8), unix.SizeofDmIoctl
		p.Flags, p.Target_count = flags, uint32(targets)
		copy(p.Name[:], name)
		copy(p.Uuid[:], uuid)
		raw := unsafe.Slice((*byte)(unsafe.Pointer(&buf[0])), len(buf)*8)
		copy(raw[unix.SizeofDmIoctl:], data)
		if err := ioctl(f, req, unsafe.Pointer(p)); err != nil {
			return h, nil, err
		}
		if p.Flags&unix.DM_BUFFER_FULL_FLAG != 0 && size < most {
			continue
		}
		start, end := int(p.Data_start), int(p.Data_size)
		if start < unix.SizeofDmIoctl || start > len(raw) {
			start = len(raw)
		}
		return *p, raw[start:min(max(end, start), len(raw))], nil
	}
}

func ioctl(f *os.File, req uintptr, arg unsafe.Pointer) error {
	for {
		_, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), req, uintptr(arg))
		switch e {
		case 0:
			return nil
		case unix.EINTR:
			continue
		}
		return e
	}
}

func device(h unix.DmIoctl) Device {
	return Device{
		Number: h.Dev, Open: int(h.Open_count),
		Live: h.Flags&unix.DM_ACTIVE_PRESENT_FLAG != 0, Deferred: h.Flags&unix.DM_DEFERRED_REMOVE != 0,
	}
}

// NeedTarget fails with ErrKernel unless the kernel knows a type of targets. A
// kernel that can loads the module by itself; module and option are for the
// error.
func NeedTarget(name, option, module string) error {
	_, _, err := call(unix.DM_GET_TARGET_VERSION, name, "", 0, 0, nil)
	if errors.Is(err, ErrKernel) {
		return err
	}
	if err != nil {
		return fmt.Errorf("%w: it needs %s (module %s): %w", ErrKernel, option, module, err)
	}
	return nil
}

// Create makes a device without a table.
func Create(name, uuid string) (Device, error) {
	h, _, err := call(unix.DM_DEV_CREATE, name, uuid, 0, 0, nil)
	if err != nil {
		return Device{}, fmt.Errorf("make device %s (DM_DEV_CREATE): %w", name, err)
	}
	return device(h), nil
}

// Load gives a device one target as its table, which Resume puts to use.
// Nothing can be written to a device that is readonly.
func Load(name string, readonly bool, t Target) error {
	var flags uint32
	if readonly {
		flags = unix.DM_READONLY_FLAG
	}
	_, _, err := call(unix.DM_TABLE_LOAD, name, "", flags, 1, spec(t))
	if err != nil {
		return fmt.Errorf("load table of device %s (DM_TABLE_LOAD %s): %w", name, t.Type, err)
	}
	return nil
}

// spec is struct dm_target_spec with its parameters, padded to 8 bytes.
func spec(t Target) []byte {
	size := (unix.SizeofDmTargetSpec + len(t.Params) + 1 + 7) &^ 7
	b := make([]byte, size)
	le := binary.NativeEndian
	le.PutUint64(b[0:], t.Start)
	le.PutUint64(b[8:], t.Sectors)
	le.PutUint32(b[20:], uint32(size))
	copy(b[24:24+unix.DM_MAX_TYPE_NAME-1], t.Type)
	copy(b[unix.SizeofDmTargetSpec:], t.Params)
	return b
}

// Resume puts the table that was loaded to use (DM_DEV_SUSPEND without its
// flag).
func Resume(name string) (Device, error) {
	h, _, err := call(unix.DM_DEV_SUSPEND, name, "", 0, 0, nil)
	if err != nil {
		return Device{}, fmt.Errorf("start device %s (DM_DEV_SUSPEND): %w", name, err)
	}
	return device(h), nil
}

// Remove takes a device away. One that is open is EBUSY, or goes with the last
// who has it open, if that is asked for.
func Remove(name string, whenClosed bool) error {
	var flags uint32
	if whenClosed {
		flags = unix.DM_DEFERRED_REMOVE
	}
	if _, _, err := call(unix.DM_DEV_REMOVE, name, "", flags, 0, nil); err != nil {
		return fmt.Errorf("remove device %s (DM_DEV_REMOVE): %w", name, err)
	}
	return nil
}

// Stat says what there is of a device.
func Stat(name string) (Device, error) {
	h, _, err := call(unix.DM_DEV_STATUS, name, "", 0, 0, nil)
	if err != nil {
		return Device{}, fmt.Errorf("look for device %s (DM_DEV_STATUS): %w", name, err)
	}
	return device(h), nil
}

// Message tells a device's first target something.
func Message(name, text string) error {
	data := make([]byte, 8+len(text)+1) // struct dm_target_msg
	copy(data[8:], text)
	if _, _, err := call(unix.DM_TARGET_MSG, name, "", 0, 0, data); err != nil {
		return fmt.Errorf("tell device %s %q (DM_TARGET_MSG): %w", name, text, err)
	}
	return nil
}

// Table is a device's table in use.
func Table(name string) (Target, error) { return status(name, unix.DM_STATUS_TABLE_FLAG) }

// Status is what a device's first target says of itself.
func Status(name string) (string, error) {
	t, err := status(name, 0)
	return t.Params, err
}

func status(name string, flags uint32) (Target, error) {
	h, out, err := call(unix.DM_TABLE_STATUS, name, "", flags, 0, nil)
	if err != nil {
		return Target{}, fmt.Errorf("ask device %s (DM_TABLE_STATUS): %w", name, err)
	}
	t, ok := parseSpec(out)
	if !ok || h.Target_count < 1 {
		return Target{}, fmt.Errorf("ask device %s (DM_TABLE_STATUS): it has no table", name)
	}
	return t, nil
}

func parseSpec(b []byte) (t Target, ok bool) {
	if len(b) < unix.SizeofDmTargetSpec {
		return t, false
	}
	le := binary.NativeEndian
	t.Start, t.Sectors = le.Uint64(b), le.Uint64(b[8:])
	t.Type = unix.ByteSliceToString(b[24:unix.SizeofDmTargetSpec])
	t.Params = strings.TrimSpace(unix.ByteSliceToString(b[unix.SizeofDmTargetSpec:]))
	return t, true
}

// List names all devices.
func List() ([]string, error) {
	_, out, err := call(unix.DM_LIST_DEVICES, "", "", 0, 0, nil)
	if err != nil {
		return nil, fmt.Errorf("list devices (DM_LIST_DEVICES): %w", err)
	}
	return parseList(out), nil
}

// parseList reads a chain of struct dm_name_list: a number (0: there is
// none), the distance to the next (0: the last), and a name.
func parseList(b []byte) (names []string) {
	const head = 12
	for len(b) > head {
		if binary.NativeEndian.Uint64(b) == 0 {
			break
		}
		names = append(names, unix.ByteSliceToString(b[head:]))
		next := int(binary.NativeEndian.Uint32(b[8:]))
		if next < head || next > len(b) {
			break
		}
		b = b[next:]
	}
	return names
}
