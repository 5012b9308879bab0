// Package cut turns the log of every request that a disk received into images of
// what the disk would hold had the power gone away at some point. It reads the
// format of the kernel's dm-log-writes, which QEMU's blklogwrites driver writes
// (vm.Drive.WriteLog), and never mounts anything.
//
// A clean cut holds all requests up to one of them. A torn cut holds all requests
// up to the last flush before it, and of those after it a random part in random
// order, as from a disk with a volatile cache; writes with FUA are always there.
package cut

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"

	"github.com/coble-os/coble/layers/driver/drivertest"
)

const (
	magic    = 0x6a736677736872
	flush    = 1 << 0
	fua      = 1 << 1
	discard  = 1 << 2
	markFlag = 1 << 3
)

// Entry is one request.
type Entry struct {
	Offset  int64 // on the disk, bytes
	Length  int64 // bytes; 0 for a bare flush
	Flush   bool  // what came before is durable
	FUA     bool  // durable by itself
	Discard bool  // no data
	at      int64 // of the data in the log
}

// Log is an open log.
type Log struct {
	Entries []Entry
	file    *os.File
}

// Open reads the log in a file. The caller closes it.
func Open(name string) (*Log, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	l := &Log{file: f}
	if err := l.read(); err != nil {
		return nil, errors.Join(fmt.Errorf("read write log %s: %w", name, err), f.Close())
	}
	return l, nil
}

// Close closes the log.
func (l *Log) Close() error { return l.file.Close() }

func (l *Log) read() error {
	var super [28]byte
	if _, err := l.file.ReadAt(super[:], 0); err != nil {
		return err
	}
	count, sector := binary.LittleEndian.Uint64(super[16:]), int64(binary.LittleEndian.Uint32(super[24:]))
	if binary.LittleEndian.Uint64(super[:]) != magic || sector < 512 || sector > 1<<16 {
		return errors.New("not a log of writes")
	}
	st, err := l.file.Stat()
	if err != nil {
		return err
	}
	at := sector
	for i := range count {
		var head [32]byte
		if _, err := l.file.ReadAt(head[:], at); err != nil {
			return fmt.Errorf("entry %d of %d: %w", i, count, err)
		}
		at += sector
		flags := binary.LittleEndian.Uint64(head[16:])
		e := Entry{
			Offset: int64(binary.LittleEndian.Uint64(head[:])) * sector,
			Length: int64(binary.LittleEndian.Uint64(head[8:])) * sector,
			Flush:  flags&flush != 0, FUA: flags&fua != 0, Discard: flags&discard != 0, at: at,
		}
		if e.Offset < 0 || e.Length < 0 || (!e.Discard && e.Length > st.Size()-at) {
			return fmt.Errorf("entry %d of %d reaches beyond the log", i, count)
		}
		if flags&markFlag != 0 {
			at += int64(binary.LittleEndian.Uint64(head[24:])+uint64(sector)-1) / sector * sector
			continue
		}
		if !e.Discard {
			at += e.Length
		}
		l.Entries = append(l.Entries, e)
	}
	return nil
}

// Data is what entry i wrote.
func (l *Log) Data(i int) ([]byte, error) {
	e := l.Entries[i]
	if e.Discard {
		return nil, nil
	}
	data := make([]byte, e.Length)
	_, err := io.ReadFull(io.NewSectionReader(l.file, e.at, e.Length), data)
	return data, err
}

// Clean makes out the image base with the first n entries.
func (l *Log) Clean(base, out string, n int) error {
	order := make([]int, n)
	for i := range n {
		order[i] = i
	}
	return l.build(base, out, order)
}

// Torn makes out the image base as it might be after a cut that comes when the
// first n entries had been sent.
func (l *Log) Torn(base, out string, n int, random *rand.Rand) error {
	return l.build(base, out, l.tear(n, random))
}

// tear chooses the entries that a torn cut holds, in the order in which they
// reached the medium.
func (l *Log) tear(n int, random *rand.Rand) []int {
	durable := 0
	for i := range n {
		if l.Entries[i].Flush {
			durable = i + 1
		}
	}
	var order []int
	for i := range durable {
		order = append(order, i)
	}
	var loose []int
	for i := durable; i < n; i++ {
		if l.Entries[i].FUA || random.IntN(2) == 0 {
			loose = append(loose, i)
		}
	}
	random.Shuffle(len(loose), func(i, j int) { loose[i], loose[j] = loose[j], loose[i] })
	// Two writes of one place, the later with FUA: the later one stays.
	for _, keepFUA := range []bool{false, true} {
		for _, i := range loose {
			if l.Entries[i].FUA == keepFUA {
				order = append(order, i)
			}
		}
	}
	return order
}

// build makes out anew, as another inode: who has made a mount namespace while an
// earlier image of that name was mounted still has that mounted, and mount(8) would
// take the loop device that goes with it, and what its cache holds.
func (l *Log) build(base, out string, order []int) error {
	if err := drivertest.CopySparse(base, out); err != nil {
		return fmt.Errorf("copy %s: %w", base, err)
	}
	f, err := os.OpenFile(out, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, i := range order {
		data, err := l.Data(i)
		if err == nil && len(data) > 0 {
			_, err = f.WriteAt(data, l.Entries[i].Offset)
		}
		if err != nil {
			return fmt.Errorf("replay entry %d: %w", i, err)
		}
	}
	return f.Close()
}
