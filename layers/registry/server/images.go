package server

import (
	"context"
	"io"

	"github.com/opencontainers/go-digest"
)

// Images is the machine's own repository, by the names that it has here: the
// path of docker.io's, and host/path of others'. ok is false for what is not
// there; errors are failures.
type Images interface {
	// Repositories lists the names, sorted.
	Repositories() ([]string, error)
	// Tags lists the tags of one, sorted.
	Tags(name string) ([]string, error)
	// Manifest gives the manifest of a tag or digest.
	Manifest(ctx context.Context, name, ref string) (mediaType string, raw []byte, ok bool, err error)
	// Blob opens a configuration or layer that such a manifest names. The
	// caller closes it.
	Blob(ctx context.Context, name string, d digest.Digest) (content io.ReadSeekCloser, ok bool, err error)
}
