package logs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// segmentSize is where the spool starts a new file, in bytes. Files that everybody has read are removed.
	segmentSize = 256 << 10
	// tapLag is how far, in bytes, an attached reader may stay behind before the container's writes have to wait.
	tapLag = 1 << 20
)

// segment is one spool file: the bytes of one stream from the cumulative offset base on.
type segment struct {
	base int64
	size int64
	f    *os.File
}

// spool takes one stream of one run from a pipe into files of the run folder. The files' sizes are the truth: splice(2)
// moves bytes from the pipe to the file inside the kernel, so an engine killed at any moment leaves each byte in the
// pipe (whose other copy the keeper holds) or in the file, never in neither and never in both.
type spool struct {
	dir    string
	stream byte

	mu     sync.Mutex
	change *sync.Cond // end, done, framed or taps changed; guarded by mu
	segs   []segment  // by base, the last one is written to
	end    int64      // cumulative offset behind the last byte
	framed int64      // what the log has
	done   bool       // no more bytes come
	taps   map[*Tap]struct{}
}

func openSpool(dir string, stream byte, framed int64) (*spool, error) {
	s := &spool{dir: dir, stream: stream, taps: map[*Tap]struct{}{}, framed: framed, end: framed}
	s.change = sync.NewCond(&s.mu)
	if err := s.recover(); err != nil {
		return nil, err
	}
	return s, nil
}

// recover finds the files that an earlier engine left.
func (s *spool) recover() error {
	names, err := filepath.Glob(filepath.Join(s.dir, strconv.Itoa(int(s.stream))+".*"))
	if err != nil {
		return err
	}
	for _, name := range names {
		base, err := strconv.ParseInt(name[strings.LastIndexByte(name, '.')+1:], 10, 64)
		if err != nil {
			continue
		}
		f, err := os.OpenFile(name, os.O_RDWR, 0o600)
		if err != nil {
			return fmt.Errorf("open spool: %w", err)
		}
		size, err := f.Seek(0, io.SeekEnd)
		if err != nil {
			return fmt.Errorf("measure spool %s: %w", name, err)
		}
		s.segs = append(s.segs, segment{base: base, size: size, f: f})
	}
	sort.Slice(s.segs, func(i, j int) bool { return s.segs[i].base < s.segs[j].base })
	if n := len(s.segs); n > 0 {
		// What lies before the first file was framed, though rotation may have taken the records since.
		s.framed = max(s.framed, s.segs[0].base)
		s.end = max(s.end, s.segs[n-1].base+s.segs[n-1].size)
	}
	return nil
}

// target returns the file that the next bytes go to, waiting while an attached reader is too far behind.
func (s *spool) target() (*os.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.end-s.slowest() > tapLag {
		s.change.Wait()
	}
	s.trim()
	if n := len(s.segs); n > 0 && s.segs[n-1].size < segmentSize {
		return s.segs[n-1].f, nil
	}
	name := filepath.Join(s.dir, fmt.Sprintf("%d.%d", s.stream, s.end))
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make spool: %w", err)
	}
	s.segs = append(s.segs, segment{base: s.end, f: f})
	return f, nil
}

// slowest is the offset that every attached reader has reached. Called with mu held.
func (s *spool) slowest() int64 {
	low := s.end
	for t := range s.taps {
		low = min(low, t.off)
	}
	return low
}

// trim removes the files that the log and all attached readers are through with. Called with mu held.
func (s *spool) trim() {
	keep := min(s.framed, s.slowest())
	for len(s.segs) > 0 {
		first := s.segs[0]
		full := first.size >= segmentSize || len(s.segs) > 1
		if !full || first.base+first.size > keep {
			return
		}
		first.f.Close()
		os.Remove(first.f.Name())
		s.segs = s.segs[1:]
	}
}

// grew records n more bytes.
func (s *spool) grew(n int64) {
	s.mu.Lock()
	s.segs[len(s.segs)-1].size += n
	s.end += n
	s.change.Broadcast()
	s.mu.Unlock()
}

// finish says that no more bytes come.
func (s *spool) finish() {
	s.mu.Lock()
	s.done = true
	s.change.Broadcast()
	s.mu.Unlock()
}

