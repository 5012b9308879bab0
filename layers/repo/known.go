package repo

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	"go.etcd.io/bbolt"

	"github.com/coble-os/coble/layers/graph"
)

// Two buckets beside the graph remember what registries know of what is here,
// so that a push need not send what is there already:
//
//	layers/blobs       diff id  → []Packed: blobs that unpack to this layer
//	layers/manifests   image id → Original: the manifest that it came with
//
// Nothing depends on them. Open takes out what belongs to nothing here.
const (
	blobsBucket     = "layers/blobs"
	manifestsBucket = "layers/manifests"
)

// maxPacked is how many blobs are remembered for one layer, the newest first.
const maxPacked = 8

// Packed is a blob that unpacks to a layer.
type Packed struct {
	Digest digest.Digest
	Size   int64
	Type   string // media type
	Repo   string // where it was seen: a normalised repository; empty for one that was packed here for no registry
	Own    bool   // what Pack makes of the layer
}

// Original is a manifest that an image came with or was pushed as.
type Original struct {
	Type   string
	Digest digest.Digest
	Raw    []byte
}

func (r *Repo) known(diff digest.Digest) (list []Packed, err error) {
	err = r.o.DB.View(func(tx *bbolt.Tx) error { return getJSON(tx, blobsBucket, diff.String(), &list) })
	return list, err
}

func (r *Repo) original(id digest.Digest) (m Original, ok bool, err error) {
	err = r.o.DB.View(func(tx *bbolt.Tx) error { return getJSON(tx, manifestsBucket, id.String(), &m) })
	return m, m.Digest != "", err
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

// learn remembers a blob of a layer. What is known already is not written.
func learn(tx *bbolt.Tx, diff digest.Digest, p Packed) error {
	var list []Packed
	if err := getJSON(tx, blobsBucket, diff.String(), &list); err != nil {
		return err
	}
	if slices.Contains(list, p) {
		return nil
	}
	list = slices.DeleteFunc(list, func(o Packed) bool { return o.Digest == p.Digest && o.Repo == p.Repo })
	list = append([]Packed{p}, list...)
	return putJSON(tx, blobsBucket, diff.String(), list[:min(len(list), maxPacked)])
}

// forget takes out of both buckets what belongs to nothing here. Writing to
// the store is spared if there is nothing to do.
func (r *Repo) forget() error {
	var stale [][2]string
	err := r.o.DB.View(func(tx *bbolt.Tx) error {
		g, err := graph.Open(tx, graphName)
		if err != nil {
			return err
		}
		here := map[string]bool{}
		for _, n := range g.Names(layerPrefix) {
			var l layerNode
			if err := load(g, n, &l); err != nil {
				return err
			}
			here[l.DiffID.String()] = true
		}
		stale = append(stale, keysWithout(tx, blobsBucket, func(k string) bool { return here[k] })...)
		stale = append(stale, keysWithout(tx, manifestsBucket, func(k string) bool { return g.Has(imagePrefix + k) })...)
		return nil
	})
	if err != nil || len(stale) == 0 {
		return err
	}
	return r.o.DB.Update(func(tx *bbolt.Tx) error {
		for _, s := range stale {
			if err := tx.Bucket([]byte(s[0])).Delete([]byte(s[1])); err != nil {
				return err
			}
		}
		return nil
	})
}

func keysWithout(tx *bbolt.Tx, bucket string, wanted func(string) bool) (out [][2]string) {
	b := tx.Bucket([]byte(bucket))
	if b == nil {
		return nil
	}
	c := b.Cursor()
	for k, _ := c.First(); k != nil; k, _ = c.Next() {
		if !wanted(string(k)) {
			out = append(out, [2]string{bucket, string(k)})
		}
	}
	return out
}
