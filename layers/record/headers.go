package record

import (
	"archive/tar"
	"fmt"
	"io"
)

// Headers calls fn for every entry of the layer's stream, in its order. No
// content is looked at. Errors wrap ErrBroken, or are fn's.
func (r *Reader) Headers(fn func(*tar.Header) error) error {
	it, err := r.items()
	if err != nil {
		return err
	}
	defer it.close()
	tr := tar.NewReader(&outline{items: it})
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrBroken, err)
		}
		if err := fn(h); err != nil {
			return err
		}
	}
}

// outline is the stream with zeros in place of contents.
type outline struct {
	items *items
	at    io.Reader // of the item at hand; nil: the next one
}

// Read implements io.Reader.
func (o *outline) Read(p []byte) (int, error) {
	for {
		if o.at != nil {
			n, err := o.at.Read(p)
			if n > 0 || err != nil && err != io.EOF {
				return n, err
			}
			o.at = nil
		}
		it, err := o.items.next()
		if err != nil {
			return 0, err
		}
		switch it.kind {
		case itemRaw:
			o.at = it.body
		case itemBody:
			o.at = io.LimitReader(zeros{}, it.file.Size)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
