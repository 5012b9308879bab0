package logs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func options(t *testing.T) Options {
	dir := t.TempDir()
	return Options{SpoolDir: dir + "/spool", LogDir: dir + "/log", MaxSize: 1 << 20, MaxFiles: 3, OnError: func(err error) { t.Error(err) }}
}

func open(t *testing.T, o Options) *Log {
	t.Helper()
	l, err := Open(o)
	require.NoError(t, err)
	return l
}

// source is a pipe as the engine makes it: the reading end does not block.
func source(t *testing.T) (r, w *os.File) {
	t.Helper()
	var p [2]int
	require.NoError(t, unix.Pipe2(p[:], unix.O_CLOEXEC))
	require.NoError(t, unix.SetNonblock(p[0], true))
	r, w = os.NewFile(uintptr(p[0]), "r"), os.NewFile(uintptr(p[1]), "w")
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

var both = map[byte]bool{1: true, 2: true}

// run prints text as one run of a container.
func run(t *testing.T, l *Log, n int, text string) {
	t.Helper()
	require.NoError(t, l.Begin(n, 1, 2))
	r, w := source(t)
	l.Pump(1, r)
	_, err := io.WriteString(w, text)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	l.End(time.Minute)
}

func read(t *testing.T, l *Log, o ReadOptions) string {
	t.Helper()
	if o.Streams == nil {
		o.Streams = both
	}
	var out strings.Builder
	require.NoError(t, l.Read(context.Background(), o, func(r Record) error { out.Write(r.Data); return nil }))
	return out.String()
}

func numbered(from, to int) string {
	var b strings.Builder
	for i := from; i <= to; i++ {
		fmt.Fprintln(&b, i)
	}
	return b.String()
}

func TestFrame(t *testing.T) {
	long := strings.Repeat("x", maxData)
	for _, c := range []struct {
		name, data string
		last       bool
		want       []string // + marks a partial record
		used       int
	}{
		{"whole lines", "a\nbc\n", false, []string{"a\n", "bc\n"}, 5},
		{"an unfinished line waits", "a\nbc", false, []string{"a\n"}, 2},
		{"and comes at the end", "a\nbc", true, []string{"a\n", "+bc"}, 4},
		{"nothing", "", true, nil, 0},
		{"empty lines", "\n\n", false, []string{"\n", "\n"}, 2},
		{"a long line in parts", long + "yz\n", false, []string{"+" + long, "yz\n"}, maxData + 3},
		{"exactly full", long[:maxData-1] + "\n", false, []string{long[:maxData-1] + "\n"}, maxData},
		{"one too long", long + "\n", false, []string{"+" + long, "\n"}, maxData + 1},
	} {
		f := framer{log: &Log{run: 7}, s: &spool{stream: 2}}
		out, used := f.frame([]byte(c.data), 100, c.last)
		require.Equal(t, c.used, used, c.name)
		var got []string
		at := int64(100)
		for len(out) > 0 {
			r, n, err := parseRecord(out)
			require.NoError(t, err, c.name)
			at += int64(len(r.Data))
			require.Equal(t, at, r.offset)
			require.Equal(t, uint16(7), r.run)
			require.Equal(t, byte(2), r.Stream)
			text := string(r.Data)
			if r.Partial {
				text = "+" + text
			}
			got = append(got, text)
			out = out[n:]
		}
		require.Equal(t, c.want, got, c.name)
	}
}

func TestRunsFollowEachOther(t *testing.T) {
	l := open(t, options(t))
	run(t, l, 1, "one\ntwo")
	run(t, l, 2, "three\n")
	require.Equal(t, "one\ntwothree\n", read(t, l, ReadOptions{Tail: -1}))
	l = open(t, l.o) // the next engine
	require.Equal(t, "one\ntwothree\n", read(t, l, ReadOptions{Tail: -1}))
	require.NoError(t, l.Remove())
	for _, dir := range []string{l.o.SpoolDir, l.o.LogDir} {
		_, err := os.Stat(dir)
		require.ErrorIs(t, err, os.ErrNotExist)
	}
}

func TestTail(t *testing.T) {
	o := options(t)
	o.MaxSize = 500 // several files
	o.MaxFiles = 100
	l := open(t, o)
	run(t, l, 1, numbered(1, 100))
	require.Greater(t, len(l.file.seqs), 3)
	for n := range 102 {
		require.Equal(t, numbered(max(1, 101-n), 100), read(t, l, ReadOptions{Tail: n}), "tail of %d", n)
	}
	require.Equal(t, numbered(1, 100), read(t, l, ReadOptions{Tail: -1}))
}

func TestTailCountsLongAndUnfinishedLinesOnce(t *testing.T) {
	long := strings.Repeat("x", 3*maxData+5) + "\n"
	l := open(t, options(t))
	run(t, l, 1, "first\n"+long+"last")
	require.Equal(t, "last", read(t, l, ReadOptions{Tail: 1}))
	require.Equal(t, long+"last", read(t, l, ReadOptions{Tail: 2}))
	require.Equal(t, "first\n"+long+"last", read(t, l, ReadOptions{Tail: 3}))
}

func TestSinceAndUntil(t *testing.T) {
	o := options(t)
	require.NoError(t, os.MkdirAll(o.LogDir, 0o700))
	var b []byte
	start := time.Unix(1_000_000, 0)
	for i := range 5 {
		b = appendRecord(b, Record{Stream: 1 + byte(i%2), Time: start.Add(time.Duration(i) * time.Second), Data: fmt.Appendln(nil, i), offset: int64(i)})
	}
	require.NoError(t, os.WriteFile(o.LogDir+"/log.0", b, 0o600))
	l := open(t, o)
	at := func(i int) time.Time { return start.Add(time.Duration(i) * time.Second) }
	require.Equal(t, "2\n3\n4\n", read(t, l, ReadOptions{Tail: -1, Since: at(2)}))
	require.Equal(t, "0\n1\n2\n", read(t, l, ReadOptions{Tail: -1, Until: at(2)}))
	require.Equal(t, "1\n3\n", read(t, l, ReadOptions{Tail: -1, Streams: map[byte]bool{2: true}}))
	require.Equal(t, "3\n", read(t, l, ReadOptions{Tail: -1, Since: at(2), Until: at(3), Streams: map[byte]bool{2: true}}))
}

func TestRotationKeepsTheNewest(t *testing.T) {
	o := options(t)
	o.MaxSize, o.MaxFiles = 1000, 3
	l := open(t, o)
	run(t, l, 1, numbered(1, 1000))
	files, err := filepath.Glob(o.LogDir + "/log.*")
	require.NoError(t, err)
	require.Len(t, files, 3)
	var total int64
	for _, f := range files {
		st, err := os.Stat(f)
		require.NoError(t, err)
		total += st.Size()
	}
	require.LessOrEqual(t, total, 3*o.MaxSize)
	got := read(t, l, ReadOptions{Tail: -1})
	require.True(t, strings.HasSuffix(numbered(1, 1000), got))
}

func TestTornTailIsCutOff(t *testing.T) {
	whole := appendRecord(nil, Record{Stream: 1, Time: time.Unix(5, 0), Data: []byte("whole\n"), offset: 6, run: 1})
	torn := appendRecord(nil, Record{Stream: 1, Time: time.Unix(6, 0), Data: []byte("torn\n"), offset: 11, run: 1})
	for cut := range torn {
		o := options(t)
		require.NoError(t, os.MkdirAll(o.LogDir, 0o700))
		require.NoError(t, os.WriteFile(o.LogDir+"/log.0", append(bytes.Clone(whole), torn[:cut]...), 0o600))
		// The spool still has what the torn record held, and more.
		require.NoError(t, os.MkdirAll(o.SpoolDir+"/1", 0o700))
		require.NoError(t, os.WriteFile(o.SpoolDir+"/1/1.0", []byte("whole\ntorn\nmo"), 0o600))
		l := open(t, o)
		require.NoError(t, l.Begin(1, 1, 2))
		r, w := source(t)
		_, err := io.WriteString(w, "re\n")
		require.NoError(t, err)
		w.Close()
		l.Pump(1, r)
		l.End(time.Minute)
		require.Equal(t, "whole\ntorn\nmore\n", read(t, l, ReadOptions{Tail: -1}), "cut at %d", cut)
	}
}

// Copies of log and spool at any moment are what an engine killed then leaves behind.
func TestRecoveryFromAnyCopy(t *testing.T) {
	o := options(t)
	require.NoError(t, os.MkdirAll(o.LogDir, 0o700)) // the first copy may come before the first line is in the log
	l := open(t, o)
	require.NoError(t, l.Begin(1, 1, 2))
	sources := map[byte]*os.File{}
	for _, n := range []byte{1, 2} {
		r, w := source(t)
		sources[n] = w
		l.Pump(n, r)
	}
	tap := l.Attach(true, true).Taps(context.Background())
	for i := range 40 {
		for n, w := range sources {
			text := fmt.Sprintf("%d.%d\n%d.%d half", n, i, n, i)
			_, err := io.WriteString(w, text)
			require.NoError(t, err)
			_, err = io.ReadFull(tapReader{tap[n]}, make([]byte, len(text))) // it is in the spool, and perhaps in the log
			require.NoError(t, err)
		}
		checkCopy(t, o, i)
	}
	for n, w := range sources {
		w.Close()
		tap[n].Close()
	}
	l.End(time.Minute)
}

type tapReader struct{ t *Tap }

func (r tapReader) Read(p []byte) (int, error) { return r.t.Read(context.Background(), p) }

// checkCopy takes over a copy of the state and compares what it makes of it with what was printed.
func checkCopy(t *testing.T, o Options, i int) {
	t.Helper()
	dir := t.TempDir()
	// Spool after log: a copier is no instant, and the spool may only be newer.
	require.NoError(t, os.CopyFS(dir+"/log", os.DirFS(o.LogDir)))
	require.NoError(t, os.CopyFS(dir+"/spool", os.DirFS(o.SpoolDir)))
	o.LogDir, o.SpoolDir = dir+"/log", dir+"/spool"
	l := open(t, o)
	require.NoError(t, l.Begin(1, 1, 2))
	for _, n := range []byte{1, 2} {
		r, w := source(t)
		w.Close()
		l.Pump(n, r)
	}
	l.End(time.Minute)
	for _, n := range []byte{1, 2} {
		var want strings.Builder
		for k := range i + 1 {
			fmt.Fprintf(&want, "%d.%d\n%d.%d half", n, k, n, k)
		}
		require.Equal(t, want.String(), read(t, l, ReadOptions{Tail: -1, Streams: map[byte]bool{n: true}}))
	}
}

// What a quiet stream once printed was rotated away by the other one; the next engine still frames what comes.
func TestRecoveryAfterRotationOfAQuietStream(t *testing.T) {
	for _, base := range []int64{0, segmentSize} {
		o := options(t)
		require.NoError(t, os.MkdirAll(o.LogDir, 0o700))
		require.NoError(t, os.WriteFile(o.LogDir+"/log.5", appendRecord(nil, Record{Stream: 1, Data: []byte("loud\n"), offset: 5, run: 1}), 0o600))
		require.NoError(t, os.MkdirAll(o.SpoolDir+"/1", 0o700))
		require.NoError(t, os.WriteFile(fmt.Sprintf("%s/1/2.%d", o.SpoolDir, base), []byte("left\n"), 0o600))
		l := open(t, o)
		require.NoError(t, l.Begin(1, 1, 2))
		r, w := source(t)
		_, err := io.WriteString(w, "new\n")
		require.NoError(t, err)
		w.Close()
		l.Pump(2, r)
		l.End(time.Minute)
		require.Equal(t, "left\nnew\n", read(t, l, ReadOptions{Tail: -1, Streams: map[byte]bool{2: true}}))
	}
}

func TestFollow(t *testing.T) {
	l := open(t, options(t))
	run(t, l, 1, "old\n")
	require.NoError(t, l.Begin(2, 1))
	r, w := source(t)
	l.Pump(1, r)
	got := make(chan string)
	ended := make(chan error)
	go func() {
		ended <- l.Read(context.Background(), ReadOptions{Streams: both, Tail: -1, Follow: true}, func(r Record) error { got <- string(r.Data); return nil })
	}()
	require.Equal(t, "old\n", <-got)
	for i := range 5 {
		fmt.Fprintln(w, i)
		require.Equal(t, fmt.Sprintln(i), <-got)
	}
	w.Close()
	l.End(time.Minute)
	require.NoError(t, <-ended, "a follower ends with the run")

	ctx, cancel := context.WithCancel(context.Background())
	require.NoError(t, l.Begin(3, 1))
	go func() {
		ended <- l.Read(ctx, ReadOptions{Streams: both, Tail: 0, Follow: true}, func(Record) error { return errors.New("nothing is wanted") })
	}()
	cancel()
	require.NoError(t, <-ended, "and with its client")
	l.End(time.Minute)
}

func TestFollowAcrossRotation(t *testing.T) {
	o := options(t)
	o.MaxSize, o.MaxFiles = 200, 1000
	l := open(t, o)
	require.NoError(t, l.Begin(1, 1))
	r, w := source(t)
	l.Pump(1, r)
	ended := make(chan string)
	go func() {
		var b strings.Builder
		l.Read(context.Background(), ReadOptions{Streams: both, Tail: -1, Follow: true}, func(r Record) error { b.Write(r.Data); return nil })
		ended <- b.String()
	}()
	for i := 1; i <= 300; i++ {
		fmt.Fprintln(w, i)
	}
	w.Close()
	l.End(time.Minute)
	require.Equal(t, numbered(1, 300), <-ended)
}

// An attached reader that stops reading holds the container up, and lets it go when it leaves; nothing is lost.
func TestSlowTapHoldsTheContainerUp(t *testing.T) {
	l := open(t, options(t))
	at := l.Attach(true, false)
	require.NoError(t, l.Begin(1, 1))
	tap := at.Taps(context.Background())[1]
	require.NotNil(t, tap, "attached before the run: served with its first byte")
	r, w := source(t)
	l.Pump(1, r)
	line := strings.Repeat("y", 1023) + "\n"
	wrote := make(chan int)
	go func() {
		for i := range 3 * tapLag / len(line) {
			if _, err := io.WriteString(w, line); err != nil {
				wrote <- i
				return
			}
		}
		w.Close()
		wrote <- -1
	}()
	s := l.spools[1]
	s.mu.Lock()
	for s.end <= tapLag {
		s.change.Wait()
	}
	s.mu.Unlock()
	select {
	case <-wrote:
		t.Fatal("the writer was not held up")
	default:
	}
	tap.Close()
	require.Equal(t, -1, <-wrote)
	l.End(time.Minute)
	require.LessOrEqual(t, spoolSizes(l), int64(2*tapLag))
}

func spoolSizes(l *Log) (n int64) {
	filepath.Walk(l.o.SpoolDir, func(_ string, st os.FileInfo, err error) error {
		if err == nil && st.Mode().IsRegular() {
			n += st.Size()
		}
		return nil
	})
	return n
}

// A tap waits without polling, and its context ends the wait.
func TestTapWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := openSpool(t.TempDir(), 1, 0)
		require.NoError(t, err)
		tap := s.tap()
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		began := time.Now()
		_, err = tap.Read(ctx, make([]byte, 10))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, time.Hour, time.Since(began))
		s.finish()
		_, err = tap.Read(context.Background(), make([]byte, 10))
		require.Equal(t, io.EOF, err)
	})
}

