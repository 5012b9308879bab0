package distribution

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/coble-os/coble/layers/blobinfo"
	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/layers/registry"
)

// parallelUploads bounds the processor time and memory of packing.
const parallelUploads = 2

// uploadTries is how often a layer's upload is begun.
const uploadTries = 4

// Pushed is what a push ended with.
type Pushed struct {
	Digest digest.Digest // of the manifest
	Size   int           // of the manifest, in bytes
}

// Push sends an image to a registry under one of its names.
//
// A layer is sent only if the repository there has none of the blobs that are
// known to be this layer, and no other repository of the same registry where
// one was seen gives it. It is packed and hashed while it is sent, without
// touching the disk. If the blobs that are then there are those of the
// manifest that the image came with, that manifest is sent, byte for byte;
// otherwise one of Docker's schema 2 is made, the same bytes every time. What
// was learned of the blobs, and the name with the digest, are recorded in one
// transaction.
func (l *Local) Push(ctx context.Context, s *registry.Session, n image.Name, tell func(Event)) (Pushed, error) {
	img, err := l.store.Get(n.String())
	if err != nil {
		return Pushed{}, err
	}
	p := &push{l: l, s: s, name: n, img: img, chains: image.ChainIDs(img.RootFS), told: tell}
	var out Pushed
	err = l.store.Hold(img, func() error {
		out, err = p.run(ctx)
		return err
	})
	return out, err
}

// push is one push of one image.
type push struct {
	l      *Local
	s      *registry.Session
	name   image.Name
	img    image.Image
	chains []digest.Digest
	first  blobinfo.Manifest // the manifest it came with; no digest if there is none
	mu     sync.Mutex
	told   func(Event)
}

func (p *push) tell(i int, status string, current, total int64) {
	if p.told == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.told(Event{ID: short(p.img.RootFS[i]), Status: status, Current: current, Total: total})
}

func (p *push) run(ctx context.Context) (Pushed, error) {
	var err error
	if p.first, err = p.l.blobs.Manifest(p.img.ID); err != nil {
		return Pushed{}, err
	}
	layers, err := p.layers(ctx)
	if err != nil {
		return Pushed{}, err
	}
	if err := p.config(ctx); err != nil {
		return Pushed{}, err
	}
	m, err := p.manifest(layers)
	if err != nil {
		return Pushed{}, err
	}
	if err := p.s.PutManifest(ctx, p.name.Tag, registry.Manifest(m)); err != nil {
		return Pushed{}, err
	}
	return Pushed{Digest: m.Digest, Size: len(m.Raw)}, p.record(m, layers)
}

// layers sees to it that the registry has all of them.
func (p *push) layers(ctx context.Context) ([]blobinfo.Blob, error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	out := make([]blobinfo.Blob, len(p.chains))
	slots := make(chan struct{}, parallelUploads)
	same := map[digest.Digest]int{} // first layer with this diff id: some images have one twice
	var all sync.WaitGroup
	for i := range p.chains {
		p.tell(i, "Preparing", 0, 0)
		if _, twice := same[p.img.RootFS[i]]; !twice {
			same[p.img.RootFS[i]] = i
		}
	}
	for i := range p.chains {
		if same[p.img.RootFS[i]] != i {
			continue
		}
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			var err error
			if out[i], err = p.layer(ctx, i); err != nil {
				stop(fmt.Errorf("layer %d of %d: %w", i+1, len(p.chains), err))
			}
		})
	}
	all.Wait()
	for i, d := range p.img.RootFS {
		out[i] = out[same[d]]
	}
	return out, context.Cause(ctx)
}

// layer finds a layer in the registry, or sends it.
func (p *push) layer(ctx context.Context, i int) (blobinfo.Blob, error) {
	known, err := p.candidates(i)
	if err != nil {
		return blobinfo.Blob{}, err
	}
	for _, k := range known {
		_, ok, err := p.s.HasBlob(ctx, k.Digest)
		if err != nil {
			return k, err
		}
		if ok {
			p.tell(i, "Layer already exists", 0, 0)
			return k, nil
		}
	}
	for _, k := range known {
		from := registry.Split(k.Repo)
		if k.Repo == "" || k.Repo == p.name.Repo || from.Host != p.s.Host() {
			continue
		}
		ok, err := p.s.Mount(ctx, k.Digest, from.Path)
		if err != nil {
			return k, err
		}
		if ok {
			p.tell(i, "Mounted from "+from.Path, 0, 0)
			return k, nil
		}
	}
	return p.send(ctx, i)
}

