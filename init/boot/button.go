package boot

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"
)

// PowerButton has pressed called, on goroutines of its own, for each press of a
// power key on any input device that has one (input-event-codes.h: KEY_POWER),
// until ctx ends. No press that comes after its return is missed. Needed
// modules: evdev, and button (ACPI) or gpio_keys. Devices that appear later are
// not watched. It fails when no device has such a key.
func PowerButton(ctx context.Context, pressed func()) error {
	var files []*os.File
	events, _ := filepath.Glob("/sys/class/input/event*")
	for _, sys := range events {
		keys, _ := os.ReadFile(sys + "/device/capabilities/key")
		if !hasBit(string(keys), keyPower) {
			continue
		}
		if f, err := os.Open("/dev/input/" + filepath.Base(sys)); err == nil {
			files = append(files, f)
		}
	}
	if len(files) == 0 {
		return fmt.Errorf("no power button among %d input devices", len(events))
	}
	for _, f := range files {
		context.AfterFunc(ctx, func() { f.Close() }) // ends its reader
		go readKeys(f, pressed)
	}
	return nil
}

const (
	evKey    = 1
	keyPower = 116
)

// readKeys reads struct input_event (two longs of time, then type, code, value)
// until the file is closed or its device gone.
func readKeys(f *os.File, pressed func()) {
	const times = 2 * int(unsafe.Sizeof(uintptr(0)))
	buf := make([]byte, 64*(times+8))
	for {
		n, err := f.Read(buf)
		if err != nil {
			f.Close()
			return
		}
		for e := buf[:n]; len(e) >= times+8; e = e[times+8:] {
			kind := binary.NativeEndian.Uint16(e[times:])
			code := binary.NativeEndian.Uint16(e[times+2:])
			value := binary.NativeEndian.Uint32(e[times+4:])
			if kind == evKey && code == keyPower && value == 1 {
				pressed()
			}
		}
	}
}

// hasBit reads a bitmap of sysfs: hexadecimal longs, the highest first.
func hasBit(bitmap string, bit int) bool {
	words := strings.Fields(bitmap)
	i := len(words) - 1 - bit/strconv.IntSize
	if i < 0 {
		return false
	}
	word, err := strconv.ParseUint(words[i], 16, 64)
	return err == nil && word>>(bit%strconv.IntSize)&1 == 1
}