// A process that left its container may hold the pipe for ever: the run ends all the same.
func TestEndDoesNotWaitForEver(t *testing.T) {
	l := open(t, options(t))
	require.NoError(t, l.Begin(1, 1))
	r, w := source(t)
	l.Pump(1, r)
	_, err := io.WriteString(w, "said\nunsaid")
	require.NoError(t, err)
	l.End(50 * time.Millisecond)
	require.Equal(t, "said\nunsaid", read(t, l, ReadOptions{Tail: -1}))
}

func TestDiscard(t *testing.T) {
	o := options(t)
	o.Discard = true
	l := open(t, o)
	at := l.Attach(true, true)
	run(t, l, 1, "gone\n")
	tap := at.Taps(context.Background())[1]
	b, err := io.ReadAll(tapReader{tap})
	require.NoError(t, err)
	require.Equal(t, "gone\n", string(b))
	tap.Close()
	require.False(t, l.Readable())
	require.ErrorIs(t, l.Read(context.Background(), ReadOptions{}, nil), ErrDiscarded)
	_, err = os.Stat(o.LogDir)
	require.ErrorIs(t, err, os.ErrNotExist)
}

// A full disk is told of once, output goes on, and no torn record stays behind.
func TestLogThatCannotBeWritten(t *testing.T) {
	o := options(t)
	require.NoError(t, os.WriteFile(o.LogDir, nil, 0o600)) // no folder can be made here
	told := 0
	o.OnError = func(error) { told++ }
	l := open(t, o)
	run(t, l, 1, numbered(1, 10000))
	require.Equal(t, 1, told)
}

// Spools of runs whose end no engine lived to see are not kept in memory for ever.
func TestOldSpoolsGo(t *testing.T) {
	o := options(t)
	require.NoError(t, os.MkdirAll(o.SpoolDir+"/1", 0o700))
	require.NoError(t, os.WriteFile(o.SpoolDir+"/1/1.0", []byte("old\n"), 0o600))
	l := open(t, o)
	require.NoError(t, l.Begin(2, 1))
	_, err := os.Stat(o.SpoolDir + "/1")
	require.ErrorIs(t, err, os.ErrNotExist)
	l.End(time.Minute)
}

func FuzzParseRecord(f *testing.F) {
	f.Add(appendRecord(nil, Record{Stream: 1, Time: time.Unix(1, 2), Data: []byte("a line\n"), offset: 7, run: 3}))
	f.Add(appendRecord(nil, Record{Stream: 2, Partial: true}))
	f.Add([]byte{mark})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, n, err := parseRecord(b)
		if err != nil {
			require.Zero(t, n)
			return
		}
		require.LessOrEqual(t, n, len(b))
		require.Equal(t, b[:n], appendRecord(nil, r), "what is read is what would be written")
	})
}
