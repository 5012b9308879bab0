package distribution

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/blobinfo"
	"github.com/coble-os/coble/layers/download"
	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/layers/registry"
	"github.com/coble-os/coble/layers/source"
)

// PullOptions of one image.
type PullOptions struct {
	Name     image.Name
	Platform image.Platform
	Asked    bool        // the platform was asked for, and is not just the machine's
	Tell     func(Event) // called by one goroutine at a time; may be nil
}

// Pulled is what became of it.
type Pulled struct {
	ID      digest.Digest // of the image
	Digest  digest.Digest // of what the name means in the registry: a manifest or an index
	Changed bool          // the name means another image than before
}

// Pull brings an image from a registry.
//
// The lowest layer that is missing is unpacked while it downloads; two more
// download meanwhile into files, since they stand on it and can't be unpacked
// yet (see package download for when such bytes reach the storage). Finished layers
// become durable together, or after ten seconds (see settle). Layers that are
// here are not asked for; one that another pull or load is making is waited
// for. Layers that were finished stay when the rest fails, until the next
// start of the engine at the earliest removes what no image got, and so do
// parts of large ones, by which the next pull goes on. The image, its names,
// its manifest and what is known of its blobs are recorded in one transaction
// after the last layer is durable.
//
// However large the image, memory holds its manifests and configuration and a
// few buffers for each of three downloads.
func (l *Local) Pull(ctx context.Context, s *registry.Session, o PullOptions) (Pulled, error) {
	p := &pull{l: l, s: s, o: o}
	top, m, err := p.resolve(ctx)
	if err != nil {
		return Pulled{}, err
	}
	rc, mf, err := p.recipe(ctx, m)
	if err != nil {
		return Pulled{}, err
	}
	out := Pulled{ID: rc.Image.ID, Digest: top.Digest, Changed: !l.means(o.Name, rc.Image.ID)}
	rc.Names = []image.Name{{Repo: o.Name.Repo, Digest: top.Digest}}
	if o.Name.Digest == "" {
		rc.Names = append(rc.Names, o.Name)
	}
	in := &Incoming{Recipe: rc, Manifest: blobinfo.Manifest(m)}
	for _, d := range mf.Layers {
		in.Blobs = append(in.Blobs, blobinfo.Blob{Digest: d.Digest, Size: d.Size, Type: d.MediaType, Repo: o.Name.Repo})
	}
	err = l.store.Receive(in, func(a Arrival) error { return p.layers(ctx, a, mf) })
	return out, err
}

func (l *Local) means(n image.Name, id digest.Digest) bool {
	img, err := l.store.Get(n.String())
	return err == nil && img.ID == id && img.Damage == ""
}

// pull is one pull of one image.
type pull struct {
	l  *Local
	s  *registry.Session
	o  PullOptions
	mu sync.Mutex // held while telling

	freed bool // the disk was full, and there was something to remove
}

func (p *pull) tell(d digest.Digest, status string, current, total int64) {
	if p.o.Tell == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.o.Tell(Event{ID: short(d), Status: status, Current: current, Total: total})
}

// resolve fetches what the name means, and from it the manifest for the
// platform.
func (p *pull) resolve(ctx context.Context) (top, m registry.Manifest, err error) {
	ref := registry.Reference(p.o.Name)
	if top, err = p.s.Manifest(ctx, ref); err != nil {
		return top, m, err
	}
	m = top
	if p.o.Tell != nil {
		p.o.Tell(Event{ID: ref, Status: "Pulling from " + registry.Split(p.o.Name.Repo).Path})
	}
	for depth := 0; m.IsIndex(); depth++ {
		if depth == source.MaxIndexes {
			return top, m, fmt.Errorf("%w: more than %d indexes within another", image.ErrInvalid, source.MaxIndexes)
		}
		list, err := image.ParseIndex(m.Raw)
		if err != nil {
			return top, m, err
		}
		d, ok := image.Choose(list, p.o.Platform)
		if !ok {
			return top, m, fmt.Errorf("%w for %s in the manifest list entries", image.ErrPlatform, p.o.Platform)
		}
		if m, err = p.s.Manifest(ctx, d.Digest.String()); err != nil {
			return top, m, err
		}
	}
	return top, m, nil
}

