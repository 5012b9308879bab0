package api

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"

	"github.com/moby/term"

	"github.com/coble-os/coble/rt/job"
	"github.com/coble-os/coble/rt/stdio"
)

const (
	rawStream   = "application/vnd.docker.raw-stream"
	muxedStream = "application/vnd.docker.multiplexed-stream"
)

// muxer writes frames of the attach protocol: stream number, three zero bytes, big-endian length, data.
type muxer struct {
	mu *sync.Mutex
	w  io.Writer
	n  byte // 1 stdout, 2 stderr; 0: raw, no frames
}

func (m muxer) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.n != 0 {
		head := [8]byte{m.n}
		binary.BigEndian.PutUint32(head[4:], uint32(len(p)))
		if _, err := m.w.Write(append(head[:], p...)); err != nil {
			return 0, err
		}
	} else if _, err := m.w.Write(p); err != nil {
		return 0, err
	}
	if f, ok := m.w.(http.Flusher); ok {
		f.Flush()
	}
	return len(p), nil
}

// attachContainer takes the connection over: output comes back on it, input is read from it.
func (s *Server) attachContainer(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	v, err := s.e.Containers.View(name)
	if err != nil {
		return err
	}
	in := stdio.AttachIn{Ref: name, Stdin: flag(r, "stdin"), Stdout: flag(r, "stdout"), Stderr: flag(r, "stderr"), Logs: flag(r, "logs"), Stream: flag(r, "stream")}
	keys, err := detachKeys(r.FormValue("detachKeys"))
	if err != nil {
		return err
	}
	return hijack(w, r, v.Config.Tty, keys, func(ctx context.Context, streams job.Streams, begin func(bool)) {
		in.Began = begin
		if _, err := job.Run[any](ctx, s.e.Jobs, "attach", in, streams, name); err != nil {
			fmt.Fprintf(streams.Stderr, "%v\n", err)
		}
	})
}

// detachKeys reads "ctrl-p,ctrl-q", which is the default too.
func detachKeys(s string) ([]byte, error) {
	if s == "" {
		s = "ctrl-p,ctrl-q"
	}
	keys, err := term.ToBytes(s)
	if err != nil {
		return nil, invalid("invalid detach keys %q: %w", s, err)
	}
	return keys, nil
}

// escape reads a terminal's input until the detach keys come: then it is at its end, and the client is let go.
type escape struct {
	from io.Reader
	let  func()
}

func (e escape) Read(p []byte) (int, error) {
	n, err := e.from.Read(p)
	var detach term.EscapeError
	if errors.As(err, &detach) {
		e.let()
		err = io.EOF
	}
	return n, err
}

// hijack hands the connection over to work, as a job's streams; begin writes the answer's head. On a terminal, keys end
// the connection and not what is at its other end.
func hijack(w http.ResponseWriter, r *http.Request, tty bool, keys []byte, work func(ctx context.Context, streams job.Streams, begin func(tty bool))) error {
	hj, ok := w.(http.Hijacker)
	if !ok {
		return invalid("this connection cannot be taken over")
	}
	upgrade := r.Header.Get("Upgrade") != ""
	conn, buf, err := hj.Hijack()
	if err != nil {
		return err
	}
	defer conn.Close()
	var mu sync.Mutex
	out, errs := muxer{&mu, conn, 1}, muxer{&mu, conn, 2}
	if tty {
		out.n, errs.n = 0, 0
	}
	ctx, cancel := contextOf(r, conn)
	defer cancel()
	streams := job.Streams{Stdin: halfCloser(buf.Reader, conn), Stdout: out, Stderr: errs}
	if tty {
		streams.Stdin = escape{term.NewEscapeProxy(streams.Stdin, keys), cancel}
	}
	work(ctx, streams, func(tty bool) { writeUpgrade(conn, upgrade, tty) })
	return nil
}

func writeUpgrade(w io.Writer, upgrade, tty bool) {
	typ := muxedStream
	if tty {
		typ = rawStream
	}
	if upgrade {
		fmt.Fprintf(w, "HTTP/1.1 101 UPGRADED\r\nContent-Type: %s\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nApi-Version: %s\r\n\r\n", typ, Version)
		return
	}
	fmt.Fprintf(w, "HTTP/1.1 200 OK\r\nContent-Type: %s\r\nApi-Version: %s\r\n\r\n", rawStream, Version)
}

// halfCloser reads what the server had buffered, then the connection.
func halfCloser(buf *bufio.Reader, conn net.Conn) io.Reader {
	if n := buf.Buffered(); n > 0 {
		b, _ := buf.Peek(n)
		return io.MultiReader(newBytes(b), conn)
	}
	return conn
}

func (s *Server) containerLogs(w http.ResponseWriter, r *http.Request) error {
	in := stdio.LogsIn{
		Ref: r.PathValue("name"), Stdout: flag(r, "stdout"), Stderr: flag(r, "stderr"), Follow: flag(r, "follow"), Timestamps: flag(r, "timestamps"), Tail: -1,
	}
	var err error
	if in.Since, err = readTime(r.FormValue("since")); err != nil {
		return err
	}
	if in.Until, err = readTime(r.FormValue("until")); err != nil {
		return err
	}
	if t := r.FormValue("tail"); t != "" && t != "all" {
		if in.Tail, err = strconv.Atoi(t); err != nil || in.Tail < 0 {
			in.Tail = -1
		}
	}
	var mu sync.Mutex
	out, errs := &muxer{&mu, w, 1}, &muxer{&mu, w, 2}
	in.Began = func(tty bool) {
		w.Header().Set("Content-Type", muxedStream)
		if tty {
			out.n, errs.n = 0, 0
			w.Header().Set("Content-Type", rawStream)
		}
		w.WriteHeader(http.StatusOK)
		flush(w)
	}
	_, err = job.Run[any](r.Context(), s.e.Jobs, "logs", in, job.Streams{Stdout: out, Stderr: errs}, in.Ref)
	if err != nil && r.Context().Err() != nil {
		return nil
	}
	return err
}
