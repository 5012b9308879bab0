package devmapper

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/driver"
	"github.com/coble-os/coble/layers/driver/devmapper/dm"
)

// openPool makes or finds the pool, and activates it.
func (d *Driver) openPool(device string) error {
	p, there, err := loadPool(d.Root())
	if err != nil {
		return err
	}
	if there && device != "" {
		p.Device = device // checkDevice finds out
	}
	if !there {
		if p, err = d.plan(device); err != nil {
			return err
		}
	}
	if p.Base == 0 {
		if err := p.prepare(d.Root()); err != nil {
			return err
		}
	}
	if err := d.start(p); err != nil {
		return err
	}
	if p.Base == 0 {
		return d.makeBase()
	}
	return nil
}

// plan says what a new pool is to be, in its record. Until it has a base, all
// that a cut leaves is made again.
func (d *Driver) plan(device string) (p pool, err error) {
	layers, tops, err := d.List()
	if err != nil {
		return p, err
	}
	if len(layers)+len(tops) > 0 {
		return p, fmt.Errorf("%s is gone, without which its %d layers and containers can't be found: put it back, or remove the folder %s", recordPath(d.Root()), len(layers)+len(tops), d.Root())
	}
	var id [8]byte
	rand.Read(id[:])
	p = pool{ID: hex.EncodeToString(id[:]), Device: device}
	if p.FS, _, err = formatter(); err != nil {
		return p, err
	}
	if err := p.measure(d.Root()); err != nil {
		return p, err
	}
	return p, p.save(d.Root())
}

// start activates the pool, or finds it active.
func (d *Driver) start(p pool) error {
	below, err := p.attach(d.Root())
	if err != nil {
		return err
	}
	defer below.close() // the pool has them now
	d.pool = p
	low := max(p.Data/blockBytes/50, 2)
	d.device, d.node, err = activate(p.name("pool"), false, dm.Target{
		Sectors: uint64(p.Data / 512), Type: "thin-pool",
		Params: fmt.Sprintf("%s %s %d %d 2 skip_block_zeroing error_if_no_space", below.meta, below.data, blockSectors, low),
	})
	switch {
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("its disk is in use: %w", err)
	case errors.Is(err, unix.EILSEQ), errors.Is(err, unix.ENOTBLK), errors.Is(err, unix.ENODATA), errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%s (%w)", damaged, err)
	}
	return err
}

// size of every volume, in bytes.
func (d *Driver) size() int64 { return min(d.pool.Data, maxVolume) }

// formatter finds a program that makes file systems, with its words for a
// volume: without what is of no use in a snapshot (backups of the superblock,
// room to grow), and with a small journal, which every top has for itself.
func formatter() (fs string, words []string, err error) {
	if p, err := exec.LookPath("mkfs.ext4"); err == nil {
		return "ext4", []string{
			p, "-q", "-F", "-b", "4096", "-I", "256", "-i", "8192", "-m", "0", "-J", "size=4",
			"-O", "^resize_inode,sparse_super2", "-E", "lazy_itable_init=1,lazy_journal_init=1,num_backup_sb=0,nodiscard",
		}, nil
	}
	if p, err := exec.LookPath("mkfs.xfs"); err == nil {
		return "xfs", []string{p, "-q", "-f", "-K"}, nil
	}
	return "", nil, fmt.Errorf("%w: it needs mkfs.ext4 (Debian package e2fsprogs) or mkfs.xfs (xfsprogs) to format its first volume", driver.ErrUnsupported)
}

// makeBase makes the volume that all others come from.
func (d *Driver) makeBase() error {
	temp, err := d.Temp("base")
	if err != nil {
		return err
	}
	defer d.Discard(temp)
	v, err := d.reserve(temp)
	if err == nil {
		err = d.tell("create_thin " + v.thin())
	}
	p := d.pool
	if err == nil {
		p.FS, err = v.format()
	}
	if err == nil {
		p.Base = v.number
		err = p.save(d.Root())
	}
	if err != nil {
		return fmt.Errorf("make first volume: %w", err)
	}
	d.pool = p
	return nil
}

// format makes the file system with an empty tree.
func (v volume) format() (fs string, err error) {
	node, err := v.activate()
	if err != nil {
		return "", err
	}
	defer node.Close()
	fs, words, err := formatter()
	if err != nil {
		return "", err
	}
	out, err := exec.Command(words[0], append(words[1:], node.Name())...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(words, " "), err, out)
	}
	mnt, err := mount(node, fs, false)
	if err != nil {
		return "", err
	}
	defer mnt.Close()
	if err := os.Mkdir(path(mnt, tree), 0o755); err != nil {
		return "", blob.NoSpace(err)
	}
	return fs, seal(mnt)
}

