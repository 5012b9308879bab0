package repo

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
	parallelFetches = 3                  // at once, as Docker
	runAhead        = 8 << 20            // bytes of a blob that come before somebody reads it
	smallBlob       = 512 << 10          // bytes; a blob up to this may wait in memory
	smallTotal      = 4 << 20            // bytes of all that wait in memory
	partialAge      = 7 * 24 * time.Hour // how long what nobody asked for again is kept
	writeback       = 20 * time.Second   // the kernel writes dirty pages after 30 seconds (vm.dirty_expire_centisecs)
)

// fetches are the blobs on their way, each downloaded once however many want
// it. A blob grows in a file ROOT/partial/HEX while its readers follow behind,
// in the page cache, so that neither waits for the other and a broken download
// goes on later at the size of its file. The file is not synced: it is checked
// whole by its readers, wherever it came from. It is unlinked and emptied when
// its last byte was read, before the layer that was unpacked from it is synced,
// so that of a fast download nothing reaches the storage, but for what had to
// wait while a layer below was synced; one that took so long that the kernel
// has written it anyway is kept until its layer is durable. So that little has
// to wait, a blob that nobody reads yet runs ahead by 8 MiB, and then leaves
// its slot to others. Small blobs stay in memory.
type fetches struct {
	dir   string
	slots chan struct{} // one for each download that runs

	mu     sync.Mutex
	live   map[digest.Digest]*fetch // guarded by mu
	memory int64                    // bytes that wait in memory; guarded by mu
}

// fetch is one blob on its way.
type fetch struct {
	home    *fetches
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

// opener reads a blob from an offset on, as registry.Session.Blob.
type opener func(ctx context.Context, d ocispec.Descriptor, offset int64) io.ReadCloser

func openFetches(root string) (*fetches, error) {
	f := &fetches{dir: filepath.Join(root, "partial"), slots: make(chan struct{}, parallelFetches), live: map[digest.Digest]*fetch{}}
	if err := os.MkdirAll(f.dir, 0o700); orFull(err) != nil {
		return nil, fmt.Errorf("make folder for downloads: %w", err)
	} else if err != nil {
		return f, nil // downloads say why they fail
	}
	_, err := f.sweep(partialAge)
	return f, err
}

// sweep removes what nobody has asked for again in so long, and tells how
// many there were.
func (fs *fetches) sweep(age time.Duration) (n int, err error) {
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

// forget removes what an earlier process left of a blob whose layer is here.
func (fs *fetches) forget(d digest.Digest) error {
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

// get joins the download of a blob, or begins it. The caller releases it.
func (fs *fetches) get(ctx context.Context, d ocispec.Descriptor, open opener) (*fetch, error) {
	if err := image.CheckDescriptor("blob", d); err != nil {
		return nil, err
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f := fs.live[d.Digest]; f != nil && f.desc.Size == d.Size && !f.drop && !f.failed() {
		f.refs++
		return f, nil
	}
	f := &fetch{home: fs, desc: d, done: make(chan struct{}), changed: make(chan struct{}), refs: 1, begun: time.Now()}
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
func (f *fetch) place() error {
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

func (f *fetch) path() string { return filepath.Join(f.home.dir, f.desc.Digest.Encoded()) }

func (f *fetch) failed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err != nil
}

// run downloads what is missing.
func (f *fetch) run(ctx context.Context, open opener) {
	defer close(f.done)
	err := f.download(ctx, open)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
	f.tell()
}

func (f *fetch) download(ctx context.Context, open opener) error {
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
func (f *fetch) untilWanted(ctx context.Context) error {
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
func (f *fetch) add(ctx context.Context, p []byte) error {
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
func (f *fetch) tell() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// state is how far it is.
type fetchState struct {
	have    int64
	started bool
	err     error
	changed <-chan struct{}
}

func (f *fetch) state() fetchState {
	f.mu.Lock()
	defer f.mu.Unlock()
	return fetchState{f.have, f.started, f.err, f.changed}
}

// reader follows the download from the blob's first byte.
func (f *fetch) reader(ctx context.Context) io.ReadCloser {
	f.mu.Lock()
	f.wanted = true
	f.tell()
	f.mu.Unlock()
	return &follower{f: f, ctx: ctx}
}

type follower struct {
	f   *fetch
	ctx context.Context
	at  int64
}

// Read implements io.Reader.
func (r *follower) Read(p []byte) (int, error) {
	for {
		st := r.f.state()
		if r.at < st.have {
			n, err := r.f.readAt(p[:min(int64(len(p)), st.have-r.at)], r.at)
			r.at += int64(n)
			return n, err
		}
		if r.at == r.f.desc.Size {
			r.f.consumed()
			return 0, io.EOF
		}
		if st.err != nil {
			return 0, st.err
		}
		select {
		case <-st.changed:
		case <-r.ctx.Done():
			return 0, context.Cause(r.ctx)
		}
	}
}

// Close implements io.Closer.
func (r *follower) Close() error { return nil }

func (f *fetch) readAt(p []byte, at int64) (int, error) {
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
func (f *fetch) consumed() {
	if f.file == nil || f.resumed > 0 || time.Since(f.begun) > writeback {
		return
	}
	f.home.mu.Lock()
	defer f.home.mu.Unlock()
	if f.refs > 1 || f.unlink() != nil {
		return // release tries again, and tells
	}
	// As long as a file is open, syncfs(2) writes it out though it has no name.
	_ = f.file.Truncate(0)
}

// unlink takes the file's name away, once; home.mu is held. Those who have
// the blob open read on.
func (f *fetch) unlink() error {
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

// release lets go of a blob. With spent, nobody needs it any more: its layer
// is there, or it was not what it should be. When the last has let go of it,
// the download ends and what there is stays for the next try.
func (f *fetch) release(spent bool) (err error) {
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
