package stdio

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"github.com/coble-os/coble/rt/fault"
	"github.com/coble-os/coble/rt/job"
	"github.com/coble-os/coble/rt/logs"
	"github.com/coble-os/coble/rt/store"
)

// AttachIn asks for a container's streams. Output goes to the job's Stdout and Stderr, input comes from its Stdin.
type AttachIn struct {
	Ref                   string
	Stdin, Stdout, Stderr bool
	Logs                  bool // what was printed before, first
	Stream                bool // what is printed from now on
	// Began is called when the streams are connected: nothing printed later is missed.
	Began func(tty bool)
}

// Attach connects the job's streams until the container's output ends or the client goes.
func (s *Streams) Attach(j *job.Job, in AttachIn) error {
	l, err := s.open()
	if err != nil {
		return err
	}
	at := l.Attach(in.Stdout, in.Stderr)
	defer at.Close()
	in.Began(s.c.Spec().Config.Tty)
	if in.Logs {
		l.Read(j.Context(), logs.ReadOptions{Streams: map[byte]bool{1: in.Stdout, 2: in.Stderr}, Tail: -1}, func(r logs.Record) error { return writeRecord(j, r) })
	}
	if !in.Stream {
		return nil
	}
	return s.stream(j, in, at)
}

// stream copies until the output ends.
func (s *Streams) stream(j *job.Job, in AttachIn, at *logs.Attachment) error {
	ctx, cancel := context.WithCancel(j.Context())
	defer cancel()
	if in.Stdin && j.Stdin != nil {
		go s.feed(ctx, j.Stdin)
	}
	from := s.c.Exits()
	taps := at.Taps(ctx)
	var wg sync.WaitGroup
	for n, t := range taps {
		w := j.Stdout
		if n == 2 {
			w = j.Stderr
		}
		wg.Go(func() {
			copyTap(ctx, w, t)
			t.Close()
		})
	}
	wg.Wait()
	if len(taps) == 0 {
		s.c.Await(ctx, func(_ store.State, exits int, removed bool) bool { return removed || exits > from })
	}
	return nil
}

func copyTap(ctx context.Context, w io.Writer, t *logs.Tap) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := t.Read(ctx, buf)
		if n > 0 {
			if _, werr := w.Write(buf[:n]); werr != nil {
				return werr
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// feed copies the client's input to the container, waiting for one that has not started, and ends the container's
// input where the client's has ended and nobody else is meant to write.
func (s *Streams) feed(ctx context.Context, from io.Reader) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			w := s.inputWriter(ctx)
			if w == nil {
				return
			}
			if _, werr := w.Write(buf[:n]); werr != nil {
				return
			}
		}
		if err != nil {
			break
		}
	}
	if s.c.Spec().Config.StdinOnce && !s.c.Spec().Config.Tty && s.inputWriter(ctx) != nil {
		s.CloseStdin()
	}
}

// inputWriter is where input goes; it waits for the start of a container that is created. Nil: nowhere.
func (s *Streams) inputWriter(ctx context.Context) io.Writer {
	for {
		st, change := s.c.Next() // before the input, which is there before the state says that the container runs
		s.mu.Lock()
		w := s.input()
		s.mu.Unlock()
		if w != nil {
			return w
		}
		if st.Running() || !s.c.Spec().Config.OpenStdin && !s.c.Spec().Config.Tty {
			return nil
		}
		select {
		case <-change:
		case <-ctx.Done():
			return nil
		}
	}
}

// input is called with mu held.
func (s *Streams) input() io.Writer {
	var f *os.File
	if f = s.stdin; s.c.Spec().Config.Tty {
		f = s.console
	}
	if f == nil {
		return nil
	}
	return f
}

// LogsIn asks for a container's log, which goes to the job's Stdout and Stderr.
type LogsIn struct {
	Ref            string
	Stdout, Stderr bool
	Since, Until   time.Time
	Tail           int // negative: all
	Follow         bool
	Timestamps     bool
	Began          func(tty bool)
}

// Logs writes what the container has printed.
func (s *Streams) Logs(j *job.Job, in LogsIn) error {
	if !in.Stdout && !in.Stderr {
		return fault.New(fault.Invalid, "Bad parameters: you must choose at least one stream")
	}
	l, err := s.open()
	if err != nil {
		return err
	}
	if !l.Readable() {
		return fault.As(fault.Unsupported, logs.ErrDiscarded)
	}
	in.Began(s.c.Spec().Config.Tty)
	o := logs.ReadOptions{Streams: map[byte]bool{1: in.Stdout, 2: in.Stderr}, Since: in.Since, Until: in.Until, Tail: in.Tail, Follow: in.Follow && s.c.Running()}
	joined := map[byte]bool{}
	return l.Read(j.Context(), o, func(r logs.Record) error {
		if in.Timestamps && !joined[r.Stream] {
			stamped := append([]byte(r.Time.UTC().Format("2006-01-02T15:04:05.000000000Z")+" "), r.Data...)
			r.Data = stamped
		}
		joined[r.Stream] = r.Partial
		return writeRecord(j, r)
	})
}

func writeRecord(j *job.Job, r logs.Record) error {
	w := j.Stdout
	if r.Stream == 2 {
		w = j.Stderr
	}
	_, err := w.Write(r.Data)
	return err
}