// status asks the pool.
func (d *Driver) status() (status, error) {
	s, err := dm.Status(d.pool.name("pool"))
	if err != nil {
		return status{}, err
	}
	return parseStatus(s)
}

// check fails if the pool can't be written.
func (d *Driver) check() error {
	st, err := d.status()
	if err != nil {
		return err
	}
	if why := st.broken(); why != "" {
		return fmt.Errorf("thin pool %s: %s", d.pool.ID, why)
	}
	return nil
}

// tell has the pool do something, durably. The kernel commits after every
// message, and keeps to itself whether it could: it makes the pool read-only
// then.
func (d *Driver) tell(message string) error {
	if err := dm.Message(d.pool.name("pool"), message); err != nil {
		return errors.Join(blob.NoSpace(err), d.check())
	}
	return d.check()
}

// allocate takes a number that no volume ever had.
func (d *Driver) allocate() (uint64, error) {
	d.numbering.Lock()
	defer d.numbering.Unlock()
	st, err := d.status()
	if err != nil {
		return 0, err
	}
	n := st.transaction + 1
	return n, d.tell(fmt.Sprintf("set_transaction_id %d %d", st.transaction, n))
}

// checkAge fails if the pool knows less than the driver's folder: it is an old
// copy then, or another.
func (d *Driver) checkAge() error {
	st, err := d.status()
	if err != nil {
		return err
	}
	newest := d.pool.Base
	for _, kind := range []string{"d", "c"} {
		places, _ := filepath.Glob(filepath.Join(d.Root(), kind, "*"))
		for _, p := range places {
			if n, err := number(p); err == nil {
				newest = max(newest, n)
			}
		}
	}
	if newest > st.transaction {
		return fmt.Errorf("its newest volume is %d, and the layers here go up to %d: it is an old copy, or was made anew; put the right one back, or remove the folder %s and load all images again", st.transaction, newest, d.Root())
	}
	return nil
}

// Backing says in words what the layers lie on, and how full that is.
func (d *Driver) Backing() string {
	st, err := d.status()
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%s on thin pool %s, %d of %d MiB used", d.pool.FS, d.pool.ID, st.dataUsed*blockBytes>>20, st.dataTotal*blockBytes>>20)
}

// Room refuses with blob.ErrNoSpace what has more bytes than the pool, or what
// would find it full soon.
func (d *Driver) Room(need int64) error {
	if err := d.check(); err != nil {
		return err
	}
	st, err := d.status()
	if err != nil {
		return err
	}
	why := st.low()
	if why == "" && d.pool.Device == "" {
		var fs unix.Statfs_t
		if err := unix.Statfs(d.Root(), &fs); err != nil {
			return fmt.Errorf("ask file system for free space: %w", err)
		}
		if free := int64(fs.Bfree) * int64(fs.Bsize); free < max(d.pool.Data/50, need) {
			why = fmt.Sprintf("the disk below it has %d MiB left", free>>20)
		}
	}
	if free := int64(st.dataTotal-st.dataUsed) * blockBytes; why == "" && free < need {
		why = fmt.Sprintf("about %d MiB are needed, and it has %d", need>>20, free>>20)
	}
	if why == "" {
		return nil
	}
	return fmt.Errorf("%w: thin pool %s: %s; remove containers or images", blob.ErrNoSpace, d.pool.ID, why)
}

// blame tells what an error of writing comes from that a full pool gave.
func (d *Driver) blame(err error) error {
	if errors.Is(err, blob.ErrNoSpace) {
		return err
	}
	for _, e := range []error{unix.ENOSPC, unix.EIO, unix.EROFS} {
		if !errors.Is(err, e) {
			continue
		}
		if full := d.Room(0); errors.Is(full, blob.ErrNoSpace) {
			return fmt.Errorf("%w: %w", full, err)
		}
		return blob.NoSpace(err)
	}
	return err
}

// Clean takes away what a store's engine left active, if nobody uses it any
// more. A store that never had a pool is no error.
func Clean(root string) error {
	p, there, err := loadPool(root)
	if err != nil || !there {
		return err
	}
	return p.deactivate()
}

// deactivate takes the pool's devices away, those that stand on others first.
func (p pool) deactivate() error {
	names, err := dm.List()
	if errors.Is(err, dm.ErrKernel) {
		return nil
	}
	if err != nil {
		return err
	}
	below := []string{p.name("pool"), p.name("metadata"), p.name("data")}
	mine := slices.DeleteFunc(names, func(n string) bool { return !strings.HasPrefix(n, p.name("")) || slices.Contains(below, n) })
	for _, n := range append(mine, below...) {
		if err := deactivate(n); err != nil {
			return fmt.Errorf("take thin pool away: %w", err)
		}
	}
	return nil
}
