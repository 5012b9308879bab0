// Package logs takes what containers print, from the pipe to the reader, so that an engine killed at any instruction
// loses no line and doubles none: splice(2) into spool files in the run folder, framed from there into records of a
// bounded log that know which spool offset they end at. Attached clients read the spool, `logs` reads the records. It
// never fsyncs, and it knows nothing of containers but a folder and a run number.
package logs

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Options say where one container's output goes.
type Options struct {
	SpoolDir string // below the run folder; the recorder makes it, and removes it when the run's output is framed
	LogDir   string // below the root; kept until the container is removed
	MaxSize  int64  // of one log file, in bytes
	MaxFiles int    // how many are kept
	Discard  bool   // attached clients are served, nothing is kept
	// OnError hears once of a log that can't be written (a full disk); output then goes on unlogged.
	OnError func(error)
}

// Log is one container's output. Its methods may be called from any goroutine.
type Log struct {
	o    Options
	file *file

	mu      sync.Mutex
	run     uint16          // guarded by mu
	spools  map[byte]*spool // of the current run; guarded by mu
	pumping sync.WaitGroup  // goroutines of the current run
	sources []*os.File      // what they read; guarded by mu
	waiting []*Attachment   // clients of the next run; guarded by mu
	failed  bool            // OnError was told; guarded by mu
}

// Open reads what there is of a container's log.
func Open(o Options) (*Log, error) {
	f, err := openFile(o.LogDir, o.MaxSize, o.MaxFiles)
	if err != nil {
		return nil, err
	}
	return &Log{o: o, file: f, spools: map[byte]*spool{}}, nil
}

// Begin starts or takes up again run number run with the given streams. After an engine's death it finds the spool that
// the dead one left and goes on framing where the last whole record ended.
func (l *Log) Begin(run int, streams ...byte) error {
	at, err := l.file.recover(uint16(run))
	if err != nil {
		return err
	}
	if err := l.dropOldSpools(run); err != nil {
		return err
	}
	if err := os.MkdirAll(l.spoolDir(run), 0o700); err != nil {
		return fmt.Errorf("make spool folder: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.run = uint16(run)
	l.spools = map[byte]*spool{}
	for _, n := range streams {
		if l.spools[n], err = openSpool(l.spoolDir(run), n, at[n]); err != nil {
			return err
		}
	}
	l.file.setEnded(false)
	l.serveWaiting()
	return nil
}

// dropOldSpools removes the spools of earlier runs, which an engine that died at their end may have left in memory.
// Readers that are still attached to one have its files open.
func (l *Log) dropOldSpools(run int) error {
	entries, err := os.ReadDir(l.o.SpoolDir)
	if err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("list spools: %w", err)
	}
	for _, d := range entries {
		if d.Name() != fmt.Sprint(run) {
			if err := os.RemoveAll(filepath.Join(l.o.SpoolDir, d.Name())); err != nil {
				return fmt.Errorf("remove old spool: %w", err)
			}
		}
	}
	return nil
}

func (l *Log) spoolDir(run int) string { return filepath.Join(l.o.SpoolDir, fmt.Sprint(run)) }

// Pump moves a stream's bytes from src, which it closes at the end, until src ends. It returns at once.
func (l *Log) Pump(stream byte, src *os.File) {
	l.mu.Lock()
	s := l.spools[stream]
	l.sources = append(l.sources, src)
	l.mu.Unlock()
	l.pumping.Add(1)
	go func() {
		defer l.pumping.Done()
		defer src.Close()
		fr := framer{log: l, s: s}
		fr.step(false)
		if err := s.move(src, func() { fr.step(false) }); err != nil && !os.IsTimeout(err) {
			l.report(err)
		}
		fr.step(true)
		s.finish()
	}()
}

// End waits until every stream of the run has ended and is framed, then removes the spool. A stream that somebody still
// holds open after the grace time is read no further.
func (l *Log) End(grace time.Duration) {
	l.mu.Lock()
	sources := l.sources
	l.sources = nil
	l.mu.Unlock()
	late := time.AfterFunc(grace, func() {
		for _, f := range sources {
			f.SetReadDeadline(time.Unix(1, 0))
		}
	})
	l.pumping.Wait()
	late.Stop()
	l.mu.Lock()
	spools, run := l.spools, int(l.run)
	l.spools = map[byte]*spool{}
	l.mu.Unlock()
	for _, s := range spools {
		s.finish()
	}
	l.file.setEnded(true)
	go drop(spools, l.spoolDir(run))
}

// drop removes a run's spool when the attached readers have read to its end; one that has stopped reading is cut off
// when its client goes.
func drop(spools map[byte]*spool, dir string) {
	for _, s := range spools {
		s.waitTaps()
		s.close()
	}
	os.RemoveAll(dir)
}

// waitTaps lets attached readers read to the end; one that has stopped reading is cut off when its client goes.
func (s *spool) waitTaps() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.slowest() < s.end {
		s.change.Wait()
	}
}

