package blob

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// SyncDir makes the names in a folder durable (fsync(2): the folder needs
// its own).
func SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open folder to sync: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync folder %s: %w", path, err)
	}
	return nil
}

// SyncTree makes everything below path durable with one syncfs(2) of its
// file system. Kernels from 5.8 on report write errors through it.
func SyncTree(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open folder to sync: %w", err)
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("sync file system of %s: %w", path, err)
	}
	return nil
}

// Publish renames old, whose content must be durable already, to path new
// and makes the new name durable. The two lie in one file system. That the
// old name is gone is not made durable: after a power cut it may be there
// instead of the new one, never beside it.
func Publish(old, new string) error {
	if err := os.Rename(old, new); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	return SyncDir(filepath.Dir(new))
}

// Spool makes a new nameless file in dir, which vanishes by itself when it is
// closed or its process dies. It is never synced: it need not outlive the
// process.
func Spool(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, "spool-")
	if err != nil {
		return nil, fmt.Errorf("make spool: %w", NoSpace(err))
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, fmt.Errorf("unlink spool: %w", err)
	}
	return f, nil
}

// Fill writes r to w. When the disk is full, full (which may be nil) is asked
// once: true means that there is room now.
func Fill(w io.Writer, r io.Reader, full func() bool) (int64, error) {
	n, err := io.Copy(&patient{w, full}, r)
	if err != nil {
		return n, fmt.Errorf("spool: %w", NoSpace(err))
	}
	return n, nil
}

// patient is a writer that tries a full disk a second time.
type patient struct {
	w    io.Writer
	full func() bool // nil: no more
}

// Write implements io.Writer.
func (p *patient) Write(b []byte) (int, error) {
	n, err := p.w.Write(b)
	if !isFull(err) || p.full == nil {
		return n, err
	}
	full := p.full
	p.full = nil
	if !full() {
		return n, err
	}
	m, err := p.w.Write(b[n:])
	return n + m, err
}

// NoSpace adds ErrNoSpace to an error that the kernel gave for a full disk
// or quota.
func NoSpace(err error) error {
	if isFull(err) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}

// CheckSpace refuses with ErrNoSpace if the file system of the open file f
// has less than need bytes for this process.
func CheckSpace(f *os.File, need int64) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("ask file system for free space: %w", err)
	}
	free := st.Bavail
	if os.Geteuid() == 0 {
		free = st.Bfree
	}
	have := int64(free) * int64(st.Bsize)
	if have >= need {
		return nil
	}
	return fmt.Errorf("%w: need about %d MiB, have %d MiB", ErrNoSpace, (need+1<<20-1)>>20, have>>20)
}
