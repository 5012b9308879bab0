package repo

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/catalog"
	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/layers/source"
	"github.com/coble-os/coble/layers/unpacked"
)

// smallMember is up to which size, in bytes, what comes past is kept in
// memory whatever it is, while there is room (maxInMemory).
const smallMember = 64 << 10

// intake is an archive that comes past once. Which of its members are layers,
// and of what, its manifest says, which is mostly the last member. So what
// looks like a layer is unpacked as it comes, under no name (see unpacked.Staged), and
// its digests are known at its end; what turns out to be no layer that is
// missing is taken away before anything is synced. Beside that:
//
//   - small members, manifests and configurations among them, stay in memory;
//   - what seems to be the content of a layer that is here, by its name or by
//     a manifest that came before, is only hashed: should another image need
//     it again, it comes from that layer;
//   - the rest, and all with a driver that needs what lies below to unpack a
//     layer, is spooled.
type intake struct {
	*source.Tar
	r        *Repo
	progress func(Progress)
	want     image.Platform // see source.Recipes
	room     int            // bytes that may still be kept in memory
	spooled  int64          // bytes in the file
	known    here
	came     map[*source.Member]*passed // what is neither in a file nor in memory
	pins     []string                   // layers that must stay until close
}

// passed is what became of a member that is neither in a file nor in memory.
type passed struct {
	size   int64
	blob   digest.Digest    // of the member
	diffID digest.Digest    // of the stream in it
	layer  *unpacked.Staged // unpacked, for whoever needs it first; nil: taken, or not unpacked
	node   string           // a layer with this content: it is here, or in the batch that took it
	err    error            // why it is no layer
}

func (r *Repo) newIntake(want image.Platform, progress func(Progress)) *intake {
	if progress == nil {
		progress = func(Progress) {}
	}
	return &intake{Tar: source.NewTar(), came: map[*source.Member]*passed{}, r: r, want: want, progress: progress, room: source.MaxInMemory}
}

// fate is what is done with a member.
type fate int

const (
	remembered fate = iota // in memory
	asLayer                // unpacked
	hashed                 // it is what a layer that is here was made of
	setAside               // in the spool
)

// arrive takes the next member.
func (in *intake) arrive(ctx context.Context, h *tar.Header, body io.Reader) (err error) {
	var m *source.Member
	if h.Typeflag == tar.TypeReg {
		if m, err = in.receive(ctx, path.Clean(h.Name), h.Size, bufio.NewReaderSize(body, 1<<10)); err != nil {
			return fmt.Errorf("%.200q: %w", h.Name, err)
		}
	}
	if old := in.Add(h, m); old != nil {
		return in.forget(old)
	}
	return nil
}

func (in *intake) receive(ctx context.Context, name string, size int64, body *bufio.Reader) (*source.Member, error) {
	what, at, err := in.decide(name, size, body)
	if err != nil {
		return nil, err
	}
	switch what {
	case remembered:
		in.room -= int(size)
		in.known.manifest = false // it may be there now
		return source.ReadSmall(body, size)
	case hashed:
		return in.hash(ctx, at, size, body)
	case asLayer:
		return in.unpack(ctx, name, size, body)
	}
	return in.setAside(ctx, size, body)
}

// decide says what to do with a member, and for one that is to be hashed
// which layer it seems to be.
func (in *intake) decide(name string, size int64, body *bufio.Reader) (fate, hereLayer, error) {
	switch {
	case size <= int64(in.room) && (size <= in.r.small || source.IsJSON(body, size)):
		return remembered, hereLayer{}, nil
	case !in.r.disk.Stages() || !looksLikeLayer(body):
		return setAside, hereLayer{}, nil
	}
	at, ok, err := in.known.find(in, name)
	if ok {
		return hashed, at, err
	}
	return asLayer, at, err
}

// looksLikeLayer tells whether a member may be a layer's blob: packed, or a
// tar of POSIX or GNU (tar(5): the magic at 257).
func looksLikeLayer(body *bufio.Reader) bool {
	head, _ := body.Peek(512) // who reads on gets the error
	return blob.Detect(head) != blob.Plain || len(head) == 512 && string(head[257:262]) == "ustar"
}

// setAside writes a member to the spool.
func (in *intake) setAside(ctx context.Context, size int64, body io.Reader) (_ *source.Member, err error) {
	if in.Spool == nil {
		if in.Spool, err = blob.Spool(in.r.temp()); err != nil {
			return nil, err
		}
	}
	n, err := blob.Fill(in.Spool, body, in.r.freed)
	blob.Wrote(ctx, n)
	m := &source.Member{Offset: in.spooled, Size: size}
	in.spooled += n
	return m, err
}

