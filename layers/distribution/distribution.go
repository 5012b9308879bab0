// Package distribution is this machine's side of the exchange with registries:
// it pulls and pushes images, offers those that are here to a registry's
// server, and gets single layers back that are damaged here. It decides what is
// asked for, in which order, and what is told meanwhile.
//
// It keeps nothing: images and layers are a Store's, bytes of downloads those
// of package download, and what is known of blobs that of package blobinfo. It
// talks to no network but through the sessions of package registry that it is
// handed.
package distribution

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/coble-os/coble/layers/blobinfo"
	"github.com/coble-os/coble/layers/download"
	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/layers/source"
)

// Event is what a pull or push tells about one layer, in Docker's words.
type Event struct {
	ID             string // 12 hex digits of the layer's digest, or what else it is about
	Status         string // Downloading
	Current, Total int64  // bytes; both zero where there is nothing to count
}

// Local is this machine's side. Its methods may be called from any goroutine.
type Local struct {
	store     Store
	blobs     blobinfo.Book
	downloads *download.Folder
	packing   sync.Mutex // held while layers are packed to learn their digests
}

// New gives the side of a store. All that it is given stays the caller's.
func New(s Store, blobs blobinfo.Book, downloads *download.Folder) *Local {
	return &Local{store: s, blobs: blobs, downloads: downloads}
}

// Store is where images and their layers are kept: package repo's.
type Store interface {
	// Get finds an image by name or id; image.ErrNotFound.
	Get(nameOrID string) (image.Image, error)
	List() ([]image.Image, error)
	// OpenLayer gives a layer's plain stream by its chain id, checked while it
	// is read: image.ErrDamaged comes in place of io.EOF.
	OpenLayer(chain digest.Digest) (io.ReadCloser, error)
	// Hold keeps an image's layers from being removed while do runs.
	Hold(img image.Image, do func() error) error
	// Receive has bring make the layers of an image present, which are kept
	// meanwhile, and after it, unless there was an error, records the image, its
	// names, its manifest and what is known of its blobs in one transaction.
	// Finished layers outlive an error, but for blob.ErrNoSpace, as long as the
	// Store sees fit.
	Receive(in *Incoming, bring func(Arrival) error) error
	// RecordPush records what a push has left at the registry in one transaction.
	RecordPush(s *Sent) error
}

// Incoming is an image to be received.
type Incoming struct {
	Recipe   source.Recipe
	Manifest blobinfo.Manifest
	Blobs    []blobinfo.Blob // of each layer, lowest first
}

// Sent is an image that a registry has now.
type Sent struct {
	Image    image.Image
	By       image.Name // with the manifest's digest
	Manifest blobinfo.Manifest
	Known    bool            // the manifest is the one that the image came with
	Blobs    []blobinfo.Blob // of each layer, lowest first
}

// Arrival is an image whose layers come, the lowest first. It is one
// goroutine's, but for Publish.
type Arrival interface {
	// Have tells whether a layer is here, by its place from 0.
	Have(layer int) (bool, error)
	// Room is blob.ErrNoSpace if there is none for so many bytes.
	Room(bytes int64) error
	// FreeUp removes what no image has, and tells whether there was anything.
	FreeUp() bool
	// Layer makes a layer present out of a source, and tells whether it was
	// missing. It may not be durable on return: made is called once it is.
	Layer(ctx context.Context, layer int, from source.Source, tell Making, made func() error) (missing bool, err error)
	// Publish makes what Layer has left to be durable so, if the first of it was
	// finished at least age ago.
	Publish(age time.Duration) error
	// Close takes away what was not published. It is called last.
	Close() error
}

// Making is told how far a layer is.
type Making struct {
	Present   func()
	Unpacking func(current, total int64) // bytes of the blob
	Done      func()                     // unpacked and on stable storage
}

// short is a digest for people.
func short(d digest.Digest) string { return d.Encoded()[:12] }
