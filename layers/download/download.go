// Package download brings blobs, each once however many want it, and lets its
// readers follow behind.
//
// A blob grows in a file FOLDER/HEX while its readers follow behind, in the
// page cache, so that neither waits for the other and a broken download goes on
// later at the size of its file. The file is not synced: it is checked whole by
// its readers, wherever it came from. It is unlinked and emptied when its last
// byte was read, before the layer that was unpacked from it is synced, so that
// of a fast download nothing reaches the storage, but for what had to wait while
// a layer below was synced; one that took so long that the kernel has written it
// anyway is kept until its layer is durable. So that little has to wait, a blob
// that nobody reads yet runs ahead by 8 MiB, and then leaves its slot to others:
// three download at once. Small blobs stay in memory.
//
// The package checks no digest, and knows of no layers and no registry.
package download

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/image"
)

// Bounds of downloads.
const (
	parallelFetches = 3                // at once, as Docker
	runAhead        = 8 << 20          // bytes of a blob that come before somebody reads it
	smallBlob       = 512 << 10        // bytes; a blob up to this may wait in memory
	smallTotal      = 4 << 20          // bytes of all that wait in memory
	writeback       = 20 * time.Second // the kernel writes dirty pages after 30 seconds (vm.dirty_expire_centisecs)
)

// Folder is where blobs are on their way. Its methods may be called from any
// goroutine.
type Folder struct {
	dir   string
	slots chan struct{} // one for each download that runs

	mu     sync.Mutex
	live   map[digest.Digest]*Blob // guarded by mu
	memory int64                   // bytes that wait in memory; guarded by mu
}

// Blob is one blob on its way.
type Blob struct {
	home    *Folder
	desc    ocispec.Descriptor
	cancel  context.CancelFunc
	done    chan struct{} // closed when the download has ended
	resumed int64         // bytes that an earlier process has left
	begun   time.Time
	refs    int  // guarded by home.mu
	drop    bool // nobody may join; guarded by home.mu
	gone    bool // the file has no name any more; guarded by home.mu

	mu      sync.Mutex
	changed chan struct{} // closed and made anew when what follows changes; guarded by mu
	have    int64         // bytes that are there; guarded by mu
	err     error         // guarded by mu
	started bool          // it has got a slot; guarded by mu
	wanted  bool          // somebody reads it; guarded by mu
	file    *os.File      // set before readers are let in
	buf     []byte        // instead of the file; guarded by mu
}

// Opener reads a blob from an offset on, as registry.Session.Blob.
type Opener func(ctx context.Context, d ocispec.Descriptor, offset int64) io.ReadCloser

// Open makes the folder if it is missing. On a full disk it may stay missing:
// downloads say so then.
func Open(dir string) (*Folder, error) {
	f := &Folder{dir: dir, slots: make(chan struct{}, parallelFetches), live: map[digest.Digest]*Blob{}}
	if err := os.MkdirAll(dir, 0o700); err != nil && !errors.Is(blob.NoSpace(err), blob.ErrNoSpace) {
		return nil, fmt.Errorf("make folder for downloads: %w", err)
	}
	return f, nil
}

// Dir is the folder's path.
func (fs *Folder) Dir() string { return fs.dir }

// Sweep removes what nobody has asked for again in so long, and tells how
// many there were.
func (fs *Folder) Sweep(age time.Duration) (n int, err error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	list, err := os.ReadDir(fs.dir)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil // the disk was full when it was to be made
	}
	if err != nil {
		return 0, fmt.Errorf("read folder of downloads: %w", err)
	}
	for _, e := range list {
		if fs.live[digest.NewDigestFromEncoded(digest.SHA256, e.Name())] != nil {
			continue
		}
		if st, err := e.Info(); err == nil && time.Since(st.ModTime()) < age {
			continue
		}
		if err := os.RemoveAll(filepath.Join(fs.dir, e.Name())); err != nil {
			return n, fmt.Errorf("remove old download: %w", err)
		}
		n++
	}
	return n, nil
}

// Users is how many want a blob that is on its way.
func (fs *Folder) Users(d digest.Digest) int {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f := fs.live[d]; f != nil {
		return f.refs
	}
	return 0
}

