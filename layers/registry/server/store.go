package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.etcd.io/bbolt"

	"github.com/coble-os/coble/layers/blob"
)

// Buckets of the store. Parts of a key are separated by a zero byte.
const (
	blobsBucket     = "registry/blobs"     // repository, digest → size
	manifestsBucket = "registry/manifests" // repository, digest → stored
	tagsBucket      = "registry/tags"      // repository, tag → digest
	referrersBucket = "registry/referrers" // repository, subject, digest → descriptor
)

// stored is a manifest as it came.
type stored struct {
	Type    string
	Subject digest.Digest // empty: none
	Raw     []byte
}

// keepUnnamed is how long a blob that no manifest names is kept: its manifest
// may still come.
const keepUnnamed = 24 * time.Hour

// Open makes the folder if needed and removes what no transaction names:
// uploads that were cut short, and blobs that were deleted. Blobs that have
// been in a repository for a day without a manifest there that names them go
// too.
func Open(o Options) (*Store, error) {
	s := &Store{o: o, uploads: uploads{open: map[string]*upload{}}}
	if err := os.RemoveAll(s.uploadsDir()); err != nil {
		return nil, fmt.Errorf("remove old uploads: %w", err)
	}
	for _, dir := range []string{s.blobsDir(), s.uploadsDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make folder of registry: %w", err)
		}
	}
	if err := s.forget(time.Now().Add(-keepUnnamed)); err != nil {
		return nil, err
	}
	return s, s.sweep()
}

// forget takes blobs whose file is older than before from the repositories
// where no manifest names them.
func (s *Store) forget(before time.Time) error {
	var stale [][]byte
	err := s.o.DB.View(func(tx *bbolt.Tx) error {
		named, err := namedBlobs(tx)
		if err != nil {
			return err
		}
		each(tx, blobsBucket, "", func(k []string, _ []byte) bool {
			st, err := os.Stat(s.blobPath(digest.Digest(k[1])))
			if !named[string(key(k...))] && (err != nil || st.ModTime().Before(before)) {
				stale = append(stale, key(k...))
			}
			return true
		})
		return nil
	})
	if err != nil || len(stale) == 0 {
		return err
	}
	return s.o.DB.Update(func(tx *bbolt.Tx) error {
		for _, k := range stale {
			if err := drop(tx, blobsBucket, k); err != nil {
				return err
			}
		}
		return nil
	})
}

// namedBlobs are the keys of the blobs that manifests name.
func namedBlobs(tx *bbolt.Tx) (map[string]bool, error) {
	named := map[string]bool{}
	var bad error
	each(tx, manifestsBucket, "", func(k []string, v []byte) bool {
		var m stored
		var doc document
		if bad = json.Unmarshal(v, &m); bad == nil {
			bad = json.Unmarshal(m.Raw, &doc)
		}
		if bad != nil {
			bad = fmt.Errorf("decode manifest %s of %s: %w", k[1], k[0], bad)
			return false
		}
		for _, p := range doc.parts() {
			named[string(key(k[0], p.Digest.String()))] = true
		}
		return true
	})
	return named, bad
}

func (s *Store) blobsDir() string   { return filepath.Join(s.o.Root, "blobs") }
func (s *Store) uploadsDir() string { return filepath.Join(s.o.Root, "uploads") }

// blobPath is a blob's file; d must have been checked.
func (s *Store) blobPath(d digest.Digest) string {
	return filepath.Join(s.blobsDir(), d.Algorithm().String()+"-"+d.Encoded())
}

