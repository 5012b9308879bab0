package archive

import (
	"archive/tar"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// File is the content of a regular file of a layer.
type File struct {
	Path   string // below the layer's root, through no symlink; empty where it can't be told
	Size   int64
	SHA256 [sha256.Size]byte
}

// Recorder is a layer's tar stream that wants to know which of its bytes
// Unpack has put into files, so that the rest can be kept and the stream be
// made again. Unpack reads from it alone and calls from one goroutine.
type Recorder interface {
	io.Reader

	// Body says that the bytes read from now on, up to File, are the content
	// of a file, and will be found in the folder.
	Body()

	// File tells of a file that was written. Without Body before it, its
	// content was not in the stream as it is now (sparse files) or would not
	// be found again.
	File(File) error

	// Lost tells that a file that was written is about to be removed,
	// because a later entry takes its place. content is it, to be read in
	// the call.
	Lost(f File, content io.Reader) error
}

// recording is the unpacker's side of a Recorder.
type recording struct {
	rec Recorder
	sum hash.Hash // of the file being written
	t   *tree
	buf []byte
}

func newRecording(rec Recorder, t *tree) *recording {
	r := &recording{rec: rec, sum: sha256.New(), t: t, buf: make([]byte, 32<<10)}
	t.losing = r.losing
	return r
}

// begin is called when the next bytes of the stream are h's content.
func (r *recording) begin(h *tar.Header) {
	r.sum.Reset()
	if !isSparse(h) && r.t.atKnown {
		r.rec.Body()
	}
}

// end is called when base has been written into the folder looked up last.
func (r *recording) end(base string, size int64) error {
	if !r.t.atKnown {
		return nil
	}
	f := File{Path: path.Join(r.t.at, base), Size: size}
	r.sum.Sum(f.SHA256[:0])
	return r.rec.File(f)
}

// isSparse tells whether the stream has something else than the content.
func isSparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// losing tells of all regular files that removing base in dir, the folder
// looked up last, takes away.
func (r *recording) losing(dir int, base string, st *unix.Stat_t) error {
	name := ""
	if r.t.atKnown {
		name = path.Join(r.t.at, base)
	}
	return r.lose(dir, base, name, st)
}

func (r *recording) lose(dir int, base, name string, st *unix.Stat_t) error {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return r.loseFile(dir, base, name)
	case unix.S_IFDIR:
		return r.loseDir(dir, base, name)
	}
	return nil
}

func (r *recording) loseFile(dir int, base, name string) error {
	fd, err := unix.Openat(dir, base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open file that is replaced: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	r.sum.Reset()
	n, err := io.CopyBuffer(r.sum, struct{ io.Reader }{f}, r.buf)
	if err != nil {
		return fmt.Errorf("read file that is replaced: %w", err)
	}
	lost := File{Path: name, Size: n}
	r.sum.Sum(lost.SHA256[:0])
	return r.rec.Lost(lost, io.NewSectionReader(f, 0, n))
}

func (r *recording) loseDir(dir int, base, name string) error {
	f, err := openDir(dir, base)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		names, err := f.Readdirnames(512)
		if err == io.EOF || err == nil && len(names) == 0 {
			return nil
		}
		if err != nil {
			return fmt.Errorf("list folder that is replaced: %w", err)
		}
		for _, n := range names {
			var st unix.Stat_t
			if err := unix.Fstatat(int(f.Fd()), n, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
				return fmt.Errorf("look at file that is replaced: %w", err)
			}
			sub := ""
			if name != "" {
				sub = path.Join(name, n)
			}
			if err := r.lose(int(f.Fd()), n, sub, &st); err != nil {
				return err
			}
		}
	}
}

// OpenFile opens a regular file below the folder root for reading. No
// symlink is followed, neither on the way nor at the end, and nothing is
// opened that is no regular file. The file is the caller's to close.
func OpenFile(root *os.File, name string) (*os.File, error) {
	const how = inMount | unix.RESOLVE_NO_SYMLINKS
	fd, err := openIn(int(root.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, how)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("open %s: it is no regular file", name)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
