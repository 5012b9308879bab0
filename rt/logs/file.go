package logs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A log is a row of files log.<number> of records. A record is a header, up to maxData bytes and a trailer:
//
//	0  mark 0xcb
//	1  stream (1, 2), with bit 7 set where the data has no final newline of its own
//	2  length of the data, uint16
//	4  time in nanoseconds since 1970, int64
//	12 cumulative spool offset behind the data, uint64: where framing goes on after a crash
//	20 number of the container's run, uint16
//	22 data
//	   length again, uint16, and the mark again: a reader can walk backwards
//
// All numbers are little-endian. A record that a crash cut short is the last one of its file and is cut off at opening.
const (
	mark       = 0xcb
	headSize   = 22
	tailSize   = 3
	maxData    = 16 << 10
	partialBit = 0x80
)

// Record is one line, or a part of a long one.
type Record struct {
	Stream  byte // 1 stdout, 2 stderr
	Partial bool // the line goes on in the next record of the stream
	Time    time.Time
	Data    []byte // with the newline, where there is one; valid until the next record

	offset int64
	run    uint16
}

func appendRecord(b []byte, r Record) []byte {
	stream := r.Stream
	if r.Partial {
		stream |= partialBit
	}
	b = append(b, mark, stream)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(r.Data)))
	b = binary.LittleEndian.AppendUint64(b, uint64(r.Time.UnixNano()))
	b = binary.LittleEndian.AppendUint64(b, uint64(r.offset))
	b = binary.LittleEndian.AppendUint16(b, r.run)
	b = append(b, r.Data...)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(r.Data)))
	return append(b, mark)
}

// errTorn says that the bytes at hand are no whole record.
var errTorn = errors.New("no whole log record")

// parseRecord reads the record at the start of b and its whole length.
func parseRecord(b []byte) (Record, int, error) {
	if len(b) < headSize+tailSize || b[0] != mark {
		return Record{}, 0, errTorn
	}
	n := int(binary.LittleEndian.Uint16(b[2:]))
	whole := headSize + n + tailSize
	if n > maxData || len(b) < whole || b[whole-1] != mark || int(binary.LittleEndian.Uint16(b[whole-3:])) != n {
		return Record{}, 0, errTorn
	}
	return Record{
		Stream:  b[1] &^ partialBit,
		Partial: b[1]&partialBit != 0,
		Time:    time.Unix(0, int64(binary.LittleEndian.Uint64(b[4:]))),
		Data:    b[headSize : headSize+n],
		offset:  int64(binary.LittleEndian.Uint64(b[12:])),
		run:     binary.LittleEndian.Uint16(b[20:]),
	}, whole, nil
}

// file is the log on disk. Appends are plain writes: the kernel brings them to storage in batches, and coble never
// fsyncs a log (flash wears out).
type file struct {
	dir      string
	maxSize  int64 // of one file, in bytes
	maxFiles int

	mu    sync.Mutex
	grown chan struct{} // closed and replaced when there is more to read; guarded by mu
	seqs  []int         // numbers of the files, oldest first; guarded by mu
	f     *os.File      // the last of them, or nil; guarded by mu
	size  int64         // of f; guarded by mu
	ended bool          // nobody appends now; guarded by mu
}

func openFile(dir string, maxSize int64, maxFiles int) (*file, error) {
	l := &file{dir: dir, maxSize: maxSize, maxFiles: maxFiles, grown: make(chan struct{}), ended: true}
	names, err := filepath.Glob(filepath.Join(dir, "log.*"))
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if n, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(name), "log.")); err == nil {
			l.seqs = append(l.seqs, n)
		}
	}
	slices.Sort(l.seqs)
	return l, nil
}

func (l *file) path(seq int) string { return filepath.Join(l.dir, "log."+strconv.Itoa(seq)) }

// recover cuts a torn record off the last file and returns, by stream, the spool offset that the run's last whole
// record ends at.
func (l *file) recover(run uint16) (map[byte]int64, error) {
	at := map[byte]int64{}
	for i := len(l.seqs) - 1; i >= 0; i-- {
		good, err := scan(l.path(l.seqs[i]), func(r Record) {
			if r.run == run {
				at[r.Stream] = max(at[r.Stream], r.offset)
			}
		})
		if err != nil {
			return nil, err
		}
		if i == len(l.seqs)-1 {
			if err := os.Truncate(l.path(l.seqs[i]), good); err != nil {
				return nil, fmt.Errorf("cut torn record: %w", err)
			}
		}
		if at[1] > 0 && at[2] > 0 {
			break
		}
	}
	return at, nil
}