// sweep removes the files that no repository has a blob of.
func (s *Store) sweep() error {
	named := map[string]bool{}
	err := s.o.DB.View(func(tx *bbolt.Tx) error {
		each(tx, blobsBucket, "", func(k []string, _ []byte) bool {
			named[filepath.Base(s.blobPath(digest.Digest(k[1])))] = true
			return true
		})
		return nil
	})
	if err != nil {
		return err
	}
	list, err := os.ReadDir(s.blobsDir())
	if err != nil {
		return fmt.Errorf("read folder of registry: %w", err)
	}
	for _, e := range list {
		if !named[e.Name()] {
			if err := os.Remove(filepath.Join(s.blobsDir(), e.Name())); err != nil {
				return fmt.Errorf("remove blob that nobody has: %w", err)
			}
		}
	}
	return nil
}

func key(parts ...string) []byte { return []byte(strings.Join(parts, "\x00")) }

// each goes through the keys below a prefix, in order, until fn says no.
func each(tx *bbolt.Tx, bucket, prefix string, fn func(key []string, value []byte) bool) {
	b := tx.Bucket([]byte(bucket))
	if b == nil {
		return
	}
	c := b.Cursor()
	for k, v := c.Seek([]byte(prefix)); k != nil && bytes.HasPrefix(k, []byte(prefix)); k, v = c.Next() {
		if !fn(strings.Split(string(k), "\x00"), v) {
			return
		}
	}
}

func get(tx *bbolt.Tx, bucket string, k []byte) []byte {
	if b := tx.Bucket([]byte(bucket)); b != nil {
		return bytes.Clone(b.Get(k))
	}
	return nil
}

func put(tx *bbolt.Tx, bucket string, k, v []byte) error {
	b, err := tx.CreateBucketIfNotExists([]byte(bucket))
	if err != nil {
		return fmt.Errorf("make bucket %s: %w", bucket, err)
	}
	if err := b.Put(k, v); err != nil {
		return fmt.Errorf("write to %s: %w", bucket, err)
	}
	return nil
}

func drop(tx *bbolt.Tx, bucket string, k []byte) error {
	if b := tx.Bucket([]byte(bucket)); b != nil {
		return b.Delete(k)
	}
	return nil
}

// hasBlob tells whether a repository has a pushed blob.
func (s *Store) hasBlob(name string, d digest.Digest) (ok bool, err error) {
	err = s.o.DB.View(func(tx *bbolt.Tx) error {
		ok = get(tx, blobsBucket, key(name, d.String())) != nil
		return nil
	})
	return ok, err
}

// ownerOf finds a repository that has a blob, the one that is asked for
// first.
func (s *Store) ownerOf(d digest.Digest) (owner string, err error) {
	err = s.o.DB.View(func(tx *bbolt.Tx) error {
		each(tx, blobsBucket, "", func(k []string, _ []byte) bool {
			if k[1] == d.String() {
				owner = k[0]
			}
			return owner == ""
		})
		return nil
	})
	return owner, err
}

// addBlob names a blob whose file is in place. That it still is, is checked
// inside the transaction: a deletion may have come in between.
func (s *Store) addBlob(name string, d digest.Digest) error {
	return s.o.DB.Update(func(tx *bbolt.Tx) error {
		st, err := os.Stat(s.blobPath(d))
		if err != nil {
			return fmt.Errorf("add blob %s: %w", d, err)
		}
		return put(tx, blobsBucket, key(name, d.String()), fmt.Append(nil, st.Size()))
	})
}

// dropBlob takes a blob from a repository; the file goes with its last one.
func (s *Store) dropBlob(name string, d digest.Digest) (found bool, err error) {
	err = s.o.DB.Update(func(tx *bbolt.Tx) error {
		if found = get(tx, blobsBucket, key(name, d.String())) != nil; !found {
			return nil
		}
		return drop(tx, blobsBucket, key(name, d.String()))
	})
	if err != nil || !found {
		return found, err
	}
	return true, s.dropFile(d)
}

// dropFile removes a blob's file if no repository has the blob. The write
// transaction keeps others from naming it meanwhile.
func (s *Store) dropFile(d digest.Digest) error {
	return s.o.DB.Update(func(tx *bbolt.Tx) error {
		used := false
		each(tx, blobsBucket, "", func(k []string, _ []byte) bool {
			used = k[1] == d.String()
			return !used
		})
		if used {
			return nil
		}
		if err := os.Remove(s.blobPath(d)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove blob: %w", err)
		}
		return nil
	})
}