// candidates are the blobs that a layer may be, those of the manifest that
// the image came with first.
func (p *push) candidates(i int) ([]blobinfo.Blob, error) {
	known, err := p.l.blobs.Blobs(p.img.RootFS[i])
	if err != nil || p.first.Digest == "" {
		return known, err
	}
	m, err := image.ParseManifest(p.first.Raw)
	if err != nil || len(m.Layers) != len(p.chains) {
		return known, err
	}
	want := m.Layers[i].Digest
	var out []blobinfo.Blob
	for _, first := range []bool{true, false} {
		for _, k := range known {
			if (k.Digest == want) == first {
				out = append(out, k)
			}
		}
	}
	return out, nil
}

// send packs and uploads a layer, from its beginning again if the registry or
// the network fails.
func (p *push) send(ctx context.Context, i int) (blobinfo.Blob, error) {
	for try := 1; ; try++ {
		var made blobinfo.Blob
		err := p.s.Upload(ctx, func(w io.Writer) (digest.Digest, error) {
			var err error
			made, err = p.l.pack(&meter{w: w, p: p, i: i}, p.chains[i])
			return made.Digest, err
		})
		if err == nil {
			p.tell(i, "Pushed", 0, 0)
			return made, nil
		}
		if try == uploadTries || !registry.Passing(err) || ctx.Err() != nil || errors.Is(err, image.ErrDamaged) {
			return made, err
		}
		p.tell(i, "Retrying", 0, 0)
		if err := p.s.Pause(ctx, try); err != nil {
			return made, err
		}
	}
}

// meter tells how much was sent, at most ten times a second.
type meter struct {
	w    io.Writer
	p    *push
	i    int
	n    int64
	last time.Time
}

func (s *meter) Write(b []byte) (int, error) {
	n, err := s.w.Write(b)
	s.n += int64(n)
	if now := time.Now(); now.Sub(s.last) > 100*time.Millisecond {
		s.last = now
		s.p.tell(s.i, "Pushing", s.n, 0)
	}
	return n, err
}

func (p *push) config(ctx context.Context) error {
	_, ok, err := p.s.HasBlob(ctx, p.img.ID)
	if err != nil || ok {
		return err
	}
	return p.s.UploadSmall(ctx, p.img.RawConfig)
}

// manifest is the one that the image came with, if that fits, else one of
// schema 2.
func (p *push) manifest(layers []blobinfo.Blob) (blobinfo.Manifest, error) {
	return chooseManifest(p.img, p.first, layers)
}

func chooseManifest(img image.Image, first blobinfo.Manifest, layers []blobinfo.Blob) (blobinfo.Manifest, error) {
	if m, err := image.ParseManifest(first.Raw); err == nil && m.Config.Digest == img.ID && len(m.Layers) == len(layers) {
		same := true
		for i, l := range m.Layers {
			same = same && l.Digest == layers[i].Digest
		}
		if same {
			return first, nil
		}
	}
	return manifestOf(img, layers)
}

// dockerType is the media type of a layer in a manifest of Docker's.
func dockerType(t string) string {
	switch {
	case strings.HasSuffix(t, "zstd"):
		return "application/vnd.docker.image.rootfs.diff.tar.zstd"
	case strings.HasSuffix(t, "gzip") || t == "":
		return typePacked
	}
	return "application/vnd.docker.image.rootfs.diff.tar"
}

func marshal(v any) ([]byte, error) { return json.MarshalIndent(v, "", "   ") }

// record remembers what was pushed.
func (p *push) record(m blobinfo.Manifest, layers []blobinfo.Blob) error {
	sent := &Sent{Image: p.img, By: image.Name{Repo: p.name.Repo, Digest: m.Digest}, Manifest: m, Known: p.first.Digest == m.Digest}
	for _, l := range layers {
		l.Repo = p.name.Repo
		sent.Blobs = append(sent.Blobs, l)
	}
	return p.l.store.RecordPush(sent)
}