// recipe reads the manifest and the configuration.
func (p *pull) recipe(ctx context.Context, m registry.Manifest) (source.Recipe, image.Manifest, error) {
	mf, err := image.ParseManifest(m.Raw)
	if err != nil {
		return source.Recipe{}, mf, err
	}
	var layers []source.Layer
	for i, l := range mf.Layers {
		if err := checkLayerType(l); err != nil {
			return source.Recipe{}, mf, fmt.Errorf("layer %d: %w", i+1, err)
		}
		layers = append(layers, source.Layer{Name: l.Digest.String(), Digest: l.Digest, Size: l.Size})
	}
	raw, err := p.config(ctx, mf.Config)
	if err != nil {
		return source.Recipe{}, mf, fmt.Errorf("configuration: %w", err)
	}
	rc, err := source.NewRecipe(raw, layers)
	if err != nil {
		return rc, mf, err
	}
	if have := (&ocispec.Platform{OS: rc.Image.OS, Architecture: rc.Image.Architecture, Variant: rc.Image.Variant}); p.o.Asked {
		if _, ok := image.Choose([]ocispec.Descriptor{{Platform: have}}, p.o.Platform); !ok {
			return rc, mf, fmt.Errorf("%w: its platform is %s/%s, asked for was %s", image.ErrPlatform, have.OS, have.Architecture, p.o.Platform)
		}
	}
	return rc, mf, nil
}

// config fetches a configuration, unless the image is here.
func (p *pull) config(ctx context.Context, d ocispec.Descriptor) ([]byte, error) {
	if img, err := p.l.store.Get(d.Digest.String()); err == nil {
		return img.RawConfig, nil
	}
	body := p.s.Blob(ctx, d, 0)
	defer body.Close()
	return blob.ReadSmall(body, d.Digest, d.Size, image.MaxJSON)
}

// checkLayerType refuses what is not a layer, and layers that lie elsewhere:
// whoever wrote the manifest would choose where the machine connects to.
func checkLayerType(d ocispec.Descriptor) error {
	t := d.MediaType
	switch {
	case strings.Contains(t, "foreign") || strings.Contains(t, "nondistributable"):
		return fmt.Errorf("%w: a foreign layer, which lies outside of the registry", registry.ErrUnsupported)
	case t == "", strings.HasPrefix(t, "application/vnd.docker.image.rootfs.diff.tar"), strings.HasPrefix(t, "application/vnd.oci.image.layer.v1.tar"):
		return nil
	}
	return fmt.Errorf("%w: media type %q is no layer of an image", registry.ErrUnsupported, t)
}

// layers brings what is missing, the lowest first.
func (p *pull) layers(ctx context.Context, a Arrival, mf image.Manifest) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	src := &remoteSource{p: p, ctx: ctx, blobs: make([]*download.Blob, len(mf.Layers)), told: make([]chan struct{}, len(mf.Layers))}
	need, total := make([]bool, len(mf.Layers)), int64(0)
	for i := range mf.Layers {
		have, err := a.Have(i)
		if err != nil {
			return err
		}
		if have {
			if err := p.l.downloads.Forget(mf.Layers[i].Digest); err != nil {
				return err
			}
		}
		if need[i] = !have; need[i] {
			p.tell(mf.Layers[i].Digest, "Pulling fs layer", 0, 0)
			total += mf.Layers[i].Size
		}
	}
	// What it unpacks to is hardly ever smaller.
	if err := a.Room(total); err != nil {
		return err
	}
	err := src.begin(mf.Layers, need)
	settled := settle(a)
	for i, d := range mf.Layers {
		if err != nil {
			break
		}
		if err = p.layer(ctx, a, src, i, d); err != nil {
			err = fmt.Errorf("layer %d of %d (%.19s): %w", i+1, len(mf.Layers), d.Digest, err)
		}
	}
	err = errors.Join(err, settled())
	if !errors.Is(err, blob.ErrNoSpace) {
		err = errors.Join(err, a.Publish(0)) // also if the rest failed
	}
	err = errors.Join(err, a.Close())
	stop()
	return errors.Join(err, src.end(errors.Is(err, blob.ErrNoSpace)))
}

// settleAge is for how long a layer that a pull has finished waits for others
// to become durable with: what a kill may cost.
const settleAge = 10 * time.Second