// Forget removes what an earlier process left of a blob whose layer is here.
func (fs *Folder) Forget(d digest.Digest) error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.live[d] != nil {
		return nil // whoever is at it removes it
	}
	if err := os.Remove(filepath.Join(fs.dir, d.Encoded())); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove old download: %w", err)
	}
	return nil
}

// Get joins the download of a blob, or begins it. The caller releases it
// (Release).
func (fs *Folder) Get(ctx context.Context, d ocispec.Descriptor, open Opener) (*Blob, error) {
	if err := image.CheckDescriptor("blob", d); err != nil {
		return nil, err
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f := fs.live[d.Digest]; f != nil && f.desc.Size == d.Size && !f.drop && !f.Failed() {
		f.refs++
		return f, nil
	}
	f := &Blob{home: fs, desc: d, done: make(chan struct{}), changed: make(chan struct{}), refs: 1, begun: time.Now()}
	if err := f.place(); err != nil {
		return nil, err
	}
	fs.live[d.Digest] = f
	// It outlives whoever began it, if others want it too.
	ctx, f.cancel = context.WithCancel(context.WithoutCancel(ctx))
	go f.run(ctx, open)
	return f, nil
}

// place makes room for the blob; home.mu is held.
func (f *Blob) place() error {
	fs := f.home
	path := f.path()
	if f.desc.Size <= smallBlob && fs.memory+f.desc.Size <= smallTotal {
		fs.memory += f.desc.Size
		f.buf = make([]byte, 0, f.desc.Size)
		return nil
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("make file for download: %w", blob.NoSpace(err))
	}
	st, err := file.Stat()
	if err == nil && st.Size() > f.desc.Size {
		err = file.Truncate(0)
	} else if err == nil {
		f.resumed = st.Size()
	}
	if err != nil {
		file.Close()
		return fmt.Errorf("look at earlier download %s: %w", path, err)
	}
	f.file, f.have = file, f.resumed
	return nil
}

// Descriptor is what the blob is to be.
func (f *Blob) Descriptor() ocispec.Descriptor { return f.desc }

// Resumed is how many bytes an earlier process has left of it.
func (f *Blob) Resumed() int64 { return f.resumed }

// Done is closed when the download has ended.
func (f *Blob) Done() <-chan struct{} { return f.done }

func (f *Blob) path() string { return filepath.Join(f.home.dir, f.desc.Digest.Encoded()) }

// Failed tells whether the download has ended with an error.
func (f *Blob) Failed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err != nil
}

// run downloads what is missing.
func (f *Blob) run(ctx context.Context, open Opener) {
	defer close(f.done)
	err := f.download(ctx, open)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
	f.tell()
}

