// Package blobinfo remembers what registries know of the layers and images
// that are here, so that a push need not send what is there already, and an
// image goes out with the manifest that it came with. It never asks a
// registry, and nothing depends on what it knows: without it more is sent.
//
// It has two buckets of the engine's store:
//
//	layers/blobs       diff id  → []Blob: blobs that unpack to this layer
//	layers/manifests   image id → Manifest: the one that the image came with
package blobinfo

import (
	"encoding/json"
	"fmt"

	"github.com/opencontainers/go-digest"
	"go.etcd.io/bbolt"
)

const (
	blobsBucket     = "layers/blobs"
	manifestsBucket = "layers/manifests"
)

// maxBlobs is how many blobs are remembered for one layer, the newest first.
const maxBlobs = 8

// Blob is one that unpacks to a layer.
type Blob struct {
	Digest digest.Digest
	Size   int64
	Type   string // media type
	Repo   string // where it was seen: a normalised repository; empty for one that was packed here for no registry
	Own    bool   // what this machine packs the layer to
}

// Manifest is one that an image came with or was pushed as; without a digest
// there is none.
type Manifest struct {
	Type   string
	Digest digest.Digest
	Raw    []byte
}

// Book reads what is known out of the engine's store, which stays the
// caller's, and learns in transactions of its own.
type Book struct{ DB *bbolt.DB }

// Blobs lists the blobs that unpack to the layer with this diff id, the newest
// first.
func (b Book) Blobs(diffID digest.Digest) (list []Blob, err error) {
	err = b.DB.View(func(tx *bbolt.Tx) error { return getJSON(tx, blobsBucket, diffID.String(), &list) })
	return list, err
}

// Manifest is the one that an image came with.
func (b Book) Manifest(id digest.Digest) (m Manifest, err error) {
	err = b.DB.View(func(tx *bbolt.Tx) error { return getJSON(tx, manifestsBucket, id.String(), &m) })
	return m, err
}

// Learn remembers a blob of a layer, durably on return.
func (b Book) Learn(diffID digest.Digest, p Blob) error {
	return b.DB.Update(func(tx *bbolt.Tx) error { return Learn(tx, diffID, p) })
}

func getJSON(tx *bbolt.Tx, bucket, key string, v any) error {
	b := tx.Bucket([]byte(bucket))
	if b == nil {
		return nil
	}
	raw := b.Get([]byte(key))
	if raw == nil {
		return nil
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("decode %s of %s: %w", key, bucket, err)
	}
	return nil
}

func putJSON(tx *bbolt.Tx, bucket, key string, v any) error {
	b, err := tx.CreateBucketIfNotExists([]byte(bucket))
	if err != nil {
		return fmt.Errorf("make bucket %s: %w", bucket, err)
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s of %s: %w", key, bucket, err)
	}
	return b.Put([]byte(key), raw)
}

// Learn remembers a blob of a layer in the caller's transaction. What is known
// already is not written.
func Learn(tx *bbolt.Tx, diffID digest.Digest, p Blob) error {
	var old []Blob
	if err := getJSON(tx, blobsBucket, diffID.String(), &old); err != nil {
		return err
	}
	list := []Blob{p}
	for _, o := range old {
		if o == p {
			return nil
		}
		if o.Digest != p.Digest || o.Repo != p.Repo {
			list = append(list, o)
		}
	}
	return putJSON(tx, blobsBucket, diffID.String(), list[:min(len(list), maxBlobs)])
}

// SetManifest remembers the manifest that an image came with or was pushed as.
func SetManifest(tx *bbolt.Tx, id digest.Digest, m Manifest) error {
	return putJSON(tx, manifestsBucket, id.String(), m)
}

// Key is an entry of the book.
type Key struct{ bucket, key string }

// Stale lists what belongs to nothing here, given which layers, by diff id,
// and images there are.
func Stale(tx *bbolt.Tx, layer, image func(digest string) bool) []Key {
	return append(keysWithout(tx, blobsBucket, layer), keysWithout(tx, manifestsBucket, image)...)
}

// Forget takes entries out that Stale has listed.
func Forget(tx *bbolt.Tx, stale []Key) error {
	for _, k := range stale {
		if err := tx.Bucket([]byte(k.bucket)).Delete([]byte(k.key)); err != nil {
			return err
		}
	}
	return nil
}

func keysWithout(tx *bbolt.Tx, bucket string, wanted func(string) bool) (out []Key) {
	b := tx.Bucket([]byte(bucket))
	if b == nil {
		return nil
	}
	c := b.Cursor()
	for k, _ := c.First(); k != nil; k, _ = c.Next() {
		if !wanted(string(k)) {
			out = append(out, Key{bucket, string(k)})
		}
	}
	return out
}
