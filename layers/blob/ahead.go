package blob

import (
	"io"
	"sync"
)

const (
	aheadBuffers = 4
	aheadSize    = 256 << 10 // bytes each
)

// Ahead reads r in a goroutine of its own, up to 1 MiB ahead of its reader,
// so that decompressing and hashing run beside writing files. Close stops
// the goroutine and waits for it; r must not be used before Close returned.
func Ahead(r io.Reader) io.ReadCloser {
	a := &ahead{
		full: make(chan chunk, aheadBuffers),
		free: make(chan []byte, aheadBuffers),
		stop: make(chan struct{}),
		done: make(chan struct{}),
	}
	for range aheadBuffers {
		a.free <- nil // made when first needed
	}
	go a.run(r)
	return a
}

type chunk struct {
	data []byte
	err  error
}

type ahead struct {
	full chan chunk    // closed by run
	free chan []byte   // never closed
	stop chan struct{} // closed by Close
	done chan struct{} // closed by run
	once sync.Once
	cur  chunk // the reader's
	rest []byte
}

func (a *ahead) run(r io.Reader) {
	defer close(a.done)
	defer close(a.full)
	for {
		var buf []byte
		select {
		case <-a.stop:
			return
		case buf = <-a.free:
		}
		if buf == nil {
			buf = make([]byte, aheadSize)
		}
		n, err := fill(r, buf)
		a.full <- chunk{buf[:n], err} // has room: as many slots as buffers
		if err != nil {
			return
		}
	}
}

// fill reads until buf is full or r ends; unlike io.ReadFull it keeps the
// reader's own error.
func fill(r io.Reader, buf []byte) (int, error) {
	n := 0
	for n < len(buf) {
		m, err := r.Read(buf[n:])
		n += m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// Read implements io.Reader.
func (a *ahead) Read(p []byte) (int, error) {
	for len(a.rest) == 0 {
		if a.cur.err != nil {
			return 0, a.cur.err
		}
		if a.cur.data != nil {
			a.free <- a.cur.data[:cap(a.cur.data)]
			a.cur.data = nil
		}
		c, ok := <-a.full
		if !ok {
			return 0, io.ErrClosedPipe
		}
		a.cur, a.rest = c, c.data
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// Close implements io.Closer.
func (a *ahead) Close() error {
	a.once.Do(func() { close(a.stop) })
	<-a.done
	return nil
}
