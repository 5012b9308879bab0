// Package record keeps what a layer's tar stream has beside its files'
// contents: headers, padding, order and end, byte for byte, and of each file
// the path, size and digest. With it and the unpacked files the stream comes
// out again exactly, and every file can be checked by itself.
//
// A record is one file: a header of fixed size, then a gzip stream of items
// (whose packer is a third of zstd's in the binary, and as small here).
// It is written while the layer is unpacked (Writer is an archive.Recorder)
// and never changed afterwards. The package makes nothing durable and knows
// no paths: whoever owns the file does.
//
// Contents that are in no file of the layer are kept in the record: what a
// later entry of the same layer has replaced, and the packed form of sparse
// files.
package record

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/opencontainers/go-digest"

	"github.com/coble-os/coble/layers/archive"
)

// Errors of reading.
var (
	ErrBroken  = errors.New("layer's record can't be read")
	ErrInexact = errors.New("layer's record is not complete: more was replaced within the layer than a record keeps")
)

// DamageError tells of a file that is not what the record says.
type DamageError struct {
	Path string // below the layer's root
	What string
}

func (e *DamageError) Error() string { return "file " + e.Path + ": " + e.What }

// Entry is a regular file of the layer.
type Entry = archive.File

// Info is what a record says of its whole stream.
type Info struct {
	Size   int64         // bytes of the plain tar stream
	Files  int64         // regular files in the stream
	Lost   int64         // files that later entries replaced
	DiffID digest.Digest // of the plain tar stream
	Exact  bool          // the stream can be made again
}

// Bounds of what is kept of replaced files, in one record.
const (
	maxLost      = 65536
	maxLostBytes = 256 << 20
	maxPath      = 64 << 10 // bytes
)

// The file's first bytes, little endian:
//
//	0 magic, 8 version, 9 flags, 16 size, 24 files, 32 lost, 40 digest,
//	72 CRC-32C of all before
const (
	magic      = "coblerec"
	version    = 1
	flagExact  = 1
	headerSize = 76
)

// Kinds of items. Each is the kind's byte, then its fields; numbers are
// uvarints (encoding/binary).
const (
	itemRaw  = 'r' // length, bytes of the stream
	itemBody = 'f' // path, size, digest: here the stream has the file's content
	itemKept = 'k' // path, size, digest: the raw bytes before had it in some form
	itemLost = 'l' // path, size, digest, kept bytes: size or 0, content
	itemEnd  = 'e'
)

func (i Info) encode() ([]byte, error) {
	b := make([]byte, headerSize)
	copy(b, magic)
	b[8] = version
	if i.Exact {
		b[9] = flagExact
	}
	binary.LittleEndian.PutUint64(b[16:], uint64(i.Size))
	binary.LittleEndian.PutUint64(b[24:], uint64(i.Files))
	binary.LittleEndian.PutUint64(b[32:], uint64(i.Lost))
	sum, err := sumOf(i.DiffID)
	if err != nil {
		return nil, err
	}
	copy(b[40:], sum[:])
	binary.LittleEndian.PutUint32(b[72:], checksum(b[:72]))
	return b, nil
}

func decode(b []byte) (Info, error) {
	switch {
	case len(b) != headerSize || string(b[:8]) != magic:
		return Info{}, fmt.Errorf("%w: it is none", ErrBroken)
	case binary.LittleEndian.Uint32(b[72:]) != checksum(b[:72]):
		return Info{}, fmt.Errorf("%w: its header is damaged", ErrBroken)
	case b[8] != version:
		return Info{}, fmt.Errorf("%w: version %d, a newer coble wrote it", ErrBroken, b[8])
	}
	i := Info{
		Size:   int64(binary.LittleEndian.Uint64(b[16:])),
		Files:  int64(binary.LittleEndian.Uint64(b[24:])),
		Lost:   int64(binary.LittleEndian.Uint64(b[32:])),
		DiffID: digest.NewDigestFromBytes(digest.SHA256, b[40:72]),
		Exact:  b[9]&flagExact != 0,
	}
	if i.Size < 0 || i.Files < 0 || i.Lost < 0 || i.Lost > maxLost {
		return Info{}, fmt.Errorf("%w: its header has impossible numbers", ErrBroken)
	}
	return i, nil
}

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }
