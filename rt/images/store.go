// Package images is what the engine can be asked for about images, as jobs over layers/repo and layers/registry: load, save,
// import, pull, push, search, list, tag, remove, prune, check and repair, and the serving of a registry. It also removes what
// nobody has used for long (collect.go). Of containers it knows their records; it starts nothing.
package images

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/moby/moby/api/types/events"
	bolt "go.etcd.io/bbolt"

	"github.com/coble-os/coble/layers/archive"
	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/catalog"
	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/layers/registry"
	"github.com/coble-os/coble/layers/registry/server"
	"github.com/coble-os/coble/layers/repo"
	"github.com/coble-os/coble/rt/containers"
	"github.com/coble-os/coble/rt/fault"
	"github.com/coble-os/coble/rt/job"
)

// Options say where images live, and whom a Store tells what.
type Options struct {
	Root     string   // the engine's durable folder
	DB       *bolt.DB // the engine's durable store; stays the caller's
	Driver   string   // graph driver; empty: the best available
	Pool     string   // block device for driver devmapper; empty: files in Root
	Registry registry.Config
	Log      *slog.Logger

	Jobs       *job.Table        // gets a handler of each job about images
	Containers *containers.Table // whose images are in use
	Emit       func(t events.Type, a events.Action, id string, attributes map[string]string)
}

// Store is the images of an engine: the repository, and the jobs about it. Its methods may be called from any goroutine.
type Store struct {
	*repo.Repo
	o        Options
	ctx      context.Context // ends with the engine
	registry *registry.Client

	collecting sync.Mutex // held by the job collect

	mu     sync.Mutex
	rules  keepRules     // of images that nobody uses; guarded by mu
	pushed *server.Store // what others pushed to this machine; nil until it is served; guarded by mu
}

// Open opens the images and registers their jobs. Until ctx ends it looks once a day for images that are to go.
func Open(ctx context.Context, o Options) (*Store, error) {
	im := &Store{o: o, ctx: ctx, registry: registry.New(o.Registry)}
	var err error
	if im.Repo, err = repo.Open(repo.Options{Root: o.Root, DB: o.DB, Driver: o.Driver, Pool: o.Pool}); err != nil {
		return nil, fmt.Errorf("open images: %w", err)
	}
	job.Register(o.Jobs, "load", im.load)
	job.Register(o.Jobs, "save", im.save)
	job.Register(o.Jobs, "import", im.importImage)
	job.Register(o.Jobs, "images", im.listImages)
	job.Register(o.Jobs, "image-inspect", im.inspectImage)
	job.Register(o.Jobs, "image-prune", im.pruneImages)
	job.Register(o.Jobs, "tag", im.tag)
	job.Register(o.Jobs, "rmi", im.removeImage)
	job.Register(o.Jobs, "size", im.sizes)
	job.Register(o.Jobs, "df", im.diskUsage)
	job.Register(o.Jobs, "graph", im.graph)
	job.Register(o.Jobs, "collect", im.collect)
	job.Register(o.Jobs, "fsck", im.fsck)
	job.Register(o.Jobs, "pull", im.pull)
	job.Register(o.Jobs, "push", im.push)
	job.Register(o.Jobs, "search", im.search)
	job.Register(o.Jobs, "auth", im.auth)
	job.Register(o.Jobs, "distribution-inspect", im.distribution)
	job.Register(o.Jobs, "registry-serve", im.serveRegistry)
	go im.collectDaily()
	return im, nil
}

// IDOf returns the id of a named image, or "".
func (im *Store) IDOf(ref string) string {
	img, err := im.Get(ref)
	if err != nil {
		return ""
	}
	return img.ID.String()
}

// graph shows what uses what: all of it, or what has to do with one container, image or layer.
func (im *Store) graph(_ *job.Job, about string) (catalog.View, error) {
	v, err := im.Graph(about)
	if err != nil {
		return v, Error(err)
	}
	return v, nil
}

// Error gives an error about an image in its kind.
func Error(err error) error {
	if errors.Is(err, image.ErrNotFound) {
		return fault.As(fault.NotFound, err)
	}
	return fault.As(fault.Invalid, err)
}

// ArchiveError gives errors about what came in their kind; what the disk says is the machine's.
func ArchiveError(err error) error {
	switch {
	case errors.Is(err, image.ErrNotFound):
		return fault.As(fault.NotFound, err)
	case errors.Is(err, blob.ErrNoSpace), errors.Is(err, image.ErrDamaged):
		return err
	case errors.Is(err, image.ErrInvalid), errors.Is(err, archive.ErrHostile), errors.Is(err, archive.ErrLimit), errors.Is(err, archive.ErrBroken),
		errors.Is(err, blob.ErrTruncated), errors.Is(err, blob.ErrDigest):
		return fault.As(fault.Invalid, err)
	}
	return err
}
