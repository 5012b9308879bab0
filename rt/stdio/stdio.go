// Package stdio is the standard streams of a container: pipes or a terminal, of which the keeper has copies that outlive the
// engine; the log behind the output; and the clients that are attached. What the container prints is in its log (rt/logs),
// whoever reads. It starts nothing: the child's ends are handed to whoever does.
package stdio

import (
	"fmt"
	"log/slog"
	"os"
	"sync"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"

	"github.com/coble-os/coble/init/notify"
	"github.com/coble-os/coble/rt/containers"
	"github.com/coble-os/coble/rt/fault"
	"github.com/coble-os/coble/rt/logs"
)

// Limits bound a container's log unless the container says otherwise.
type Limits struct {
	MaxSize  int64 // bytes of one file
	MaxFiles int
}

// Of reads the container's log driver and its options.
func (l Limits) Of(conf container.LogConfig) (o logs.Options, err error) {
	o.MaxSize, o.MaxFiles = l.MaxSize, l.MaxFiles
	switch conf.Type {
	case "", "json-file", "local":
	case "none":
		o.Discard = true
	default:
		return o, fault.New(fault.Invalid, "logger: no log driver named '%s' is registered: use json-file, local or none", conf.Type)
	}
	for k, v := range conf.Config {
		var err error
		switch k {
		case "max-size":
			o.MaxSize, err = units.RAMInBytes(v)
		case "max-file":
			_, err = fmt.Sscanf(v, "%d", &o.MaxFiles)
		default:
			return o, fault.New(fault.Invalid, "unknown log opt '%s' for %s log driver", k, conf.Type)
		}
		if err != nil || o.MaxSize <= 0 || o.MaxFiles <= 0 {
			return o, fault.New(fault.Invalid, "invalid value for log opt %s: %q", k, v)
		}
	}
	return o, nil
}

// Streams are a container's, over all its runs. Its methods may be called from any goroutine.
type Streams struct {
	c      *containers.Container
	keeper *notify.Link
	limits Limits
	slog   *slog.Logger

	mu      sync.Mutex
	log     *logs.Log // opened at first need; guarded by mu
	stdin   *os.File  // write end, while open; guarded by mu
	console *os.File  // terminal's master, while running with a terminal; guarded by mu
}

// New is the streams of a container that does not run, or that Adopt is for.
func New(c *containers.Container, keeper *notify.Link, l Limits, log *slog.Logger) *Streams {
	return &Streams{c: c, keeper: keeper, limits: l, slog: log}
}

// open opens the log at first need.
func (s *Streams) open() (*logs.Log, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.log != nil {
		return s.log, nil
	}
	o, err := s.limits.Of(s.c.Spec().Host.LogConfig)
	if err != nil {
		return nil, err
	}
	o.SpoolDir, o.LogDir = s.c.RunDir()+"/spool", s.c.RootDir()+"/log"
	name := s.c.Spec().Name
	o.OnError = func(err error) { s.slog.Error("log of container", "container", name, "err", err) }
	s.log, err = logs.Open(o)
	return s.log, err
}

// outputs are the numbers of the container's output streams.
func (s *Streams) outputs() []byte {
	if s.c.Spec().Config.Tty {
		return []byte{1}
	}
	return []byte{1, 2}
}

// Open makes the pipes of a run, hands copies of the engine's ends to the keeper and begins to read. The child's ends, nil where
// the child has none, are the caller's to close. A terminal has no pipes: its master comes out of the sandbox (TakeConsole).
func (s *Streams) Open() (child [3]*os.File, err error) {
	l, err := s.open()
	if err != nil {
		return child, err
	}
	defer func() {
		if err != nil {
			CloseAll(child)
			child = [3]*os.File{}
		}
	}()
	if err := l.Begin(s.c.View().State.Run, s.outputs()...); err != nil || s.c.Spec().Config.Tty {
		return child, err
	}
	for _, n := range s.outputs() {
		r, w, err := Pipe(ReadEnd)
		if err != nil {
			return child, err
		}
		child[n] = w
		if err := s.keeper.Store(s.c.FDName(fmt.Sprint(n)), r); err != nil {
			return child, err
		}
		l.Pump(n, r)
	}
	if !s.c.Spec().Config.OpenStdin {
		return child, nil
	}
	r, w, err := Pipe(WriteEnd)
	if err != nil {
		return child, err
	}
	child[0] = r
	s.mu.Lock()
	s.stdin = w
	s.mu.Unlock()
	return child, s.keeper.Store(s.c.FDName("0"), w)
}

