// Package repo is the repository: it knows which names mean which image,
// which layers an image is made of and which containers stand on them, loads
// images from archives, and removes what nobody uses any more.
//
// What may change lies in the engine's bbolt store, as a graph (package
// catalog), to which leases of pulls are added (see leasePrefix).
//
// Unpacked layers lie below Options.Root (package unpacked). A layer's node is
// written after the layer and its record are durable, and deleted before they
// are removed. So at any cut the disk has at least what the store names; Open
// removes the rest.
//
// The repository never mounts, runs nothing, and talks to no network: what
// comes from registries and goes there is package distribution's, whose Store
// it is.
package repo

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"github.com/coble-os/coble/layers/archive"
	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/blobinfo"
	"github.com/coble-os/coble/layers/catalog"
	"github.com/coble-os/coble/layers/distribution"
	"github.com/coble-os/coble/layers/download"
	"github.com/coble-os/coble/layers/driver"
	"github.com/coble-os/coble/layers/driver/builtin"
	"github.com/coble-os/coble/layers/graph"
	"github.com/coble-os/coble/layers/unpacked"
)

// Errors, beside image.ErrNotFound and image.ErrDamaged.
var (
	ErrInUse   = errors.New("image is in use")
	ErrNoLayer = errors.New("no such writable layer")
	ErrExists  = errors.New("writable layer exists")
)

// Options of Open.
type Options struct {
	Root   string    // made if missing; layers, and spools while loading
	DB     *bbolt.DB // the engine's store; stays the caller's
	Driver string    // overlay, btrfs, devmapper, vfs; empty for the best that works here
	Pool   string    // block device for devmapper's thin pool, which is taken if no driver is named; empty: files in Root

	// Limits of one layer's archive. Zero values mean archive's defaults.
	Limits archive.Limits
}

// Repo is the repository. Its methods may be called from any goroutine.
type Repo struct {
	o         Options
	drv       driver.Driver
	reason    string // why drv
	disk      *unpacked.Layers
	downloads *download.Folder
	blobs     blobinfo.Book
	exchange  *distribution.Local
	small     int64 // see smallMember

	// mu is held for writing while layers or tops appear or vanish, so that
	// disk and store agree for whoever holds it.
	mu      sync.Mutex
	next    int64                    // number of the next folder; guarded by mu
	missing map[string]string        // chain ids of layers that are not on disk; guarded by mu
	making  map[string]chan struct{} // layers being unpacked, closed at their end; guarded by mu
	pins    map[string]int           // layers that must stay, by how many want it; guarded by mu
	used    map[string]time.Time     // last uses of images since Open; guarded by mu
}