// settle publishes what has waited for so long while the next layers are on
// their way. The function that it returns ends that.
func settle(a Arrival) (end func() error) {
	stop, done := make(chan struct{}), make(chan error)
	go func() {
		tick := time.NewTicker(settleAge / 10)
		defer tick.Stop()
		var err error
		for {
			select {
			case <-tick.C:
				if err == nil {
					err = a.Publish(settleAge)
				}
			case <-stop:
				done <- err
				return
			}
		}
	}()
	return func() error { close(stop); return <-done }
}

// layer makes one layer present. One that is unpacked from what an earlier
// process left is tried again from nothing: a power cut may have spoiled it.
// So is one for which the disk was full until what no image has was removed.
func (p *pull) layer(ctx context.Context, a Arrival, src *remoteSource, i int, d ocispec.Descriptor) error {
	tell := Making{
		Present:   func() { p.tell(d.Digest, "Already exists", 0, 0) },
		Unpacking: func(current, total int64) { p.tell(d.Digest, "Extracting", current, total) },
		Done: func() {
			if told := src.told[i]; told != nil {
				<-told // the download has ended, so this comes
			}
			p.tell(d.Digest, "Pull complete", 0, 0)
		},
	}
	src.at = i
	made := func() error { return src.spend(i) }
	missing, err := a.Layer(ctx, i, src, tell, made)
	if err == nil && !missing {
		return src.spend(i)
	}
	if err == nil {
		return nil // made tells, now or later
	}
	f := src.blobs[i]
	full := errors.Is(err, blob.ErrNoSpace)
	if f == nil || ctx.Err() != nil || f.Failed() && !full {
		return err // what came of the blob may be gone on with
	}
	if rerr := src.spend(i); rerr != nil {
		return errors.Join(err, rerr)
	}
	if full && !p.freed {
		p.freed = a.FreeUp()
	}
	if full && !p.freed || !full && f.Resumed() == 0 {
		return err
	}
	_, err = a.Layer(ctx, i, src, tell, made)
	return err
}

// remoteSource is a registry as a source of layers.
type remoteSource struct {
	p     *pull
	ctx   context.Context
	at    int              // the layer that is being made
	blobs []*download.Blob // by layer; nil for one that is here
	told  []chan struct{}  // by layer; closed when all is told of its download
	all   []ocispec.Descriptor
	watch sync.WaitGroup
}

// begin starts all downloads; as many as there are slots run.
func (s *remoteSource) begin(list []ocispec.Descriptor, need []bool) error {
	s.all = list
	for i := range list {
		if need[i] {
			if err := s.fetch(i); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *remoteSource) fetch(i int) error {
	f, err := s.p.l.downloads.Get(s.ctx, s.all[i], s.p.s.Blob)
	if err != nil {
		return err
	}
	told := make(chan struct{})
	s.blobs[i], s.told[i] = f, told
	s.watch.Go(func() {
		defer close(told)
		s.p.follow(s.ctx, f)
	})
	return nil
}

// Open implements source.
func (s *remoteSource) Open(string) (io.ReadCloser, int64, error) {
	if s.blobs[s.at] == nil {
		if err := s.fetch(s.at); err != nil {
			return nil, 0, err
		}
	}
	f := s.blobs[s.at]
	return f.Reader(s.ctx), f.Descriptor().Size, nil
}

func (s *remoteSource) Has(string) bool { return true }
func (s *remoteSource) Close() error    { return nil }

// spend lets go of a download that nobody needs any more.
func (s *remoteSource) spend(i int) error {
	f := s.blobs[i]
	if f == nil {
		return nil
	}
	s.blobs[i] = nil
	return f.Release(true)
}

// end lets go of all downloads.
func (s *remoteSource) end(spent bool) (err error) {
	s.watch.Wait()
	for _, f := range s.blobs {
		if f != nil {
			err = errors.Join(err, f.Release(spent))
		}
	}
	return err
}

// follow tells how far a download is, at most ten times a second.
func (p *pull) follow(ctx context.Context, f *download.Blob) {
	d, waited := f.Descriptor(), false
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		st := f.State()
		switch {
		case st.Err != nil || ctx.Err() != nil:
			return
		case st.Have == d.Size:
			p.tell(d.Digest, "Download complete", 0, 0)
			return
		case st.Started && st.Have > 0:
			p.tell(d.Digest, "Downloading", st.Have, d.Size)
		case !st.Started && !waited:
			p.tell(d.Digest, "Waiting", 0, 0)
			waited = true
		}
		select {
		case <-tick.C:
		case <-f.Done():
		case <-ctx.Done():
			return
		}
	}
}
