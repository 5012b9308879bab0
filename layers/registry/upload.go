package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/opencontainers/go-digest"
)

// Mount takes a blob over from another repository of the same registry. False
// means that the registry does not, and the blob has to be sent (distribution
// specification, "Mounting a blob from another repository").
func (s *Session) Mount(ctx context.Context, d digest.Digest, from string) (bool, error) {
	q := url.Values{"mount": {d.String()}, "from": {from}}
	resp, err := s.do(ctx, call{
		method: http.MethodPost, url: s.path("blobs/uploads/") + "?" + q.Encode(), want: []int{http.StatusCreated, http.StatusAccepted},
		scope: s.scope(s.repo.Path) + " repository:" + from + ":pull",
	})
	if err != nil {
		return false, err
	}
	drop(resp)
	if resp.StatusCode == http.StatusCreated {
		return true, nil
	}
	if at, err := location(resp); err == nil {
		s.cancel(ctx, at)
	}
	return false, nil
}

// Upload sends a blob whose size and digest are known only at its end: body
// writes it and gives its digest. One connection is used; the caller tries
// again after an error that Passing tells.
func (s *Session) Upload(ctx context.Context, body func(io.Writer) (digest.Digest, error)) error {
	resp, err := s.do(ctx, call{method: http.MethodPost, url: s.path("blobs/uploads/"), want: []int{http.StatusAccepted}})
	if err != nil {
		return err
	}
	drop(resp)
	at, err := location(resp)
	if err != nil {
		return err
	}
	at, d, err := s.patch(ctx, at, body)
	if err != nil {
		s.cancel(context.WithoutCancel(ctx), at)
		return err
	}
	q := at.Query()
	q.Set("digest", d.String())
	at.RawQuery = q.Encode()
	resp, err = s.do(ctx, call{method: http.MethodPut, url: at.String(), want: []int{http.StatusCreated, http.StatusNoContent}})
	if err != nil {
		return fmt.Errorf("end upload of %s: %w", d, err)
	}
	drop(resp)
	return nil
}

// patch streams the blob and gives where to go on.
func (s *Session) patch(ctx context.Context, at *url.URL, body func(io.Writer) (digest.Digest, error)) (*url.URL, digest.Digest, error) {
	pr, pw := io.Pipe()
	type result struct {
		d   digest.Digest
		err error
	}
	done := make(chan result, 1)
	go func() {
		d, err := body(pw)
		pw.CloseWithError(err) // nil is the end
		done <- result{d, err}
	}()
	resp, err := s.do(ctx, call{
		method: http.MethodPatch, url: at.String(), header: http.Header{"Content-Type": {"application/octet-stream"}},
		body: func() io.Reader { return pr }, length: -1, once: true, want: []int{http.StatusAccepted, http.StatusNoContent, http.StatusCreated},
	})
	pr.CloseWithError(errors.New("the registry stopped reading"))
	sent := <-done
	if err != nil {
		if sent.err != nil && !errors.Is(err, sent.err) {
			err = errors.Join(err, sent.err)
		}
		return at, "", fmt.Errorf("send blob: %w", err)
	}
	drop(resp)
	if sent.err != nil {
		return at, "", sent.err
	}
	next, err := location(resp)
	return next, sent.d, err
}

// UploadSmall sends a blob that is in memory.
func (s *Session) UploadSmall(ctx context.Context, raw []byte) error {
	return s.Upload(ctx, func(w io.Writer) (digest.Digest, error) {
		_, err := io.Copy(w, bytes.NewReader(raw))
		return digest.FromBytes(raw), err
	})
}

// cancel tells the registry that an upload will not come; it would find out
// by itself, later.
func (s *Session) cancel(ctx context.Context, at *url.URL) {
	if at == nil {
		return
	}
	resp, err := s.once(ctx, call{method: http.MethodDelete, url: at.String()})
	if err == nil {
		drop(resp)
	}
}

// location reads where an upload goes on.
func location(resp *http.Response) (*url.URL, error) {
	u, err := resp.Location()
	if err != nil {
		return nil, fmt.Errorf("%w: an upload without a Location: %w", ErrInvalid, err)
	}
	return u, nil
}

// Passing tells whether an upload that ended with this error may work when it
// is tried again.
func Passing(err error) bool {
	var e *Error
	if errors.As(err, &e) {
		return e.Status >= 500 || e.Status == http.StatusTooManyRequests || e.Status == http.StatusUnauthorized
	}
	return mayPass(err)
}

// Pause waits before try number n, from 1, is made once more.
func (s *Session) Pause(ctx context.Context, n int) error {
	wait, _ := retry(nil, io.ErrUnexpectedEOF, n, s.c.conf.Backoff)
	return sleep(ctx, wait)
}