// TakeConsole keeps a terminal's master: one handle to write and resize, one for the pump, one at the keeper.
func (s *Streams) TakeConsole(master *os.File) {
	s.mu.Lock()
	s.console = master
	l := s.log
	s.mu.Unlock()
	if err := s.keeper.Store(s.c.FDName("tty"), master); err != nil {
		s.slog.Error("store terminal", "container", s.c.Spec().Name, "err", err)
	}
	if dup, err := dupFile(master); err == nil {
		l.Pump(1, dup)
	}
	if size := s.c.Spec().Host.ConsoleSize; size[0] > 0 && size[1] > 0 {
		Resize(master, int(size[0]), int(size[1]))
	}
}

// ResizeIn asks for another terminal size.
type ResizeIn struct {
	Ref        string
	Rows, Cols int
}

// Resize gives the container's terminal another size.
func (s *Streams) Resize(in ResizeIn) error {
	s.mu.Lock()
	tty := s.console
	s.mu.Unlock()
	if tty == nil {
		return fault.New(fault.Conflict, "container %s is not running, or has no terminal", in.Ref)
	}
	return Resize(tty, in.Rows, in.Cols)
}

// Adopt goes on with the run that an earlier engine began, with the descriptors that the keeper has kept. A stream that it does
// not have has ended.
func (s *Streams) Adopt() error {
	l, err := s.open()
	if err != nil {
		return err
	}
	if err := l.Begin(s.c.View().State.Run, s.outputs()...); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.c.Spec().Config.Tty {
		if s.console = s.keeper.Take(s.c.FDName("tty")); s.console == nil {
			return nil
		}
		if dup, err := dupFile(s.console); err == nil {
			l.Pump(1, dup)
		}
		return nil
	}
	s.stdin = s.keeper.Take(s.c.FDName("0"))
	for _, n := range s.outputs() {
		if f := s.keeper.Take(s.c.FDName(fmt.Sprint(n))); f != nil {
			l.Pump(n, f)
		}
	}
	return nil
}

// Abandon closes what the keeper has of a start that never ended.
func (s *Streams) Abandon() {
	for _, what := range all {
		if f := s.keeper.Take(s.c.FDName(what)); f != nil {
			f.Close()
		}
	}
	s.Close()
}

// all is what the keeper may have of a container.
var all = [...]string{"0", "1", "2", "tty"}

// CloseStdin ends the container's input. The keeper's copy goes first, or the container would never see the end.
func (s *Streams) CloseStdin() {
	s.mu.Lock()
	f := s.stdin
	s.stdin = nil
	s.mu.Unlock()
	if f != nil {
		s.keeper.Drop(s.c.FDName("0"))
		f.Close()
	}
}

// Close lets go of a run's descriptors.
func (s *Streams) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, what := range all {
		s.keeper.Drop(s.c.FDName(what))
	}
	if s.stdin != nil {
		s.stdin.Close()
		s.stdin = nil
	}
	if s.console != nil {
		s.console.Close()
		s.console = nil
	}
}

// Drain waits until everything that the container printed is in its log, but for a bounded time: what it left behind may hold
// the output open.
func (s *Streams) Drain() {
	s.mu.Lock()
	l := s.log
	s.mu.Unlock()
	if l != nil {
		l.End(grace)
	}
}
