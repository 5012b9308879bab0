package keeper

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

const maxLog = 64 << 10 // bytes of keeper.log and of what waits for it

// logger writes lines to the console and to RunDir/keeper.log. It may be used by
// any goroutine and never fails its caller.
type logger struct {
	mu      sync.Mutex
	out     io.Writer    // of the caller of Run; nil: stderr
	file    *os.File     // nil until open
	size    int          // bytes in file
	waiting bytes.Buffer // lines from before open
}

// f logs one message.
func (l *logger) f(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &now)
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.out
	if out == nil {
		out = os.Stderr
	}
	fmt.Fprintf(out, "keeper: %s\n", text)
	l.keep(fmt.Sprintf("%d.%06d %s\n", now.Sec, now.Nsec/1000, text))
}

func (l *logger) keep(line string) {
	if l.file == nil {
		if l.waiting.Len() < maxLog {
			l.waiting.WriteString(line)
		}
		return
	}
	if l.size+len(line) > maxLog {
		_ = l.file.Truncate(0)
		l.size = 0
	}
	n, _ := l.file.WriteString(line)
	l.size += n
}

// open begins to write to the file name as well.
func (l *logger) open(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return // the console has it all
	}
	if st, err := f.Stat(); err == nil {
		l.size = int(st.Size())
	}
	l.file = f
	l.keep(l.waiting.String())
	l.waiting = bytes.Buffer{}
}

// close lets go of the file, so that its file system can be unmounted.
func (l *logger) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		l.file.Close()
		l.file = nil
	}
}

// writeAtomically replaces the file name, so that a reader finds the old or the
// new content. It is meant for tmpfs: nothing is synced.
func writeAtomically(name, content string) error {
	if err := os.WriteFile(name+".new", []byte(content), 0o644); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}
