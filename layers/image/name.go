package image

import (
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/coble-os/coble/layers/reference"
)

// Name is a normalised name of an image: docker.io/library/busybox with
// either a tag or a digest. The zero Name is no name.
type Name struct {
	Repo   string // normalised repository: docker.io/library/busybox
	Tag    string // empty when Digest is set
	Digest digest.Digest
}

// ParseName normalises name[:tag] or name[:tag]@digest as Docker does; a
// missing tag becomes latest, and a digest wins over a tag. Errors wrap
// ErrInvalid.
func ParseName(s string) (Name, error) {
	named, err := reference.Parse(s)
	if err != nil {
		return Name{}, fmt.Errorf("%w: name %q: %w", ErrInvalid, s, err)
	}
	if named.Digest != "" {
		return Name{Repo: named.Name(), Digest: named.Digest}, CheckDigest(named.Digest)
	}
	return Name{Repo: named.Name(), Tag: named.Latest().Tag}, nil
}

// NameOnly tells whether a valid name has neither tag nor digest.
func NameOnly(s string) bool {
	named, err := reference.Parse(s)
	return err == nil && named.NameOnly()
}

// String is the normalised form: docker.io/library/busybox:latest.
func (n Name) String() string {
	if n.Digest != "" {
		return n.Repo + "@" + n.Digest.String()
	}
	return n.Repo + ":" + n.Tag
}

// Familiar is the form shown to people: busybox:latest.
func (n Name) Familiar() string {
	short := n.Repo
	if named, err := reference.Parse(n.Repo); err == nil {
		short = named.FamiliarName()
	}
	return short + strings.TrimPrefix(n.String(), n.Repo)
}

// IDPrefix tells whether s may be the start of an image's identity, and
// gives its lower-case hex digits: at least four, with or without sha256:.
func IDPrefix(s string) (hex string, ok bool) {
	hex = strings.TrimPrefix(s, "sha256:")
	if len(hex) < 4 || len(hex) > 64 {
		return "", false
	}
	for _, c := range hex {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return "", false
		}
	}
	return hex, true
}