func (f *Blob) download(ctx context.Context, open Opener) error {
	if f.have == f.desc.Size && f.have > 0 {
		return nil
	}
	slot := &slot{all: f.home.slots}
	if err := slot.take(ctx); err != nil {
		return err
	}
	defer slot.give()
	f.mu.Lock()
	f.started = true
	f.tell()
	f.mu.Unlock()
	body := open(ctx, f.desc, f.have)
	defer body.Close()
	stop := f.have + runAhead
	for buf := make([]byte, 128<<10); ; {
		if f.have >= stop {
			slot.give()
			if err := f.untilWanted(ctx); err != nil {
				return err
			}
			if err := slot.take(ctx); err != nil {
				return err
			}
			stop = f.desc.Size + 1
		}
		n, err := body.Read(buf)
		if err := f.add(ctx, buf[:n]); err != nil {
			return err
		}
		if err == io.EOF && f.have < f.desc.Size {
			return fmt.Errorf("%w: %d bytes where %d were announced", blob.ErrSize, f.have, f.desc.Size)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// slot is the right to download, of which there are few.
type slot struct {
	all  chan struct{}
	held bool
}

func (s *slot) take(ctx context.Context) error {
	select {
	case s.all <- struct{}{}:
		s.held = true
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *slot) give() {
	if s.held {
		<-s.all
		s.held = false
	}
}

// untilWanted waits for a reader.
func (f *Blob) untilWanted(ctx context.Context) error {
	for {
		f.mu.Lock()
		wanted, changed := f.wanted, f.changed
		f.mu.Unlock()
		if wanted {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// add appends bytes and wakes the readers.
func (f *Blob) add(ctx context.Context, p []byte) error {
	if f.have+int64(len(p)) > f.desc.Size {
		return fmt.Errorf("%w: more than %d bytes", blob.ErrSize, f.desc.Size)
	}
	if f.file != nil {
		if _, err := f.file.WriteAt(p, f.have); err != nil {
			return fmt.Errorf("write download: %w", blob.NoSpace(err))
		}
		blob.Wrote(ctx, int64(len(p)))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.file == nil {
		f.buf = append(f.buf, p...)
	}
	f.have += int64(len(p))
	f.tell()
	return nil
}

// tell wakes whoever waits for a change; mu is held.
func (f *Blob) tell() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// State is how far a download is.
type State struct {
	Have    int64           // bytes that are there
	Started bool            // it has got a slot
	Err     error           // that ended it
	Changed <-chan struct{} // closed when what is above changes
}

// State tells how far it is.
func (f *Blob) State() State {
	f.mu.Lock()
	defer f.mu.Unlock()
	return State{f.have, f.started, f.err, f.changed}
}

// Reader follows the download from the blob's first byte.
func (f *Blob) Reader(ctx context.Context) io.ReadCloser {
	f.mu.Lock()
	f.wanted = true
	f.tell()
	f.mu.Unlock()
	return &follower{f: f, ctx: ctx}
}

type follower struct {
	f   *Blob
	ctx context.Context
	at  int64
}

// Read implements io.Reader.
func (r *follower) Read(p []byte) (int, error) {
	for {
		st := r.f.State()
		if r.at < st.Have {
			n, err := r.f.readAt(p[:min(int64(len(p)), st.Have-r.at)], r.at)
			r.at += int64(n)
			return n, err
		}
		if r.at == r.f.desc.Size {
			r.f.consumed()
			return 0, io.EOF
		}
		if st.Err != nil {
			return 0, st.Err
		}
		select {
		case <-st.Changed:
		case <-r.ctx.Done():
			return 0, context.Cause(r.ctx)
		}
	}
}

// Close implements io.Closer.
func (r *follower) Close() error { return nil }

func (f *Blob) readAt(p []byte, at int64) (int, error) {
	if f.file == nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		return copy(p, f.buf[at:]), nil
	}
	n, err := f.file.ReadAt(p, at)
	if err == io.EOF && n > 0 {
		err = nil
	}
	return n, err
}

// consumed forgets the file of a blob that was read to its end, unless it is
// on the storage by now anyway.
func (f *Blob) consumed() {
	if f.file == nil || f.resumed > 0 || time.Since(f.begun) > writeback {
		return
	}
	f.home.mu.Lock()
	defer f.home.mu.Unlock()
	if f.refs > 1 || f.unlink() != nil {
		return // Release tries again, and tells
	}
	// As long as a file is open, syncfs(2) writes it out though it has no name.
	_ = f.file.Truncate(0)
}

// unlink takes the file's name away, once; home.mu is held. Those who have
// the blob open read on.
func (f *Blob) unlink() error {
	f.drop = true
	if f.gone || f.file == nil {
		return nil
	}
	if err := os.Remove(f.path()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove download: %w", err)
	}
	f.gone = true
	return nil
}

// Release lets go of a blob. With spent, nobody needs it any more: its layer
// is there, or it was not what it should be. When the last has let go of it,
// the download ends and what there is stays for the next try.
func (f *Blob) Release(spent bool) (err error) {
	fs := f.home
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if spent {
		err = f.unlink()
	}
	if f.refs--; f.refs > 0 {
		return err
	}
	f.cancel()
	<-f.done // run takes no lock of ours
	if fs.live[f.desc.Digest] == f {
		delete(fs.live, f.desc.Digest)
	}
	if f.file == nil {
		fs.memory -= f.desc.Size
		return err
	}
	if errors.Is(f.err, blob.ErrNoSpace) || errors.Is(f.err, blob.ErrSize) || f.have == 0 {
		err = errors.Join(err, f.unlink())
	}
	return errors.Join(err, f.file.Close())
}