// Close lets go of what the driver holds in the kernel. Nothing else may be
// called after it.
func (r *Repo) Close() error {
	if c, ok := r.drv.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// CleanUp takes away what the driver of a repository that nobody has open left
// in the kernel. root is that of Options.
func CleanUp(root string) error { return builtin.CleanUp(root) }

// Driver tells which driver is used, and why.
func (r *Repo) Driver() (name, reason string) { return r.drv.Name(), r.reason }

// Backing names the file system that the layers lie on (see builtin.Backing).
func (r *Repo) Backing() string { return builtin.Backing(r.drv, r.o.Root) }

// priorDriver is the driver that unpacked what the store names; empty if
// that is nothing.
func (r *Repo) priorDriver() (string, error) {
	prior := ""
	err := r.view(func(g graph.Graph) error {
		nodes := g.Names(catalog.LayerPrefix)
		if len(nodes) == 0 {
			return nil
		}
		var l catalog.Layer
		err := catalog.Load(g, nodes[0], &l)
		prior = l.Driver
		return err
	})
	return prior, err
}

// Open opens the repository and removes what earlier crashes left half-made.
// Layers that are named in the store but gone from disk are remembered as
// damage of their images (see Problems); they do not stop it.
func Open(o Options) (_ *Repo, err error) {
	if err := os.MkdirAll(o.Root, 0o710); err != nil {
		return nil, fmt.Errorf("make repository folder: %w", err)
	}
	if err := os.Chmod(o.Root, 0o710); err != nil {
		return nil, fmt.Errorf("protect repository folder: %w", err)
	}
	r := &Repo{o: o, blobs: blobinfo.Book{DB: o.DB}, small: smallMember, missing: map[string]string{}, making: map[string]chan struct{}{}, pins: map[string]int{}, used: map[string]time.Time{}}
	if err := r.freshTemp(); err != nil {
		return nil, err
	}
	r.disk = &unpacked.Layers{Root: o.Root, Temp: r.temp(), Limits: o.Limits}
	if err := r.disk.MakeMeta(); err != nil {
		return nil, err
	}
	if r.drv, r.reason, err = builtin.Open(o.Root, o.Driver, o.Pool, r.priorDriver); err != nil {
		return nil, err
	}
	r.disk.Driver = r.drv
	if r.downloads, err = download.Open(filepath.Join(o.Root, "partial")); err != nil {
		return nil, err
	}
	r.exchange = distribution.New(&shelf{r}, r.blobs, r.downloads)
	if _, err := r.downloads.Sweep(leftAge); err != nil {
		return nil, err
	}
	if err := r.sweep(); err != nil {
		return nil, err
	}
	if err := orFull(r.dropLeases(leftAge)); err != nil {
		return nil, err
	}
	// Layers of a load that was cut short, which no image has got.
	_, err = r.collect()
	return r, errors.Join(err, orFull(r.forget()))
}

// orFull lets what can wait for the next start wait while the disk is full.
func orFull(err error) error {
	if errors.Is(blob.NoSpace(err), blob.ErrNoSpace) {
		return nil
	}
	return err
}

// Problem is damage that was found.
type Problem struct {
	Image string // a name, or the id of an image without one
	What  string // what is wrong, and what to do about it
}

// Problems lists the images that can't be used, because layers of theirs are
// gone from disk. Loading the image again repairs it.
func (r *Repo) Problems() ([]Problem, error) {
	images, err := r.List()
	if err != nil {
		return nil, err
	}
	var out []Problem
	for _, img := range images {
		if img.Damage == "" {
			continue
		}
		name := img.ID.String()
		if len(img.RepoTags) > 0 {
			name = img.RepoTags[0]
		}
		out = append(out, Problem{Image: name, What: img.Damage})
	}
	return out, nil
}

// forget takes out of the book of blobs what belongs to nothing here. Writing
// to the store is spared if there is nothing to do.
func (r *Repo) forget() error {
	var stale []blobinfo.Key
	err := r.o.DB.View(func(tx *bbolt.Tx) error {
		g, err := catalog.Open(tx)
		if err != nil {
			return err
		}
		here := map[string]bool{}
		for _, n := range g.Names(catalog.LayerPrefix) {
			var l catalog.Layer
			if err := catalog.Load(g, n, &l); err != nil {
				return err
			}
			here[l.DiffID.String()] = true
		}
		stale = blobinfo.Stale(tx, func(diffID string) bool { return here[diffID] }, func(id string) bool { return g.Has(catalog.ImagePrefix + id) })
		return nil
	})
	if err != nil || len(stale) == 0 {
		return err
	}
	return r.o.DB.Update(func(tx *bbolt.Tx) error { return blobinfo.Forget(tx, stale) })
}

// view runs fn on the graph in a read transaction.
func (r *Repo) view(fn func(graph.Graph) error) error {
	return r.o.DB.View(func(tx *bbolt.Tx) error {
		g, err := catalog.Open(tx)
		if err != nil {
			return err
		}
		return fn(g)
	})
}

// update runs fn on the graph in a write transaction, durable on return.
func (r *Repo) update(fn func(graph.Graph) error) error {
	return r.o.DB.Update(func(tx *bbolt.Tx) error {
		g, err := catalog.Open(tx)
		if err != nil {
			return err
		}
		return fn(g)
	})
}

// Graph shows the graph around what is named, or all of it if about is empty
// (see catalog.Look).
func (r *Repo) Graph(about string) (v catalog.View, err error) {
	err = r.view(func(g graph.Graph) error {
		v, err = catalog.Look(g, about)
		return err
	})
	return v, err
}

func (r *Repo) temp() string { return filepath.Join(r.o.Root, "tmp") }

// freshTemp empties the folder for spools. It is not made anew: on a full
// disk somebody else may take its block meanwhile.
func (r *Repo) freshTemp() error {
	if err := os.Mkdir(r.temp(), 0o700); err != nil && !os.IsExist(err) {
		return fmt.Errorf("make spool folder: %w", err)
	}
	entries, err := os.ReadDir(r.temp())
	for _, e := range entries {
		if err == nil {
			err = os.RemoveAll(filepath.Join(r.temp(), e.Name()))
		}
	}
	if err != nil {
		return fmt.Errorf("remove old spools: %w", err)
	}
	return nil
}

// sweep makes the disk follow the store.
func (r *Repo) sweep() error {
	if err := r.drv.Sweep(); err != nil {
		return err
	}
	layers, tops, err := r.drv.List()
	if err != nil {
		return err
	}
	onDisk := map[string]bool{}
	for _, id := range layers {
		onDisk[id] = true
	}
	var wantLayers, wantTops, wantRecords map[string]bool
	err = r.o.DB.View(func(tx *bbolt.Tx) error {
		g, err := catalog.Open(tx)
		if err != nil {
			return err
		}
		wantLayers, wantTops, wantRecords, err = r.named(g, onDisk)
		return err
	})
	if err != nil {
		return err
	}
	if err := r.disk.SweepRecords(wantRecords, r.seen); err != nil {
		return err
	}
	if err := r.dropUnnamed(layers, wantLayers, r.drv.Remove); err != nil {
		return err
	}
	return r.dropUnnamed(tops, wantTops, r.drv.RemoveTop)
}

// named collects the folders that the store names, and notes layers whose
// folder is gone.
func (r *Repo) named(g graph.Graph, onDisk map[string]bool) (layers, tops, records map[string]bool, err error) {
	layers, tops, records = map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, n := range g.Names(catalog.LayerPrefix) {
		var l catalog.Layer
		if err := catalog.Load(g, n, &l); err != nil {
			return nil, nil, nil, err
		}
		r.seen(l.Folder) // also of another driver: numbers are never shared
		records[l.Folder] = true
		if l.Driver != r.drv.Name() {
			r.missing[n] = fmt.Sprintf("it was unpacked by driver %s, and %s is used now", l.Driver, r.drv.Name())
			continue
		}
		layers[l.Folder] = true
		if !onDisk[l.Folder] {
			r.missing[n] = fmt.Sprintf("folder %s is gone", l.Folder)
		} else if !r.drv.Has(l.Folder) {
			r.missing[n] = fmt.Sprintf("its file %s is gone or has changed", l.Place)
		}
	}
	for _, n := range g.Names(catalog.TopPrefix) {
		var t catalog.Top
		if err := catalog.Load(g, n, &t); err != nil {
			return nil, nil, nil, err
		}
		r.seen(t.Folder)
		tops[t.Folder] = true
	}
	return layers, tops, records, nil
}

// dropUnnamed removes folders that the store does not name, and finds the
// first free number.
func (r *Repo) dropUnnamed(have []string, want map[string]bool, remove func(string) error) error {
	for _, id := range have {
		r.seen(id)
		if want[id] {
			continue
		}
		if err := driver.CheckID(id); err != nil {
			return fmt.Errorf("sweep %s: a folder that is not coble's: %w", r.o.Root, err)
		}
		if err := remove(id); err != nil {
			return err
		}
	}
	return nil
}

func (r *Repo) seen(id string) {
	if n, err := strconv.ParseInt(id, 36, 64); err == nil && n >= r.next {
		r.next = n + 1
	}
}

// folder hands out a number that no layer and no top has.
func (r *Repo) folder() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.next
	r.next++
	return strconv.FormatInt(n, 36)
}
