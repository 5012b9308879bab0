package logs

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"time"
)

// ReadOptions select records.
type ReadOptions struct {
	Streams map[byte]bool
	Since   time.Time // zero: from the start
	Until   time.Time // zero: no end
	Tail    int       // at most so many lines from the end; negative: all
	Follow  bool      // wait for more until the container's run ends
}

// Read visits the selected records in order. It ends at the log's end or, following, when the container's output has
// ended or ctx does. Files that rotation removes under a slow reader are skipped.
func (l *Log) Read(ctx context.Context, o ReadOptions, visit func(Record) error) error {
	if l.o.Discard {
		return ErrDiscarded
	}
	l.file.mu.Lock()
	seqs := append([]int(nil), l.file.seqs...)
	l.file.mu.Unlock()
	seq, off := 0, int64(0)
	if len(seqs) > 0 {
		seq = seqs[0]
	}
	if o.Tail >= 0 {
		var err error
		if seq, off, err = l.file.tailStart(seqs, o.Tail); err != nil {
			return err
		}
	}
	return l.file.readFrom(ctx, seq, off, o, visit)
}

// ErrDiscarded is returned by Read where the log driver keeps nothing.
var ErrDiscarded = errors.New("configured logging driver does not support reading")

// tailStart finds the file and offset at which the last n lines begin, walking backwards over the trailers.
func (l *file) tailStart(seqs []int, n int) (int, int64, error) {
	for i := len(seqs) - 1; i >= 0; i-- {
		f, err := os.Open(l.path(seqs[i]))
		if err != nil {
			return 0, 0, err
		}
		off, left, err := walkBack(f, n)
		f.Close()
		if err != nil {
			return 0, 0, err
		}
		n = left
		if n == 0 {
			return seqs[i], off, nil
		}
	}
	if len(seqs) == 0 {
		return 0, 0, nil
	}
	return seqs[0], 0, nil
}

// walkBack goes n lines back from the end of one file; left is how many it lacked.
func walkBack(f *os.File, n int) (off int64, left int, err error) {
	off, err = f.Seek(0, io.SeekEnd)
	if err != nil || n == 0 {
		return off, 0, err
	}
	var tail [tailSize]byte
	var head [headSize]byte
	start := off
	for off > 0 {
		if _, err := f.ReadAt(tail[:], off-tailSize); err != nil || tail[2] != mark {
			return start, n, err
		}
		prev := off - int64(headSize+tailSize) - int64(binary.LittleEndian.Uint16(tail[:]))
		if prev < 0 {
			return start, n, nil
		}
		if _, err := f.ReadAt(head[:], prev); err != nil {
			return start, n, err
		}
		// A whole record ends a line; so the line after it begins at off.
		if head[1]&partialBit == 0 || start == off && off == fileEnd(f) {
			if n == 0 {
				return start, 0, nil
			}
			n--
		}
		off, start = prev, prev
	}
	return 0, n, nil
}

func fileEnd(f *os.File) int64 {
	st, err := f.Stat()
	if err != nil {
		return -1
	}
	return st.Size()
}

// readFrom visits records from a place on.
func (l *file) readFrom(ctx context.Context, seq int, off int64, o ReadOptions, visit func(Record) error) error {
	for {
		l.mu.Lock()
		cur, next, ended, grown := l.place(seq)
		l.mu.Unlock()
		if cur < 0 {
			if !o.Follow || ended {
				return nil
			}
			if err := wait(ctx, grown); err != nil {
				return nil
			}
			continue
		}
		if cur != seq {
			seq, off = cur, 0
		}
		done, newOff, err := l.readFile(ctx, seq, off, o, visit)
		if err != nil || done {
			return err
		}
		off = newOff
		switch {
		case next > seq:
			seq, off = next, 0
		case !o.Follow || ended:
			return nil
		default:
			if wait(ctx, grown) != nil {
				return nil
			}
		}
	}
}

// place returns the file to read for seq (the next one, where seq is gone), its successor or -1, and how to wait.
func (l *file) place(seq int) (cur, next int, ended bool, grown chan struct{}) {
	cur, next = -1, -1
	for _, s := range l.seqs {
		if s < seq {
			continue
		}
		if cur < 0 {
			cur = s
		} else {
			next = s
			break
		}
	}
	return cur, next, l.ended, l.grown
}

func wait(ctx context.Context, grown chan struct{}) error {
	select {
	case <-grown:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// readFile visits what one file holds now. done is true where no later record can be wanted.
func (l *file) readFile(ctx context.Context, seq int, off int64, o ReadOptions, visit func(Record) error) (done bool, end int64, err error) {
	f, err := os.Open(l.path(seq))
	if errors.Is(err, os.ErrNotExist) {
		return false, off, nil
	}
	if err != nil {
		return true, off, err
	}
	defer f.Close()
	c := cursor{f: f, off: off}
	for {
		r, err := c.next()
		if err == io.EOF || errors.Is(err, errTorn) {
			return false, c.off, nil
		}
		if err != nil {
			return true, c.off, err
		}
		if !o.Until.IsZero() && r.Time.After(o.Until) {
			return true, c.off, nil
		}
		if !o.Streams[r.Stream] || r.Time.Before(o.Since) {
			continue
		}
		if err := visit(r); err != nil || ctx.Err() != nil {
			return true, c.off, err
		}
	}
}