// publish makes a finished upload a blob of the repository.
func (s *Store) publish(name string, d digest.Digest, file string) error {
	return s.o.DB.Update(func(tx *bbolt.Tx) error {
		st, err := os.Stat(s.blobPath(d))
		if errors.Is(err, os.ErrNotExist) {
			if err := blob.Publish(file, s.blobPath(d)); err != nil {
				return err
			}
			st, err = os.Stat(s.blobPath(d))
		}
		if err != nil {
			return fmt.Errorf("add blob %s: %w", d, err)
		}
		return put(tx, blobsBucket, key(name, d.String()), fmt.Append(nil, st.Size()))
	})
}

// lookup finds a pushed manifest by tag or digest.
func (s *Store) lookup(name, ref string) (d digest.Digest, m stored, ok bool, err error) {
	err = s.o.DB.View(func(tx *bbolt.Tx) error {
		d = digest.Digest(ref)
		if validTag(ref) {
			d = digest.Digest(get(tx, tagsBucket, key(name, ref)))
		}
		raw := get(tx, manifestsBucket, key(name, d.String()))
		if ok = raw != nil; !ok {
			return nil
		}
		return json.Unmarshal(raw, &m)
	})
	return d, m, ok, err
}

// putManifest stores a manifest, its tags and its place among the referrers
// of its subject, in one transaction.
func (s *Store) putManifest(name string, d digest.Digest, m stored, tags []string, as ocispec.Descriptor) error {
	value, err := json.Marshal(m)
	if err != nil {
		return err
	}
	desc, err := json.Marshal(as)
	if err != nil {
		return err
	}
	return s.o.DB.Update(func(tx *bbolt.Tx) error {
		if err := put(tx, manifestsBucket, key(name, d.String()), value); err != nil {
			return err
		}
		if m.Subject != "" {
			if err := put(tx, referrersBucket, key(name, m.Subject.String(), d.String()), desc); err != nil {
				return err
			}
		}
		for _, t := range tags {
			if err := put(tx, tagsBucket, key(name, t), []byte(d)); err != nil {
				return err
			}
		}
		return nil
	})
}

// dropManifest removes a manifest and all its tags.
func (s *Store) dropManifest(name string, d digest.Digest, m stored) error {
	return s.o.DB.Update(func(tx *bbolt.Tx) error {
		var tags [][]byte
		each(tx, tagsBucket, name+"\x00", func(k []string, v []byte) bool {
			if string(v) == d.String() {
				tags = append(tags, key(k...))
			}
			return true
		})
		for _, t := range tags {
			if err := drop(tx, tagsBucket, t); err != nil {
				return err
			}
		}
		if m.Subject != "" {
			if err := drop(tx, referrersBucket, key(name, m.Subject.String(), d.String())); err != nil {
				return err
			}
		}
		return drop(tx, manifestsBucket, key(name, d.String()))
	})
}

func (s *Store) dropTag(name, tag string) (found bool, err error) {
	err = s.o.DB.Update(func(tx *bbolt.Tx) error {
		if found = get(tx, tagsBucket, key(name, tag)) != nil; !found {
			return nil
		}
		return drop(tx, tagsBucket, key(name, tag))
	})
	return found, err
}

// known tells whether anything was ever pushed to a repository.
func (s *Store) known(name string) (ok bool, err error) {
	err = s.o.DB.View(func(tx *bbolt.Tx) error {
		for _, b := range []string{blobsBucket, manifestsBucket, tagsBucket} {
			each(tx, b, name+"\x00", func([]string, []byte) bool {
				ok = true
				return false
			})
		}
		return nil
	})
	return ok, err
}
