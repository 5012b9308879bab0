package devmapper

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/driver"
	"github.com/coble-os/coble/layers/driver/devmapper/dm"
)

// Sizes of a pool, in bytes.
const (
	blockBytes   = 64 << 10 // what the pool gives out at a time: its smallest
	blockSectors = blockBytes / 512
	headerBytes  = 1 << 20  // of a block device, before the metadata
	minData      = 48 << 20 // less holds no image
	minMeta      = 4 << 20
	maxMeta      = 255 << 26 // THIN_METADATA_MAX_SECTORS of the kernel
	maxVolume    = 64 << 30
)

// pool is what is kept of a pool: ROOT/pool.json. It is written when the pool
// is made, once more when it has its base, and never again.
type pool struct {
	ID     string // names its devices
	Device string `json:",omitempty"` // block device; empty: the files data and metadata beside this one
	Data   int64  // bytes
	Meta   int64  // bytes
	FS     string // of the volumes: ext4 or xfs
	Base   uint64 // number of the volume that has an empty tree; 0: not made yet
}

func recordPath(root string) string { return filepath.Join(root, "pool.json") }

// loadPool gives the pool of a store, and whether there is one.
func loadPool(root string) (p pool, there bool, err error) {
	raw, err := os.ReadFile(recordPath(root))
	if os.IsNotExist(err) {
		return p, false, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &p)
	}
	if err == nil && (len(p.ID) != 16 || p.Data < minData || p.Meta < minMeta || p.FS == "") {
		err = errors.New("it is not what coble wrote")
	}
	if err != nil {
		return p, false, fmt.Errorf("read %s: %w", recordPath(root), err)
	}
	return p, true, nil
}

// save writes the record, durably.
func (p pool) save(root string) error {
	raw, err := json.Marshal(p)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(recordPath(root)+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write record of thin pool: %w", blob.NoSpace(err))
	}
	defer f.Close()
	if _, err := f.Write(raw); err != nil {
		return fmt.Errorf("write record of thin pool: %w", blob.NoSpace(err))
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync record of thin pool: %w", blob.NoSpace(err))
	}
	return blob.Publish(f.Name(), recordPath(root))
}

// share divides bytes into metadata and data. The kernel's rule is 48 bytes
// for each block that is mapped; layers share mappings until they differ, and
// metadata can't be given up, so it is almost three times that.
func share(all int64) (meta, data int64) {
	meta = min(max(all/512, minMeta), maxMeta) &^ (1<<20 - 1)
	return meta, (all - meta) &^ (1<<20 - 1)
}

// measure finds how large the pool is to be: nineteen twentieths of what the
// file system of root has left, or the block device.
func (p *pool) measure(root string) error {
	if p.Device != "" {
		f, size, err := openDevice(p.Device)
		if err != nil {
			return err
		}
		f.Close()
		if p.Meta, p.Data = share(size - headerBytes); p.Data < minData {
			return fmt.Errorf("%s has %d MiB, a thin pool needs %d", p.Device, size>>20, (minData+minMeta+headerBytes)>>20)
		}
		return nil
	}
	var st unix.Statfs_t
	if err := unix.Statfs(root, &st); err != nil {
		return fmt.Errorf("ask file system for free space: %w", err)
	}
	free := int64(st.Bavail) * int64(st.Bsize)
	if p.Meta, p.Data = share(free / 20 * 19); p.Data < minData {
		return fmt.Errorf("%w: %d MiB are free, a thin pool needs %d", driver.ErrUnsupported, free>>20, (minData+minMeta)>>20)
	}
	return nil
}

// prepare makes what a pool lies on that has no volume yet, or makes it again.
func (p pool) prepare(root string) error {
	if err := p.deactivate(); err != nil {
		return err
	}
	if p.Device != "" {
		return p.takeDevice()
	}
	// All blocks of the metadata: a pool that can't write it is lost. Nothing
	// is synced: the pool's first commit does that for both files, and the
	// record's with its base for their names.
	for _, f := range []struct {
		name   string
		size   int64
		blocks bool
	}{{"metadata", p.Meta, true}, {"data", p.Data, false}} {
		if err := makeFile(filepath.Join(root, f.name), f.size, f.blocks); err != nil {
			return fmt.Errorf("make file of thin pool: %w", blob.NoSpace(err))
		}
	}
	return nil
}

func makeFile(path string, size int64, blocks bool) error {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return err
	}
	if blocks {
		return unix.Fallocate(int(f.Fd()), 0, 0, size)
	}
	return nil
}

// header is what a block device begins with that has a pool.
func (p pool) header() []byte { return []byte("coble thin pool 1 " + p.ID + "\n") }