// hash reads a member whose content should be here.
func (in *intake) hash(ctx context.Context, at hereLayer, size int64, body io.Reader) (*source.Member, error) {
	p := &passed{size: size, node: at.node}
	plain, err := blob.OpenLayer(body, "", size, "")
	if err == nil {
		_, err = io.Copy(io.Discard, plain)
		plain.Close()
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err == nil {
		p.blob, p.diffID = plain.Sums()
		if p.diffID != at.diffID {
			err = fmt.Errorf("%w: its name or the manifest says %s, it has %s", blob.ErrDigest, at.diffID, p.diffID)
		}
	}
	p.err = err
	in.pin(at.node)
	return in.pass(size, p), nil
}

// unpack makes a layer of a member. One that is no layer is an error for who
// needs it; that the disk is full is one at once.
func (in *intake) unpack(ctx context.Context, name string, size int64, body io.Reader) (*source.Member, error) {
	// What it unpacks to is hardly ever smaller.
	if err := in.r.room(size); err != nil {
		return nil, err
	}
	p := &passed{size: size}
	counted := &counter{r: body, tell: func(n int64) {
		in.progress(Progress{Layer: digestIn(name), Status: Unpacking, Current: n, Total: size})
	}}
	plain, err := blob.OpenLayer(counted, "", size, "")
	if err == nil {
		p.layer, err = in.r.disk.Stage(ctx, in.r.folder(), plain, func(r io.Reader) io.Reader { return &watcher{r: r, repo: in.r} })
		plain.Close()
	}
	switch {
	case ctx.Err() != nil:
		return nil, errors.Join(context.Cause(ctx), in.forget(in.pass(size, p)))
	case errors.Is(err, blob.ErrNoSpace):
		return nil, err
	case err == nil:
		p.blob, p.diffID, p.layer.Size = p.layer.Blob, p.layer.DiffID, size
	}
	p.err = err
	return in.pass(size, p), nil
}

// pass makes a member of what came past.
func (in *intake) pass(size int64, p *passed) *source.Member {
	m := &source.Member{Size: size, Passed: true}
	in.came[m] = p
	return m
}

// forget takes away what was unpacked of a member.
func (in *intake) forget(m *source.Member) error {
	p := in.came[m]
	if p == nil || p.layer == nil {
		return nil
	}
	l := p.layer
	p.layer = nil
	return in.r.disk.Unstage(l)
}

func (in *intake) pin(nodes ...string) {
	in.r.pin(nodes)
	in.pins = append(in.pins, nodes...)
}

// trim takes away what was unpacked and is no layer that one of the recipes
// misses. Layers that are here stay, since the archive's are gone now.
func (in *intake) trim(rs []source.Recipe) error {
	need := map[*source.Member]bool{}
	for _, rc := range rs {
		for i, node := range catalog.LayerNodes(rc.Image.RootFS) {
			in.pin(node)
			have, err := in.r.haveLayer(node)
			if err != nil {
				return err
			}
			m := in.Find(rc.Layers[i].Name)
			switch {
			case in.came[m] == nil:
			case !have:
				need[m] = true
			case in.came[m].node == "":
				in.came[m].node = node
			}
		}
	}
	for _, m := range in.Members {
		if need[m] {
			continue
		}
		if err := in.forget(m); err != nil {
			return err
		}
	}
	return nil
}

// take implements taker: it gives what was unpacked to who needs it first,
// and unpacks it out of that layer for others.
func (in *intake) take(ctx context.Context, b *batch, j layerJob) (*unpacked.Staged, error) {
	p := in.came[in.Find(j.from.Name)]
	if p == nil {
		return nil, nil
	}
	if err := p.fits(j); err != nil {
		return nil, err
	}
	if l := p.layer; l != nil {
		p.layer, p.node = nil, j.node()
		return l, nil
	}
	if err := b.publish(); err != nil { // the layer may be in it
		return nil, err
	}
	rc, _, err := in.r.openLayer(p.node)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	plain, err := blob.OpenLayer(blob.WithContext(ctx, rc), "", -1, j.diffID)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	return in.r.disk.Stage(ctx, in.r.folder(), plain, nil)
}

// fits checks what came past against what it has to be.
func (p *passed) fits(j layerJob) error {
	switch {
	case j.from.Size >= 0 && p.size != j.from.Size:
		return fmt.Errorf("%w: %d bytes where %d were announced", blob.ErrSize, p.size, j.from.Size)
	case p.err != nil:
		return p.err
	case j.from.Digest != "" && p.blob != j.from.Digest:
		return fmt.Errorf("%w: it has %s, announced was %s", blob.ErrDigest, p.blob, j.from.Digest)
	case p.diffID != j.diffID:
		return fmt.Errorf("%w: unpacked it has %s, announced was %s", blob.ErrDigest, p.diffID, j.diffID)
	}
	return nil
}

func (in *intake) Close() (err error) {
	for _, m := range in.Members {
		err = errors.Join(err, in.forget(m))
	}
	return errors.Join(err, in.r.unpin(in.pins), in.Tar.Close())
}

// digestIn finds a digest in the name of a layer: HEX, HEX.tar, HEX.tar.gz or
// HEX/layer.tar; empty if there is none.
func digestIn(name string) digest.Digest {
	for _, part := range []string{path.Base(name), path.Base(path.Dir(name))} {
		hex, _, _ := strings.Cut(part, ".")
		if d := digest.NewDigestFromEncoded(digest.SHA256, hex); image.CheckDigest(d) == nil {
			return d
		}
	}
	return ""
}

// Bounds of a watcher, in bytes.
const (
	watchEvery = 1 << 20
	watchRoom  = 4 << 20
)

// watcher removes what no image has shortly before the disk is full, once:
// what comes past can't be unpacked again afterwards.
type watcher struct {
	r    io.Reader
	repo *Repo
	left int64 // bytes until the next look
	done bool
}

// Read implements io.Reader.
func (w *watcher) Read(p []byte) (int, error) {
	if w.left <= 0 && !w.done {
		w.left = watchEvery
		if errors.Is(w.repo.fits(watchRoom), blob.ErrNoSpace) {
			w.done = true
			w.repo.freed()
		}
	}
	n, err := w.r.Read(p)
	w.left -= int64(n)
	return n, err
}
