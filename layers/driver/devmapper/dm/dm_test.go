package dm

import (
	"encoding/binary"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// The layouts are those of linux/dm-ioctl.h on every architecture.
func TestLayouts(t *testing.T) {
	var h unix.DmIoctl
	require.EqualValues(t, 312, unsafe.Sizeof(h))
	require.EqualValues(t, 40, unsafe.Offsetof(h.Dev))
	require.EqualValues(t, 48, unsafe.Offsetof(h.Name))
	require.EqualValues(t, 176, unsafe.Offsetof(h.Uuid))
}

func TestSpec(t *testing.T) {
	in := Target{Start: 8, Sectors: 1 << 33, Type: "thin-pool", Params: "7:0 7:1 128 0"}
	raw := spec(in)
	require.Zero(t, len(raw)%8)
	require.EqualValues(t, len(raw), binary.NativeEndian.Uint32(raw[20:]))
	got, ok := parseSpec(raw)
	require.True(t, ok)
	require.Equal(t, in, got)
	for n := range unix.SizeofDmTargetSpec {
		_, ok := parseSpec(raw[:n])
		require.False(t, ok)
	}
}

// nameList is the answer of DM_LIST_DEVICES: names at distances of 8 bytes.
func nameList(names ...string) (b []byte) {
	for i, n := range names {
		e := make([]byte, (12+len(n)+1+7)&^7)
		binary.NativeEndian.PutUint64(e, uint64(i)+1)
		if i < len(names)-1 {
			binary.NativeEndian.PutUint32(e[8:], uint32(len(e)))
		}
		copy(e[12:], n)
		b = append(b, e...)
	}
	return b
}

func TestParseList(t *testing.T) {
	require.Equal(t, []string{"a", "coble-0-pool", "b"}, parseList(nameList("a", "coble-0-pool", "b")))
	require.Empty(t, parseList(nil))
	require.Empty(t, parseList(make([]byte, 16)))
}

func FuzzParseList(f *testing.F) {
	f.Add(nameList("a", "bcd"))
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 'x'})
	f.Fuzz(func(t *testing.T, b []byte) {
		if n := len(parseList(b)); n > len(b)/12 {
			t.Fatalf("%d names in %d bytes", n, len(b))
		}
	})
}

func TestDeviceNumbers(t *testing.T) {
	d := Device{Number: unix.Mkdev(253, 300)}
	require.Equal(t, "253:300", d.String())
	require.Equal(t, "/dev/dm-300", d.Node())
}