// takeDevice takes a block device that is empty, or this pool's already:
// whatever a file system, a partition table or LVM wrote would be in its first
// MiB.
func (p pool) takeDevice() error {
	f, _, err := openDevice(p.Device)
	if err != nil {
		return err
	}
	defer f.Close()
	first := make([]byte, headerBytes)
	if _, err := f.ReadAt(first, 0); err != nil {
		return fmt.Errorf("read %s: %w", p.Device, err)
	}
	if rest := bytes.TrimPrefix(first, p.header()); len(bytes.Trim(rest, "\x00")) > 0 {
		return fmt.Errorf("something is on %s already; if nobody needs it, empty its beginning: dd if=/dev/zero of=%s bs=1M count=1", p.Device, p.Device)
	}
	// The kernel makes a new pool where the metadata begins with zeros. It reads
	// them from the disk, not from the node's cache.
	for _, w := range []struct {
		at   int64
		data []byte
	}{{headerBytes, make([]byte, 4096)}, {0, p.header()}} {
		if _, err := f.WriteAt(w.data, w.at); err != nil {
			return fmt.Errorf("write %s: %w", p.Device, err)
		}
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("write %s: %w", p.Device, err)
	}
	return nil
}

// openDevice opens a block device that nobody else has (O_EXCL, open(2)). A
// pool that has just been removed is off the kernel's list some milliseconds
// before its device is let go of: that is waited for.
func openDevice(path string) (f *os.File, size int64, err error) {
	for end := time.Now().Add(time.Second); ; time.Sleep(10 * time.Millisecond) {
		if f, err = os.OpenFile(path, os.O_RDWR|unix.O_EXCL, 0); !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			break
		}
	}
	if errors.Is(err, unix.EBUSY) {
		return nil, 0, fmt.Errorf("open %s: it is in use, mounted or part of another device: %w", path, err)
	}
	if err != nil {
		return nil, 0, err
	}
	if _, err := blockDevice(f); err != nil {
		f.Close()
		return nil, 0, err
	}
	if size, err = f.Seek(0, io.SeekEnd); err != nil {
		f.Close()
		return nil, 0, fmt.Errorf("find size of %s: %w", path, err)
	}
	return f, size, nil
}

// blockDevice is the number of an open block device.
func blockDevice(f *os.File) (rdev uint64, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0, fmt.Errorf("stat %s: %w", f.Name(), err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return 0, fmt.Errorf("%s is no block device", f.Name())
	}
	return uint64(st.Rdev), nil
}

// checkDevice fails unless the open block device has this pool.
func (p pool) checkDevice(f *os.File) error {
	have := make([]byte, len(p.header()))
	if _, err := f.ReadAt(have, 0); err != nil {
		return fmt.Errorf("read %s: %w", p.Device, err)
	}
	if !bytes.Equal(have, p.header()) {
		return fmt.Errorf("%s is not the device with this store's layers (thin pool %s)", p.Device, p.ID)
	}
	return nil
}

// backing is what lies below a pool: its two devices as tables name them. Who
// holds it keeps loop devices, which the kernel takes away otherwise.
type backing struct {
	meta, data string
	files      []*os.File
}

func (b backing) close() {
	for _, f := range b.files {
		f.Close()
	}
}

// attach finds or makes the devices below the pool.
func (p pool) attach(root string) (b backing, err error) {
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	if p.Device == "" {
		for name, number := range map[string]*string{"metadata": &b.meta, "data": &b.data} {
			f, rdev, err := loopOf(filepath.Join(root, name))
			if err != nil {
				return b, fmt.Errorf("find loop device for thin pool: %w", err)
			}
			b.files = append(b.files, f)
			*number = dm.Number(rdev)
		}
		return b, nil
	}
	f, err := os.OpenFile(p.Device, os.O_RDWR, 0)
	if err != nil {
		return b, err
	}
	b.files = append(b.files, f)
	if err := p.checkDevice(f); err != nil {
		return b, err
	}
	rdev, err := blockDevice(f)
	if err != nil {
		return b, err
	}
	part := func(name string, start, size int64) (string, error) {
		t := dm.Target{Sectors: uint64(size / 512), Type: "linear", Params: fmt.Sprintf("%s %d", dm.Number(rdev), start/512)}
		d, node, err := activate(p.name(name), false, t)
		if err == nil {
			b.files = append(b.files, node)
		}
		return d.String(), err
	}
	if b.meta, err = part("metadata", headerBytes, p.Meta); err != nil {
		return b, err
	}
	b.data, err = part("data", headerBytes+p.Meta, p.Data)
	return b, err
}

// name is that of one of the pool's devices.
func (p pool) name(what string) string { return "coble-" + p.ID + "-" + what }
