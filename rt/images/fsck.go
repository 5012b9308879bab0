package images

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/coble-os/coble/layers/fsck"
	"github.com/coble-os/coble/layers/registry"
	"github.com/coble-os/coble/rt/fault"
	"github.com/coble-os/coble/rt/job"
)

// FsckIn says what the store is to be checked for.
type FsckIn struct {
	Image    string                          // empty: everything
	Quick    bool                            // what is there, not what is in it
	From     string                          // where to repair from, see repairFrom; empty: only look
	Creds    map[string]registry.Credentials // by the registry's host, as names have it
	Progress func(layer digest.Digest, n, of int)
}

// fsck checks the images' store, and repairs it if it is told where from.
func (im *Store) fsck(j *job.Job, in FsckIn) ([]fsck.Finding, error) {
	o := fsck.Options{Image: in.Image, Quick: in.Quick, Progress: in.Progress}
	from, err := im.repairFrom(j.Context(), &o, in)
	if err != nil {
		return nil, fault.As(fault.Invalid, err)
	}
	defer from.Close()
	found, err := im.Check(j.Context(), o)
	if err != nil {
		return nil, Error(err)
	}
	bad := 0
	for _, f := range found {
		if !f.Repaired {
			bad++
		}
	}
	fmt.Fprintf(j.Stdout, "%d findings, %d of them remain\n", len(found), bad)
	return found, nil
}

// repairFrom opens what to repair from: an archive, an OCI layout or another store as a folder, on the engine's machine by
// its path, "registry" for the registries that the images' names lead to, "registry://HOST[:PORT]" for a neighbour that has
// the images too.
func (im *Store) repairFrom(ctx context.Context, o *fsck.Options, in FsckIn) (c io.Closer, err error) {
	from := in.From
	host, neighbour := strings.CutPrefix(from, "registry://")
	switch {
	case from == "":
		return io.NopCloser(nil), nil
	case neighbour && host == "":
		return nil, fmt.Errorf("repair from %s: give a host, as in registry://10.0.0.2:5000", from)
	case neighbour || from == "registry":
		if !neighbour {
			host = ""
		}
		o.Origin = im.Distribution().Remote(host, func(ctx context.Context, at registry.Repository) (*registry.Session, error) {
			return im.registry.Open(ctx, at, in.Creds[at.Host], false)
		})
		return io.NopCloser(nil), nil
	}
	o.Origin, c, err = im.OpenOrigin(ctx, from)
	return c, err
}
