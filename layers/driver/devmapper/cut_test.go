package devmapper

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/driver"
	"github.com/coble-os/coble/layers/driver/devmapper/dm"
	"github.com/coble-os/coble/layers/driver/drivertest"
)

const cuttable = "coble-test-cut"

// cutDisk is a file system on a device of which every access can be made to
// fail from one moment on, as if its power were cut.
type cutDisk struct {
	t     *testing.T
	table dm.Target
	dir   string
}

func newCutDisk(t *testing.T, mib int64) *cutDisk {
	file := filepath.Join(t.TempDir(), "disk")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.NoError(t, os.Truncate(file, mib<<20))
	dev, rdev, err := loopOf(file)
	require.NoError(t, err)
	t.Cleanup(func() { dev.Close() })
	c := &cutDisk{t: t, table: dm.Target{Sectors: uint64(mib << 11), Type: "linear", Params: dm.Number(rdev) + " 0"}}
	c.on("mkfs.ext4", "-q")
	return c
}

// on gives the disk its power back, and mounts it.
func (c *cutDisk) on(mkfs ...string) {
	_, err := dm.Create(cuttable, "")
	require.NoError(c.t, err)
	require.NoError(c.t, dm.Load(cuttable, false, c.table))
	d, err := dm.Resume(cuttable)
	require.NoError(c.t, err)
	if len(mkfs) > 0 {
		c.run(append(mkfs, d.Node())...)
	}
	c.dir = c.t.TempDir()
	require.NoError(c.t, unix.Mount(d.Node(), c.dir, "ext4", 0, ""))
}

// cut takes effect between two writes. What the kernel had not written is
// lost.
func (c *cutDisk) cut() {
	c.run("dmsetup", "suspend", "--noflush", "--nolockfs", "--noudevsync", cuttable)
	c.run("dmsetup", "load", cuttable, "--table", fmt.Sprintf("0 %d error", c.table.Sectors))
	c.run("dmsetup", "resume", "--noudevsync", cuttable)
}

// off unmounts what is left of it.
func (c *cutDisk) off() {
	require.NoError(c.t, unix.Unmount(c.dir, unix.MNT_DETACH))
	require.NoError(c.t, deactivate(cuttable))
}

func (c *cutDisk) run(words ...string) {
	if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
		c.t.Errorf("%s: %v: %s", strings.Join(words, " "), err, out)
	}
}

// Whatever the moment of a cut: what was answered is there and whole, nothing
// else has a volume, and the pool works on.
func TestCuts(t *testing.T) {
	need(t)
	drivertest.NeedTool(t, "dmsetup")
	cuts := 12
	if os.Getenv("COBLE_VM") != "" {
		cuts = 4
	}
	disk := newCutDisk(t, 200)
	d, err := Open(filepath.Join(disk.dir, "dm"), "")
	require.NoError(t, err)
	empty, err := d.status()
	require.NoError(t, err)
	for range cuts {
		require.NoError(t, d.Close())
		gone(t, d)
		said := drivertest.Interrupt(t, d.Root(), time.Duration(rand.IntN(1500))*time.Millisecond, disk.cut)
		// One that was just made may not be marked to go yet; a real cut leaves none.
		require.NoError(t, d.pool.deactivate())
		gone(t, d)
		disk.off()
		disk.on()
		d, err = Open(filepath.Join(disk.dir, "dm"), "")
		require.NoError(t, err)
		require.NoError(t, d.Sweep())
		layers, tops, err := d.List()
		require.NoError(t, err)
		// What the repository does not know of.
		for _, id := range tops {
			if !said["c "+id] {
				require.NoError(t, d.RemoveTop(id))
			}
		}
		for _, id := range layers {
			if !said["d "+id] {
				require.NoError(t, d.Remove(id))
			}
		}
		t.Logf("%d things answered", len(said))
		drivertest.Survived(t, d, said)
		for _, id := range tops {
			require.NoError(t, d.RemoveTop(id))
		}
		for _, id := range layers {
			require.NoError(t, d.Remove(id))
		}
		now, err := d.status()
		require.NoError(t, err)
		require.Equal(t, empty.dataUsed, now.dataUsed, "a volume is left that nothing names")
	}
	require.NoError(t, d.Close())
	gone(t, d)
	disk.off()
}

// closing is a driver of which nothing is left when it is closed.
type closing struct{ *Driver }

func (c closing) Close() error { return errors.Join(c.Driver.Close(), c.pool.deactivate()) }

// What was answered survives a power cut.
func TestDurable(t *testing.T) {
	need(t)
	for _, fs := range drivertest.FileSystems() {
		if strings.HasPrefix(fs.Name, "ext4-") {
			continue // as ext4 for who only makes names
		}
		t.Run(fs.Name, func(t *testing.T) {
			drivertest.Durable(t, fs.Sized(320), func(root string) (driver.Driver, error) {
				d, err := Open(root, "")
				return closing{d}, err
			}, func(c *drivertest.Cuts, d driver.Driver) {
				limited := func(id string) {
					c.Answered("limit of "+id, func(t *testing.T, dir string) {
						d, err := Open(dir+"/drv", "")
						require.NoError(t, err)
						defer closing{d}.Close()
						drivertest.InTop(t, d, id, []string{"1"}, func(root string) {
							require.ErrorIs(t, os.WriteFile(root+"/big", make([]byte, 9<<20), 0o600), unix.ENOSPC)
						})
					})
				}
				require.NoError(t, d.Create("small", []string{"1"}, 8<<20))
				limited("small")
				dm := d.(closing)
				held, w, err := dm.begin("held", []string{"1"}, point)
				require.NoError(t, err)
				other, err := w.Mount() // as a child that was just born has it for a moment: no unmounting writes
				require.NoError(t, err)
				require.NoError(t, w.limit(8<<20))
				require.NoError(t, dm.Commit(held, dm.Top("held")))
				limited("held")
				require.NoError(t, other.Close())
				temp, v, err := dm.begin("half", nil)
				require.NoError(t, err)
				c.Answered("volume", func(t *testing.T, dir string) {
					n, err := number(dir + strings.TrimPrefix(temp, c.Dir))
					require.NoError(t, err)
					require.Equal(t, v.number, n, "the number in the folder that names the volume")
				})
			})
		})
	}
}

// A volume that was made a moment before the cut has a name from which it is
// removed, also where the pool's disk is not the folder's.
func TestCutAfterVolume(t *testing.T) {
	need(t)
	drivertest.NeedTool(t, "dmsetup")
	file := filepath.Join(t.TempDir(), "pool")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.NoError(t, os.Truncate(file, 200<<20))
	dev, _, err := loopOf(file)
	require.NoError(t, err)
	t.Cleanup(func() { dev.Close() })
	disk := newCutDisk(t, 64)
	d, err := Open(filepath.Join(disk.dir, "dm"), dev.Name())
	require.NoError(t, err)
	_, v, err := d.begin("1", nil)
	require.NoError(t, err)
	disk.cut()
	require.NoError(t, d.Close())
	gone(t, d)
	disk.off()
	disk.on()
	d, err = Open(filepath.Join(disk.dir, "dm"), dev.Name())
	require.NoError(t, err)
	node, err := volume{d, v.number, false}.activate()
	require.NoError(t, err, "the volume was made durably")
	node.Close()
	require.NoError(t, d.Sweep())
	_, err = volume{d, v.number, false}.activate()
	require.ErrorIs(t, err, unix.ENODATA)
	require.NoError(t, d.Close())
	gone(t, d)
	disk.off()
}
