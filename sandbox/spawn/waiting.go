package spawn

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox/plan"
)

// runWaiting runs a plan up to its last barrier in a copy of this process, made by clone3(2) without CLONE_VM. The
// child outlives this process if it passed that barrier, and no other way: one whose parent is gone at a barrier ends.
func runWaiting(ctx context.Context, p *plan.Plan, o Options, m *machine, b *barrier) (Child, error) {
	if b == nil {
		return Child{}, errors.New("run a plan that waits: it has no barrier")
	}
	unmap, err := m.mapReport(o.Report)
	if err != nil {
		return Child{}, err
	}
	defer unmap()
	pid, err := start(m, p, o, false)
	if err != nil {
		return Child{}, err
	}
	runtime.UnlockOSThread() // start locked it
	b.child.Close()          // so that its end is seen
	c := Child{Pid: pid, PidFD: int(atomic.LoadInt32(&m.pidfd))}
	stop := context.AfterFunc(ctx, func() {
		_ = unix.PidfdSendSignal(c.PidFD, unix.SIGKILL, nil, 0) // fails only for a dead child
	})
	defer stop()
	st, err := ReadStat(pid)
	c.StartTime = st.StartTime
	if err == nil {
		err = b.serveWaiting(m, p.Barriers, o, &c)
	}
	if err == nil {
		return c, nil
	}
	stop()
	sig := c.kill()
	switch {
	case ctx.Err() != nil:
		err = ctx.Err()
	case !errors.Is(err, errEnded):
	case m.rep.errno != 0:
		err = m.rep.failure(p)
	default:
		err = &KilledError{Signal: sig, Doc: p.Calls[m.rep.pc].Doc}
	}
	return Child{}, err
}

// errEnded is a child that is gone.
var errEnded = errors.New("child ended")

// serveWaiting answers all barriers of a child that shares no memory. The last is the gate.
func (b *barrier) serveWaiting(m *machine, n int, o Options, c *Child) error {
	buf := make([]byte, 1)
	for i := range n {
		if _, err := b.mine.Read(buf); err != nil {
			return errEnded
		}
		var err error
		switch {
		case i == n-1 && o.Ready != nil:
			err = o.Ready(*c)
		case i < n-1 && o.Barrier != nil:
			err = o.Barrier(c.Pid)
		}
		if err != nil {
			return err
		}
		buf[0] = 1
		if _, err := b.mine.Write(buf); err != nil {
			return errEnded
		}
	}
	return nil
}

// mapReport lets the child report to a file. The child keeps the mapping until its execve.
func (m *machine) mapReport(f *os.File) (unmap func(), err error) {
	b, err := unix.Mmap(int(f.Fd()), 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map report %s: %w", f.Name(), err)
	}
	m.rep = (*report)(unsafe.Pointer(unsafe.SliceData(b)))
	return func() {
		m.own, m.rep = *m.rep, &m.own
		_ = unix.Munmap(b) // it is a mapping
	}, nil
}

// failure is the error in a report.
func (r *report) failure(p *plan.Plan) *Error {
	call := p.Calls[r.pc]
	return &Error{
		Index: int(r.pc), Call: call, Text: p.Format(&call), Errno: syscall.Errno(r.errno), Found: r.found, Which: int(r.which),
	}
}

// Step is what a report's reader needs of a call for an error.
type Step struct {
	Name string `json:"name"`
	Doc  string `json:"doc"`
	Text string `json:"text"`
}

// Steps returns the calls of a plan from its gate on.
func Steps(p *plan.Plan) []Step {
	var out []Step
	for i := p.Gate; i < len(p.Calls); i++ {
		out = append(out, Step{Name: p.Calls[i].Name, Doc: p.Calls[i].Doc, Text: p.Format(&p.Calls[i])})
	}
	return out
}

// ErrAbandoned is a child whose parent ended when all was ready but before it let the child wait.
var ErrAbandoned = errors.New("its creator was killed before it was made")

// ReadReport reads what a child, which has ended or passed its execve, left in its report. Steps are those of its plan,
// from the call with number gate on. The error is an *Error if the child failed.
func ReadReport(f *os.File, gate int, steps []Step) error {
	var r report
	b := unsafe.Slice((*byte)(unsafe.Pointer(&r)), unsafe.Sizeof(r))
	if _, err := f.ReadAt(b, 0); err != nil {
		return fmt.Errorf("read report: %w", err)
	}
	if r.errno == 0 {
		return nil
	}
	i := int(r.pc) - gate
	if i < 0 {
		return ErrAbandoned
	}
	if i >= len(steps) {
		return fmt.Errorf("read report: no call with number %d", r.pc)
	}
	s := steps[i]
	return &Error{
		Index: int(r.pc), Call: plan.Call{Name: s.Name, Doc: s.Doc}, Text: s.Text, Errno: syscall.Errno(r.errno),
		Found: r.found, Which: int(r.which),
	}
}
