package blob

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"hash/crc64"
	"io"

	"github.com/ulikunitz/xz/lzma"
)

// maxDictionary bounds what an xz block may ask for, in bytes: what xz -9
// takes. The library's own reader of the container has no such bound.
const maxDictionary = 64 << 20

var errXZ = errors.New("bad xz stream")

// xzReader reads one xz stream (The .xz File Format 1.2.1): blocks of LZMA2
// with their checks. The index is passed over. LZMA2 itself is the library's.
type xzReader struct {
	r     *bufio.Reader
	n     int64 // bytes of the block's data read, for its padding
	check byte  // 0 none, 1 CRC32, 4 CRC64
	sum   hash.Hash
	block *lzma.Reader2 // nil between blocks
	err   error
}

func newXZ(r *bufio.Reader) (*xzReader, error) {
	var head [12]byte // 2.1.1: magic, flags, CRC32 of the flags
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	if crc32.ChecksumIEEE(head[6:8]) != binary.LittleEndian.Uint32(head[8:]) || head[6] != 0 {
		return nil, fmt.Errorf("%w: damaged header", errXZ)
	}
	x := &xzReader{r: r, check: head[7]}
	switch x.check {
	case 0, 1:
		x.sum = crc32.NewIEEE()
	case 4:
		x.sum = crc64.New(crc64.MakeTable(crc64.ECMA))
	default:
		return nil, fmt.Errorf("%w: check of kind %d, there are none, CRC32 and CRC64", errXZ, x.check)
	}
	return x, nil
}

// Read implements io.Reader.
func (x *xzReader) Read(p []byte) (n int, err error) {
	for x.err == nil && n == 0 && len(p) > 0 {
		if x.block == nil {
			x.err = x.open()
			continue
		}
		n, err = x.block.Read(p)
		x.sum.Write(p[:n])
		if err == io.EOF {
			err = x.finish()
		}
		x.err = err
	}
	if n > 0 {
		return n, nil
	}
	return 0, x.err
}

// compressed is what LZMA2 reads from.
type compressed struct{ x *xzReader }

func (c compressed) Read(p []byte) (int, error) {
	n, err := c.x.r.Read(p)
	c.x.n += int64(n)
	return n, err
}

// open reads a block's header (3.1), or the index.
func (x *xzReader) open() error {
	size, err := x.r.ReadByte()
	if err != nil {
		return noEOF(err)
	}
	if size == 0 {
		return x.end()
	}
	head := make([]byte, (int(size)+1)*4)
	head[0] = size
	if _, err := io.ReadFull(x.r, head[1:]); err != nil {
		return noEOF(err)
	}
	body, sum := head[:len(head)-4], binary.LittleEndian.Uint32(head[len(head)-4:])
	if crc32.ChecksumIEEE(body) != sum {
		return fmt.Errorf("%w: damaged block header", errXZ)
	}
	dict, err := dictionary(body)
	if err != nil {
		return err
	}
	x.n = 0
	x.sum.Reset()
	x.block, err = lzma.Reader2Config{DictCap: dict}.NewReader2(compressed{x})
	return err
}

// dictionary reads the size of the dictionary out of a block's header. The
// only filter is LZMA2 (5.3.1).
func dictionary(head []byte) (int, error) {
	flags, rest := head[1], head[2:]
	for _, present := range []bool{flags&0x40 != 0, flags&0x80 != 0} { // packed and unpacked size
		if !present {
			continue
		}
		_, n := binary.Uvarint(rest)
		if n <= 0 {
			return 0, fmt.Errorf("%w: damaged block header", errXZ)
		}
		rest = rest[n:]
	}
	if flags&0x3f != 0 || len(rest) < 3 || rest[0] != 0x21 || rest[1] != 1 || rest[2] > 40 {
		return 0, fmt.Errorf("%w: only LZMA2 without other filters is known", errXZ)
	}
	dict := uint64(2|rest[2]&1) << (rest[2]/2 + 11)
	if dict > maxDictionary {
		return 0, fmt.Errorf("%w: xz wants a dictionary of %d MiB, at most %d are allowed; pack with -9 or less", ErrTooLarge, dict>>20, maxDictionary>>20)
	}
	return max(int(dict), lzma.MinDictCap), nil
}

// finish reads a block's padding and check (3.3, 3.4).
func (x *xzReader) finish() error {
	x.block = nil
	size := map[byte]int{1: 4, 4: 8}[x.check]
	tail := make([]byte, int((4-x.n%4)%4)+size)
	if _, err := io.ReadFull(x.r, tail); err != nil {
		return noEOF(err)
	}
	want := tail[len(tail)-size:]
	bad := false
	switch x.check {
	case 1:
		bad = binary.LittleEndian.Uint32(want) != x.sum.(hash.Hash32).Sum32()
	case 4:
		bad = binary.LittleEndian.Uint64(want) != x.sum.(hash.Hash64).Sum64()
	}
	if bad {
		return fmt.Errorf("%w: wrong checksum", errXZ)
	}
	return nil
}

// end passes over the index and the footer (4, 2.1.2), and sees that no
// second stream follows.
func (x *xzReader) end() error {
	c := &countBytes{r: x.r, n: 1}
	count, err := binary.ReadUvarint(c)
	for i := uint64(0); err == nil && i < 2*count; i++ {
		_, err = binary.ReadUvarint(c)
	}
	if err != nil {
		return noEOF(err)
	}
	rest := make([]byte, int((4-c.n%4)%4)+4+12)
	if _, err := io.ReadFull(x.r, rest); err != nil {
		return noEOF(err)
	}
	if string(rest[len(rest)-2:]) != "YZ" {
		return fmt.Errorf("%w: damaged footer", errXZ)
	}
	for {
		b, err := x.r.ReadByte()
		if err != nil {
			return err
		}
		if b != 0 {
			return fmt.Errorf("%w: another stream follows, only one is read", errXZ)
		}
	}
}

type countBytes struct {
	r *bufio.Reader
	n int64
}

func (c *countBytes) ReadByte() (byte, error) {
	c.n++
	return c.r.ReadByte()
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
