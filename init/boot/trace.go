package boot

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Mark is a moment of the boot, in milliseconds since the kernel handed over to user space's clock (CLOCK_BOOTTIME).
type Mark struct {
	Name       string
	Start, End float64
}

// Trace is the list of what the boot did when.
type Trace struct {
	mu    sync.Mutex
	marks []Mark // guarded by mu
}

// NewTrace makes an empty one.
func NewTrace() *Trace { return &Trace{} }

// Uptime is the time since the kernel started, in milliseconds.
func Uptime() float64 {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return 0
	}
	return float64(time.Duration(ts.Nano())) / 1e6
}

// Span runs a step and notes its time.
func (t *Trace) Span(name string, f func() error) error {
	start := Uptime()
	err := f()
	t.Add(Mark{name, start, Uptime()})
	return err
}

// Add notes a step that was timed elsewhere.
func (t *Trace) Add(m Mark) {
	t.mu.Lock()
	t.marks = append(t.marks, m)
	t.mu.Unlock()
}

// Marks returns a copy.
func (t *Trace) Marks() []Mark {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]Mark(nil), t.marks...)
}