// readAt copies bytes from the cumulative offset off on; it returns 0 where there are none yet.
func (s *spool) readAt(p []byte, off int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.segs {
		if off < g.base || off >= g.base+g.size {
			continue
		}
		n, err := g.f.ReadAt(p[:min(int64(len(p)), g.base+g.size-off)], off-g.base)
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return n, err
	}
	return 0, nil
}

// move takes bytes from src into the spool until src ends, calling framed after each step.
func (s *spool) move(src *os.File, step func()) error {
	raw, err := src.SyscallConn()
	if err != nil {
		return err
	}
	copied := isTerminal(raw)
	for {
		dst, err := s.target()
		if err != nil {
			return err
		}
		var n int64
		if copied {
			n, err = copyStep(dst, src)
		} else {
			n, err = spliceStep(raw, dst)
		}
		if n > 0 {
			s.grew(n)
			step()
		}
		if err != nil || n == 0 {
			return err
		}
	}
}

func isTerminal(raw interface{ Control(func(uintptr)) error }) (is bool) {
	raw.Control(func(fd uintptr) { _, err := unix.IoctlGetTermios(int(fd), unix.TCGETS); is = err == nil })
	return is
}

// spliceStep moves what the pipe holds now, waiting for at least a byte; 0 and no error is the end.
func spliceStep(raw interface {
	Read(func(uintptr) bool) error
}, dst *os.File,
) (n int64, err error) {
	out := int(dst.Fd())
	werr := raw.Read(func(fd uintptr) bool {
		for {
			moved, serr := unix.Splice(int(fd), nil, out, nil, segmentSize, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
			n, err = int64(moved), serr // an int where that has 32 bits
			if err != unix.EINTR {
				break
			}
		}
		return err != unix.EAGAIN
	})
	if werr != nil {
		return 0, werr
	}
	if err != nil {
		return 0, fmt.Errorf("splice into %s: %w", dst.Name(), err)
	}
	return n, nil
}

// copyStep is spliceStep for a terminal, which cannot be spliced on every kernel since 5.10.
func copyStep(dst, src *os.File) (int64, error) {
	var buf [4096]byte
	n, err := src.Read(buf[:])
	if n > 0 {
		if _, werr := dst.Write(buf[:n]); werr != nil {
			return 0, werr
		}
		return int64(n), nil
	}
	// A terminal whose last process has gone answers EIO: that is its end (pty(7)).
	if errors.Is(err, io.EOF) || errors.Is(err, unix.EIO) {
		return 0, nil
	}
	return 0, err
}

// close closes the files and leaves them where they are.
func (s *spool) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.segs {
		g.f.Close()
	}
	s.segs = nil
}

// Tap is an attached reader of one stream, from the moment of attaching on. A container whose reader stops reading
// waits in write(2) once the reader is 1 MiB behind.
type Tap struct {
	s    *spool
	off  int64 // guarded by s.mu
	gone bool  // guarded by s.mu
}

func (s *spool) tap() *Tap {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := &Tap{s: s, off: s.end}
	s.taps[t] = struct{}{}
	return t
}

// Read waits for bytes. It returns io.EOF when the stream has ended, the context's error when that ended first.
func (t *Tap) Read(ctx context.Context, p []byte) (int, error) {
	stop := context.AfterFunc(ctx, func() { t.s.mu.Lock(); t.s.change.Broadcast(); t.s.mu.Unlock() })
	defer stop()
	t.s.mu.Lock()
	for t.off >= t.s.end && !t.s.done && !t.gone && ctx.Err() == nil {
		t.s.change.Wait()
	}
	off, ended := t.off, t.off >= t.s.end || t.gone
	t.s.mu.Unlock()
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	if ended {
		return 0, io.EOF
	}
	n, err := t.s.readAt(p, off)
	if err == nil && n == 0 {
		err = io.EOF
	}
	t.s.mu.Lock()
	t.off += int64(n)
	t.s.change.Broadcast()
	t.s.mu.Unlock()
	return n, err
}

// Close lets the container go on without this reader.
func (t *Tap) Close() {
	t.s.mu.Lock()
	delete(t.s.taps, t)
	t.gone = true
	t.s.change.Broadcast()
	t.s.mu.Unlock()
}
