package record

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"

	"github.com/coble-os/coble/layers/archive"
	"github.com/coble-os/coble/layers/blob"
)

// rawChunk is how many bytes of the stream become one item.
const rawChunk = 32 << 10

// Writer reads a plain tar stream and writes its record. It is an
// archive.Recorder, to be handed to archive.Unpack.
type Writer struct {
	src    io.Reader
	f      *os.File // the caller's
	z      *gzip.Writer
	info   Info
	raw    []byte // of the stream, not written yet
	inBody bool
	body   int64 // bytes read since Body
	lost   map[[sha256.Size]byte]bool
	kept   int64 // bytes of lost files
	most   int64 // of kept
	small  []byte
	err    error // the first, of writing
}

// NewWriter reads src and writes its record into the empty file f, which
// stays the caller's.
func NewWriter(f *os.File, src io.Reader) (*Writer, error) {
	if _, err := f.Seek(headerSize, io.SeekStart); err != nil {
		return nil, fmt.Errorf("begin layer's record: %w", err)
	}
	z, err := gzip.NewWriterLevel(f, gzip.BestSpeed)
	if err != nil {
		return nil, fmt.Errorf("begin layer's record: %w", err)
	}
	return &Writer{src: src, f: f, z: z, info: Info{Exact: true}, most: maxLostBytes, lost: map[[sha256.Size]byte]bool{}}, nil
}

// Read implements io.Reader. An error of writing the record comes here.
func (w *Writer) Read(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	n, err := w.src.Read(p)
	w.info.Size += int64(n)
	if w.inBody {
		w.body += int64(n)
		return n, err
	}
	if w.raw = append(w.raw, p[:n]...); len(w.raw) >= rawChunk {
		if werr := w.flush(); werr != nil {
			return n, werr
		}
	}
	return n, err
}

// Body implements archive.Recorder.
func (w *Writer) Body() { w.inBody, w.body = true, 0 }

// File implements archive.Recorder.
func (w *Writer) File(f archive.File) error {
	kind := byte(itemKept)
	if w.inBody {
		kind = itemBody
		if w.body != f.Size {
			return w.fail(fmt.Errorf("%s has %d bytes, the stream had %d", f.Path, f.Size, w.body))
		}
	}
	w.inBody = false
	w.info.Files++
	if err := w.flush(); err != nil {
		return err
	}
	return w.write(appendFile(w.begin(kind), f))
}

// Lost implements archive.Recorder.
func (w *Writer) Lost(f archive.File, content io.Reader) error {
	if f.Path == "" || w.info.Lost == maxLost {
		w.info.Exact = false
		return nil
	}
	w.info.Lost++
	keep := f.Size
	if w.lost[f.SHA256] {
		keep = 0
	} else if w.kept+keep > w.most {
		w.info.Exact = false
		keep = 0
	}
	if err := w.write(binary.AppendUvarint(appendFile(w.begin(itemLost), f), uint64(keep))); err != nil || keep == 0 {
		return err
	}
	w.lost[f.SHA256] = true
	w.kept += keep
	if n, err := io.Copy(struct{ io.Writer }{w.z}, content); err != nil || n != keep {
		return w.fail(fmt.Errorf("keep %s, which is replaced: %d of %d bytes: %w", f.Path, n, keep, err))
	}
	return nil
}

// Finish writes what is left and the header. src must have been read to its
// end and found to have the digest diffID.
func (w *Writer) Finish(diffID digest.Digest) error {
	w.info.DiffID = diffID
	if err := w.flush(); err != nil {
		return err
	}
	if err := w.write(w.begin(itemEnd)); err != nil {
		return err
	}
	if err := w.z.Close(); err != nil {
		return w.fail(err)
	}
	head, err := w.info.encode()
	if err != nil {
		return err
	}
	if _, err := w.f.WriteAt(head, 0); err != nil {
		return w.fail(err)
	}
	return nil
}

func (w *Writer) begin(kind byte) []byte { return append(w.small[:0], kind) }

// flush writes the raw bytes as an item.
func (w *Writer) flush() error {
	if len(w.raw) == 0 {
		return w.err
	}
	if err := w.write(binary.AppendUvarint(w.begin(itemRaw), uint64(len(w.raw)))); err != nil {
		return err
	}
	_, err := w.z.Write(w.raw)
	w.raw = w.raw[:0]
	return w.fail(err)
}

func (w *Writer) write(b []byte) error {
	w.small = b[:0]
	if w.err != nil {
		return w.err
	}
	_, err := w.z.Write(b)
	return w.fail(err)
}

func (w *Writer) fail(err error) error {
	if err != nil && w.err == nil {
		w.err = fmt.Errorf("write layer's record: %w", blob.NoSpace(err))
	}
	return w.err
}

func appendFile(b []byte, f archive.File) []byte {
	b = binary.AppendUvarint(b, uint64(len(f.Path)))
	b = append(b, f.Path...)
	b = binary.AppendUvarint(b, uint64(f.Size))
	return append(b, f.SHA256[:]...)
}

func sumOf(d digest.Digest) (sum [sha256.Size]byte, err error) {
	if err := d.Validate(); err != nil || d.Algorithm() != digest.SHA256 {
		return sum, fmt.Errorf("record layer: %q is no sha256 digest", d)
	}
	_, err = hex.Decode(sum[:], []byte(d.Encoded()))
	return sum, err
}