func (l *Log) report(err error) {
	l.mu.Lock()
	told := l.failed
	l.failed = true
	l.mu.Unlock()
	if !told && l.o.OnError != nil {
		l.o.OnError(err)
	}
}

// Remove deletes the log and what is left of the spool.
func (l *Log) Remove() error {
	l.file.setEnded(true)
	if err := os.RemoveAll(l.o.SpoolDir); err != nil {
		return err
	}
	return os.RemoveAll(l.o.LogDir)
}

// frameBuffers are shared, so that a container that prints nothing holds none.
var frameBuffers = sync.Pool{New: func() any { return new([2 * maxData]byte) }}

// framer cuts a spool into records.
type framer struct {
	log *Log
	s   *spool
}

// step frames every whole line that the spool holds and the log does not, and at the end the rest too.
func (f *framer) step(last bool) {
	box := frameBuffers.Get().(*[2 * maxData]byte)
	defer frameBuffers.Put(box)
	buf := box[:]
	for {
		f.s.mu.Lock()
		at, end := f.s.framed, f.s.end
		f.s.mu.Unlock()
		n := 0
		for n < len(buf) && at+int64(n) < end {
			m, err := f.s.readAt(buf[n:], at+int64(n))
			if err != nil {
				f.log.report(err)
				return
			}
			if m == 0 {
				break
			}
			n += m
		}
		out, used := f.frame(buf[:n], at, last && at+int64(n) >= end)
		if used == 0 {
			return
		}
		if len(out) > 0 && !f.log.o.Discard {
			if err := f.log.file.append(out); err != nil {
				f.log.report(err)
			}
		}
		f.s.mu.Lock()
		f.s.framed += int64(used)
		f.s.mu.Unlock()
	}
}

// frame is pure: records for the whole lines at the start of data, and how much of data they use.
func (f *framer) frame(data []byte, at int64, last bool) (out []byte, used int) {
	now := time.Now()
	for used < len(data) {
		line := data[used:]
		i := bytes.IndexByte(line, '\n')
		r := Record{Stream: f.s.stream, Time: now, run: f.log.run}
		switch {
		case i >= 0 && i < maxData:
			r.Data = line[:i+1]
		case len(line) >= maxData:
			r.Data, r.Partial = line[:maxData], true
		case last:
			r.Data, r.Partial = line, true
		default:
			return out, used
		}
		used += len(r.Data)
		r.offset = at + int64(used)
		out = appendRecord(out, r)
	}
	return out, used
}

// Readable says whether the log keeps anything.
func (l *Log) Readable() bool { return !l.o.Discard }

// Attachment is a client's place at a log: at the run that is under way, or at the next one from its first byte on.
type Attachment struct {
	l    *Log
	want map[byte]bool
	got  chan map[byte]*Tap // receives once
}

// Attach connects to the run that is under way or, where there is none, to the next. Close it.
func (l *Log) Attach(stdout, stderr bool) *Attachment {
	a := &Attachment{l: l, want: map[byte]bool{1: stdout, 2: stderr}, got: make(chan map[byte]*Tap, 1)}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.spools) > 0 {
		a.serve(l.spools)
	} else {
		l.waiting = append(l.waiting, a)
	}
	return a
}

func (a *Attachment) serve(spools map[byte]*spool) {
	taps := map[byte]*Tap{}
	for n, s := range spools {
		if a.want[n] {
			taps[n] = s.tap()
		}
	}
	a.got <- taps
}

// Taps waits for the run and returns its wanted streams by number; none where ctx ended first. It is called once.
func (a *Attachment) Taps(ctx context.Context) map[byte]*Tap {
	select {
	case taps := <-a.got:
		return taps
	case <-ctx.Done():
		return nil
	}
}

// Close forgets a client that was never served. The taps it did get have to be closed by themselves.
func (a *Attachment) Close() {
	a.l.mu.Lock()
	a.l.waiting = slices.DeleteFunc(a.l.waiting, func(o *Attachment) bool { return o == a })
	a.l.mu.Unlock()
	select {
	case taps := <-a.got:
		for _, t := range taps {
			t.Close()
		}
	default:
	}
}

// serveWaiting is called with mu held, before the first byte of a run.
func (l *Log) serveWaiting() {
	for _, a := range l.waiting {
		a.serve(l.spools)
	}
	l.waiting = nil
}
