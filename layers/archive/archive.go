// Package archive turns the tar stream of an image's layer into a folder,
// and a folder into a tar stream.
//
// Archives come from strangers. Every entry is resolved relative to the
// descriptor of the target folder with openat2(2), RESOLVE_IN_ROOT,
// RESOLVE_NO_MAGICLINKS and (for layers) RESOLVE_NO_XDEV, so that no name, symlink or hard
// link reaches anything outside; names that try to are errors. Nothing is
// ever written through an existing file: what is in the way is unlinked
// first. Memory does not grow with the archive.
//
// Kept: owner, mode with set-id bits, times to the nanosecond, hard links,
// device nodes and fifos, user.* attributes and security.capability. Every
// other attribute is counted and left out: trusted.* would let an image
// forge overlay's marks, and security.* belongs to the host's policy.
//
// The package makes nothing durable; whoever owns the folder does.
package archive

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"time"
)

// Errors about an archive's contents.
var (
	ErrHostile = errors.New("archive refused")       // it tries to leave its folder, or forges marks
	ErrLimit   = errors.New("archive over a limit")  // more than Limits allow
	ErrBroken  = errors.New("archive can't be read") // no tar, or truncated
	ErrKind    = errors.New("a folder can't replace a file, nor a file a folder")
)

// Limits of one archive. Zero means the default.
type Limits struct {
	Entries int64 // default 2,000,000
	Bytes   int64 // of all files, logical sizes; default 1 TiB; the disk's free space is checked besides
	Devices int64 // device nodes; default 4,096
	Name    int   // bytes of a name or link target; default 4,095 (PATH_MAX less its zero)
	Depth   int   // folders within folders; default 512
}

func (l Limits) withDefaults() Limits {
	set := func(v *int64, d int64) {
		if *v == 0 {
			*v = d
		}
	}
	set(&l.Entries, 2_000_000)
	set(&l.Bytes, 1<<40)
	set(&l.Devices, 4096)
	if l.Name == 0 {
		l.Name = 4095
	}
	if l.Depth == 0 {
		l.Depth = 512
	}
	return l
}

// Marks says how an unpacked layer records that it hides names of the
// layers below it.
type Marks int

const (
	// OverlayMarks: a hidden name is a character device 0:0, a folder that
	// hides all below it has trusted.overlay.opaque=y (kernel documentation,
	// filesystems/overlayfs.rst).
	OverlayMarks Marks = iota
	// FileMarks: as in the archive, an empty file .wh.NAME, and .wh..wh..opq
	// in an opaque folder.
	FileMarks
	// NoMarks: the archive is no layer; names that begin with .wh. are
	// ordinary.
	NoMarks
)

// Names in layers (OCI image specification, layer.md, "Whiteouts").
const (
	WhiteoutPrefix = ".wh."
	OpaqueName     = ".wh..wh..opq"
	metaPrefix     = ".wh..wh." // aufs's own files
	opaqueAttr     = "trusted.overlay.opaque"
)

// Options of Unpack.
type Options struct {
	Limits Limits
	Marks  Marks

	// For copying into a container, where root is the container's.
	Into        string // folder below root that names are relative to; links in it lead within root
	CrossMounts bool   // go through what is mounted below root: volumes
	KeepKinds   bool   // ErrKind where a folder and something else would replace each other
}

// Stats tells what was unpacked.
type Stats struct {
	Entries      int64 // of the archive
	Files        int64 // regular files
	Bytes        int64 // in regular files, logical
	DroppedAttrs int64 // extended attributes that were left out
}

// cleanName makes an entry's name relative to the root: "." is the root
// itself. A leading slash is the layer's root, as some tools (umoci insert) write
// it and Docker reads it; names that climb out are refused.
func cleanName(name string, max int) (string, error) {
	switch {
	case name == "":
		return "", fmt.Errorf("%w: entry without a name", ErrHostile)
	case len(name) > max:
		return "", fmt.Errorf("%w: name of %d bytes (%.40q...), at most %d are allowed", ErrLimit, len(name), name, max)
	case strings.IndexByte(name, 0) >= 0:
		return "", fmt.Errorf("%w: zero byte in name %q", ErrHostile, name)
	}
	clean := path.Clean("./" + strings.TrimLeft(name, "/"))
	if clean == ".." || strings.HasPrefix(clean, "../") {
		return "", fmt.Errorf("%w: name %q leads outside", ErrHostile, name)
	}
	return clean, nil
}

// whiteout tells what a layer's entry hides: a name beside it, or opaque for
// everything below its folder. skip is set for aufs's own files.
func whiteout(base string) (hides string, opaque, skip bool, err error) {
	switch {
	case base == OpaqueName:
		return "", true, false, nil
	case strings.HasPrefix(base, metaPrefix):
		return "", false, true, nil
	}
	hides = strings.TrimPrefix(base, WhiteoutPrefix)
	if hides == "" || hides == "." || hides == ".." {
		return "", false, false, fmt.Errorf("%w: whiteout of %q", ErrHostile, hides)
	}
	return hides, false, false, nil
}

// attrAllowed tells whether an archive may set the extended attribute.
func attrAllowed(name string) bool {
	if strings.HasPrefix(name, "user.overlay.") {
		return false
	}
	return strings.HasPrefix(name, "user.") || name == "security.capability"
}

// clampTime keeps times that file systems can't hold from failing the
// unpacking: before 1970 and after 2446 (ext4) become the nearest bound.
func clampTime(t time.Time) time.Time {
	const last = 15032385535 // ext4's, 2446-05-10
	switch {
	case t.Unix() < 0:
		return time.Unix(0, 0)
	case t.Unix() > last:
		return time.Unix(last, 0)
	}
	return t
}