// scan visits the whole records of one file and returns the length that they fill.
func scan(path string, visit func(Record)) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("open log: %w", err)
	}
	defer f.Close()
	c := cursor{f: f}
	for {
		r, err := c.next()
		if err == io.EOF || errors.Is(err, errTorn) {
			return c.off, nil
		}
		if err != nil {
			return 0, err
		}
		visit(r)
	}
}

// append writes whole records and starts a new file where the current one is full.
func (l *file) append(b []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(b) > 0 {
		if l.f == nil || l.size > 0 && l.fitting(b) == 0 {
			if err := l.rotate(); err != nil {
				return err
			}
		}
		n := l.fitting(b)
		if n == 0 { // one record that is larger than a file may be
			var err error
			if _, n, err = parseRecord(b); err != nil {
				return err
			}
		}
		if err := l.write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	close(l.grown)
	l.grown = make(chan struct{})
	return nil
}

// fitting is the length of the records at the start of b that the current file has room for. Called with mu held.
func (l *file) fitting(b []byte) (n int) {
	room := l.maxSize - l.size
	if int64(len(b)) <= room {
		return len(b)
	}
	for n < len(b) {
		_, size, err := parseRecord(b[n:])
		if err != nil || int64(n+size) > room {
			break
		}
		n += size
	}
	return n
}

// write appends to the current file. Called with mu held.
func (l *file) write(b []byte) error {
	n, err := l.f.Write(b)
	l.size += int64(n)
	if err != nil {
		// Take back a record that the full disk cut in two.
		if terr := l.f.Truncate(l.size - int64(n)); terr == nil {
			l.size -= int64(n)
		}
		return fmt.Errorf("write log: %w", err)
	}
	return nil
}

// rotate opens the file to append to. Called with mu held.
func (l *file) rotate() error {
	if l.f == nil && len(l.seqs) > 0 {
		f, err := os.OpenFile(l.path(l.seqs[len(l.seqs)-1]), os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			return fmt.Errorf("open log: %w", err)
		}
		size, err := f.Seek(0, io.SeekEnd)
		if err != nil {
			return fmt.Errorf("measure log: %w", err)
		}
		l.f, l.size = f, size
		if size < l.maxSize {
			return nil
		}
	}
	next := 0
	if len(l.seqs) > 0 {
		next = l.seqs[len(l.seqs)-1] + 1
	}
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return fmt.Errorf("make log folder: %w", err)
	}
	f, err := os.OpenFile(l.path(next), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("make log: %w", err)
	}
	if l.f != nil {
		l.f.Close()
	}
	l.f, l.size = f, 0
	l.seqs = append(l.seqs, next)
	for len(l.seqs) > l.maxFiles {
		os.Remove(l.path(l.seqs[0]))
		l.seqs = l.seqs[1:]
	}
	return nil
}

// setEnded tells readers whether more will come.
func (l *file) setEnded(ended bool) {
	l.mu.Lock()
	l.ended = ended
	if ended && l.f != nil {
		l.f.Close()
		l.f = nil
	}
	close(l.grown)
	l.grown = make(chan struct{})
	l.mu.Unlock()
}

// cursor reads one file's records forward.
type cursor struct {
	f    *os.File
	off  int64 // of the next record
	buf  []byte
	have []byte // unread part of buf
}

// next returns io.EOF at the end of the file and errTorn where the rest is no whole record; both may be tried again
// after the file has grown.
func (c *cursor) next() (Record, error) {
	r, n, err := parseRecord(c.have)
	if err != nil {
		if err = c.fill(); err != nil {
			return Record{}, err
		}
		if r, n, err = parseRecord(c.have); err != nil {
			return Record{}, err
		}
	}
	c.have = c.have[n:]
	c.off += int64(n)
	return r, nil
}

func (c *cursor) fill() error {
	if c.buf == nil {
		c.buf = make([]byte, 64<<10)
	}
	n, err := c.f.ReadAt(c.buf, c.off)
	c.have = c.buf[:n]
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.EOF
	}
	return err
}
