package server

import (
	"context"
	"crypto/rand"
	_ "crypto/sha512" // digests may be sha512
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/coble-os/coble/layers/blob"
)

// uploads are the blobs that are being sent. They do not outlive the server.
type uploads struct {
	mu   sync.Mutex
	open map[string]*upload // by id; guarded by mu
}

// Bounds of uploads: those that nobody goes on with make room for others.
const (
	maxUploads = 64
	uploadIdle = time.Hour
)

// upload is one blob on its way in.
type upload struct {
	name string // of the repository
	path string
	used time.Time // guarded by uploads.mu

	mu   sync.Mutex // held while a request works on it
	file *os.File   // guarded by mu; nil when it has ended
	sum  hash.Hash  // sha256 of what came; guarded by mu
	size int64      // guarded by mu
}

func (s *Store) begin(name string) (id string, u *upload, err error) {
	s.expire()
	s.uploads.mu.Lock()
	defer s.uploads.mu.Unlock()
	if len(s.uploads.open) >= maxUploads {
		return "", nil, fail(http.StatusTooManyRequests, "TOOMANYREQUESTS", "%d uploads are under way; end or cancel some", maxUploads)
	}
	var b [16]byte
	rand.Read(b[:])
	id = hex.EncodeToString(b[:])
	u = &upload{name: name, path: filepath.Join(s.uploadsDir(), id), sum: digest.SHA256.Hash(), used: time.Now()}
	if u.file, err = os.OpenFile(u.path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
		return "", nil, fmt.Errorf("begin upload: %w", blob.NoSpace(err))
	}
	s.uploads.open[id] = u
	return id, u, nil
}

// find gives an upload, locked: the caller unlocks it.
func (s *Store) find(name, id string) (*upload, error) {
	s.uploads.mu.Lock()
	u := s.uploads.open[id]
	if u != nil {
		u.used = time.Now()
	}
	s.uploads.mu.Unlock()
	if u != nil && u.name == name {
		u.mu.Lock()
		if u.file != nil {
			return u, nil
		}
		u.mu.Unlock()
	}
	return nil, fail(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "no such upload; begin a new one")
}

// end closes an upload, locked by the caller, and removes its file if that
// was not published.
func (s *Store) end(id string, u *upload) {
	s.uploads.mu.Lock()
	delete(s.uploads.open, id)
	s.uploads.mu.Unlock()
	if u.file != nil {
		u.file.Close()
		u.file = nil
		os.Remove(u.path) // gone if it was published; else Open removes it at the latest
	}
}

// expire ends uploads that nobody goes on with.
func (s *Store) expire() {
	s.uploads.mu.Lock()
	old := map[string]*upload{}
	for id, u := range s.uploads.open {
		if time.Since(u.used) > uploadIdle {
			old[id] = u
		}
	}
	s.uploads.mu.Unlock()
	for id, u := range old {
		if u.mu.TryLock() {
			s.end(id, u)
			u.mu.Unlock()
		}
	}
}

// add appends what a request sends, up to limit bytes if that is not
// negative.
func (u *upload) add(ctx context.Context, r io.Reader, limit int64) error {
	if limit >= 0 {
		r = io.LimitReader(r, limit)
	}
	n, err := io.Copy(io.NewOffsetWriter(u.file, u.size), io.TeeReader(r, u.sum))
	u.size += n
	blob.Wrote(ctx, n)
	if err != nil {
		return fmt.Errorf("receive blob: %w", blob.NoSpace(err))
	}
	return nil
}

// check sees to it that what came has the digest.
func (u *upload) check(d digest.Digest) error {
	got := digest.NewDigest(digest.SHA256, u.sum)
	if d.Algorithm() != digest.SHA256 {
		h := d.Algorithm().Digester()
		if _, err := io.Copy(h.Hash(), io.NewSectionReader(u.file, 0, u.size)); err != nil {
			return fmt.Errorf("read upload: %w", err)
		}
		got = h.Digest()
	}
	if got != d {
		return fail(http.StatusBadRequest, "DIGEST_INVALID", "what was sent has %s, announced was %s", got, d)
	}
	return nil
}

// parseDigest accepts sha256 and sha512.
func parseDigest(s string) (digest.Digest, error) {
	d := digest.Digest(s)
	if err := d.Validate(); err != nil {
		return d, fail(http.StatusBadRequest, "DIGEST_INVALID", "digest %q: %v", s, err)
	}
	if a := d.Algorithm(); a != digest.SHA256 && a != digest.SHA512 {
		return d, fail(http.StatusBadRequest, "DIGEST_INVALID", "digest %q: only sha256 and sha512 are known", s)
	}
	return d, nil
}

