package archive

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// timesInMemory is how many bytes of folder times are held before they go to
// a nameless file in the target's file system.
const timesInMemory = 1 << 20

// dirTimes remembers the times of folders until all is unpacked, since every
// entry made in a folder changes its time.
type dirTimes struct {
	root *os.File
	buf  []byte
	file *os.File // nil until the buffer was full once; owned
}

func (d *dirTimes) add(name string, mtime time.Time) error {
	d.buf = binary.AppendVarint(d.buf, mtime.Unix())
	d.buf = binary.AppendUvarint(d.buf, uint64(mtime.Nanosecond()))
	d.buf = binary.AppendUvarint(d.buf, uint64(len(name)))
	d.buf = append(d.buf, name...)
	if len(d.buf) < timesInMemory {
		return nil
	}
	return d.spill()
}

func (d *dirTimes) spill() error {
	if d.file == nil {
		fd, err := unix.Openat(int(d.root.Fd()), ".", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
		if err == unix.EOPNOTSUPP {
			fd, err = unix.MemfdCreate("folder-times", unix.MFD_CLOEXEC)
		}
		if err != nil {
			return fmt.Errorf("make file for folder times: %w", err)
		}
		d.file = os.NewFile(uintptr(fd), "folder-times")
	}
	if _, err := d.file.Write(d.buf); err != nil {
		return fmt.Errorf("write folder times: %w", err)
	}
	d.buf = d.buf[:0]
	return nil
}

// apply sets all remembered times. Folders that have gone since are passed
// over.
func (d *dirTimes) apply() error {
	if d.file == nil {
		return d.applyFrom(d.buf, nil)
	}
	if err := d.spill(); err != nil {
		return err
	}
	if _, err := d.file.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read folder times: %w", err)
	}
	return d.applyFrom(nil, bufio.NewReader(d.file))
}

func (d *dirTimes) applyFrom(buf []byte, r *bufio.Reader) error {
	if r == nil {
		r = bufio.NewReader(bytes.NewReader(buf))
	}
	for {
		sec, err := binary.ReadVarint(r)
		if err == io.EOF {
			return nil
		}
		nsec, err2 := binary.ReadUvarint(r)
		n, err3 := binary.ReadUvarint(r)
		name := make([]byte, n)
		_, err4 := io.ReadFull(r, name)
		for _, e := range []error{err, err2, err3, err4} {
			if e != nil {
				return fmt.Errorf("read folder times: %w", e)
			}
		}
		if err := d.set(string(name), time.Unix(sec, int64(nsec))); err != nil {
			return err
		}
	}
}

func (d *dirTimes) set(name string, mtime time.Time) error {
	fd, err := openIn(int(d.root.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, inRoot)
	if err != nil {
		return nil // replaced by a later entry, which has set its own
	}
	defer unix.Close(fd)
	if err := setTime(fd, ".", mtime); err != nil {
		return fmt.Errorf("set time of folder %q: %w", name, err)
	}
	return nil
}

func (d *dirTimes) close() {
	if d.file != nil {
		d.file.Close()
	}
}

// setTime sets both times of a name, without following links.
func setTime(dir int, base string, t time.Time) error {
	ts, err := unix.TimeToTimespec(t)
	if err != nil {
		ts.Sec, ts.Nsec = math.MaxInt32, 0 // 32-bit machines: 2038 is as far as it goes
	}
	return unix.UtimesNanoAt(dir, base, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}