// upload answers requests below blobs/uploads/.
func (h *handler) upload(w http.ResponseWriter, r *http.Request, name, id string) error {
	if id == "" {
		return h.only(r, "POST").do(func() error { return h.beginUpload(w, r, name) })
	}
	if !h.only(r, "GET", "PATCH", "PUT", "DELETE") {
		return allowed(false).do(nil)
	}
	u, err := h.find(name, id)
	if err != nil {
		return err
	}
	defer u.mu.Unlock()
	switch r.Method {
	case http.MethodGet:
		h.uploadState(w, name, id, u, http.StatusNoContent)
		return nil
	case http.MethodDelete:
		h.end(id, u)
		w.WriteHeader(http.StatusNoContent)
		return nil
	case http.MethodPatch:
		if err := u.receive(r); err != nil {
			return h.refused(w, name, id, u, err)
		}
		h.uploadState(w, name, id, u, http.StatusAccepted)
		return nil
	}
	d, err := parseDigest(r.URL.Query().Get("digest"))
	if err != nil {
		return err
	}
	if err := u.receive(r); err != nil {
		return h.refused(w, name, id, u, err)
	}
	return h.finish(w, name, id, u, d)
}

// refused tells whoever sent the wrong chunk where to go on. An upload that
// fills the disk ends.
func (h *handler) refused(w http.ResponseWriter, name, id string, u *upload, err error) error {
	if errors.Is(err, blob.ErrNoSpace) {
		h.end(id, u)
		return fail(http.StatusInsufficientStorage, "UNKNOWN", "no space left for the blob")
	}
	h.place(w, name, id, u)
	return err
}

func (h *handler) place(w http.ResponseWriter, name, id string, u *upload) {
	w.Header().Set("Location", "/v2/"+name+"/blobs/uploads/"+id)
	w.Header().Set("Range", "0-"+strconv.FormatInt(max(0, u.size-1), 10))
	w.Header().Set("Docker-Upload-Uuid", id)
}

func (h *handler) uploadState(w http.ResponseWriter, name, id string, u *upload, status int) {
	h.place(w, name, id, u)
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(status)
}

// receive takes a request's body; a Content-Range must go on where the last
// one ended ("Pushing a blob in chunks").
func (u *upload) receive(r *http.Request) error {
	limit := int64(-1)
	if cr := r.Header.Get("Content-Range"); cr != "" {
		from, to, ok := chunk(cr)
		if !ok {
			return fail(http.StatusBadRequest, "BLOB_UPLOAD_INVALID", "Content-Range %q: want first-last", cr)
		}
		if from != u.size {
			return fail(http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID", "the chunk begins at byte %d, expected was %d", from, u.size)
		}
		if limit = to - from + 1; r.ContentLength >= 0 && r.ContentLength != limit {
			return fail(http.StatusBadRequest, "SIZE_INVALID", "Content-Range %q and Content-Length %d do not agree", cr, r.ContentLength)
		}
	}
	return u.add(r.Context(), r.Body, limit)
}

func chunk(s string) (from, to int64, ok bool) {
	a, b, cut := strings.Cut(strings.TrimPrefix(s, "bytes "), "-")
	b, _, _ = strings.Cut(b, "/")
	from, err1 := strconv.ParseInt(a, 10, 64)
	to, err2 := strconv.ParseInt(b, 10, 64)
	return from, to, cut && errors.Join(err1, err2) == nil && from >= 0 && to >= from
}

// beginUpload answers POST: a mount, a whole blob, or a new upload.
func (h *handler) beginUpload(w http.ResponseWriter, r *http.Request, name string) error {
	q := r.URL.Query()
	if m := q.Get("mount"); m != "" {
		d, err := parseDigest(m)
		if err != nil {
			return err
		}
		if done, err := h.mount(w, name, d, q.Get("from")); done || err != nil {
			return err
		}
	}
	whole := q.Get("digest")
	var d digest.Digest
	if whole != "" {
		var err error
		if d, err = parseDigest(whole); err != nil {
			return err
		}
	}
	id, u, err := h.begin(name)
	if err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if whole == "" {
		h.uploadState(w, name, id, u, http.StatusAccepted)
		return nil
	}
	if err := u.add(r.Context(), r.Body, -1); err != nil {
		h.end(id, u)
		return err
	}
	return h.finish(w, name, id, u, d)
}

// mount gives a repository a blob that another has; without from, whichever.
func (h *handler) mount(w http.ResponseWriter, name string, d digest.Digest, from string) (bool, error) {
	var err error
	if from == "" {
		if from, err = h.ownerOf(d); err != nil || from == "" {
			return false, err
		}
	}
	has, err := h.hasBlob(from, d)
	if err != nil || !has {
		return false, err
	}
	if err := h.addBlob(name, d); err != nil {
		return false, err
	}
	created(w, name, d)
	return true, nil
}

// finish checks an upload and makes it a blob: durable before it is told.
func (h *handler) finish(w http.ResponseWriter, name, id string, u *upload, d digest.Digest) error {
	defer h.end(id, u)
	if err := u.check(d); err != nil {
		return err
	}
	if err := u.file.Sync(); err != nil {
		return fmt.Errorf("sync blob: %w", blob.NoSpace(err))
	}
	if err := h.publish(name, d, u.path); err != nil {
		return err
	}
	created(w, name, d)
	return nil
}

func created(w http.ResponseWriter, name string, d digest.Digest) {
	w.Header().Set("Location", "/v2/"+name+"/blobs/"+d.String())
	w.Header().Set("Docker-Content-Digest", d.String())
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusCreated)
}
