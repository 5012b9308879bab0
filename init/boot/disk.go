package boot

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Ext4 is what a superblock says about its file system (kernel documentation,
// filesystems/ext4/super).
type Ext4 struct {
	Label string
	UUID  string // lower case, with dashes
	// Errors is set when the kernel found the file system damaged and e2fsck has
	// not repaired it since. A journal that needs replaying is no damage.
	Errors bool
}

// ReadExt4 reads the superblock of the ext2, ext3 or ext4 file system in r. ok
// is false when there is none.
func ReadExt4(r io.ReaderAt) (e Ext4, ok bool) {
	var sb [1024]byte
	if _, err := r.ReadAt(sb[:], 1024); err != nil {
		return Ext4{}, false
	}
	if binary.LittleEndian.Uint16(sb[0x38:]) != 0xef53 {
		return Ext4{}, false
	}
	id := hex.EncodeToString(sb[0x68:0x78])
	label, _, _ := bytes.Cut(sb[0x78:0x88], []byte{0})
	return Ext4{
		Label:  string(label),
		UUID:   strings.Join([]string{id[:8], id[8:12], id[12:16], id[16:20], id[20:]}, "-"),
		Errors: binary.LittleEndian.Uint16(sb[0x3a:])&2 != 0,
	}, true
}

// FindDisk returns the path of the block device that spec names: LABEL=x or
// UUID=x of an ext file system, PARTLABEL=x of a partition, or a path. It waits
// for the device until ctx ends: disks appear a little after their drivers.
func FindDisk(ctx context.Context, spec string) (string, error) {
	return findDisk(ctx, "/sys/class/block", "/dev", spec)
}

func findDisk(ctx context.Context, sys, dev, spec string) (string, error) {
	key, value, tagged := strings.Cut(spec, "=")
	if strings.HasPrefix(spec, "/") {
		tagged = false
	} else if !tagged || value == "" || (key != "LABEL" && key != "UUID" && key != "PARTLABEL") {
		return "", fmt.Errorf("disk %q is not LABEL=, UUID=, PARTLABEL= or a path", spec)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if !tagged {
			if st, err := os.Stat(spec); err == nil && st.Mode()&os.ModeDevice != 0 {
				return spec, nil
			}
		} else if path := scanDisks(sys, dev, key, value); path != "" {
			return path, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return "", fmt.Errorf("find disk %s among %s: %w", spec, diskNames(sys), ctx.Err())
		}
	}
}

func diskNames(sys string) string {
	entries, _ := os.ReadDir(sys)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if names == nil {
		return "no disks"
	}
	return strings.Join(names, ", ")
}

func scanDisks(sys, dev, key, value string) string {
	entries, _ := os.ReadDir(sys)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "ram") {
			continue
		}
		path := filepath.Join(dev, e.Name())
		if key == "PARTLABEL" {
			uevent, _ := os.ReadFile(filepath.Join(sys, e.Name(), "uevent"))
			if bytes.Contains(append(uevent, '\n'), []byte("\nPARTNAME="+value+"\n")) {
				return path
			}
			continue
		}
		f, err := os.Open(path)
		if err != nil {
			continue // no medium, or gone again
		}
		fs, ok := ReadExt4(f)
		f.Close()
		if ok && ((key == "LABEL" && fs.Label == value) || (key == "UUID" && strings.EqualFold(fs.UUID, value))) {
			return path
		}
	}
	return ""
}

// MountData mounts device on target, which is made if need be, with options as
// in mount(8): ro, noatime, nosuid, nodev, noexec, sync, dirsync and those of the
// file system. A device that is mounted there already is left alone.
//
// No fsck is run: ext4 replays its journal by itself, and coble brings no
// e2fsck. ReadExt4 tells when somebody should.
func MountData(device, target, fstype, options string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	mounted, err := mountedThere(device, target)
	if err != nil || mounted {
		return err
	}
	flags, data := parseOptions(options)
	if err := unix.Mount(device, target, fstype, flags, data); err != nil {
		return fmt.Errorf("mount %s %s on %s: %w", fstype, device, target, err)
	}
	return nil
}

func mountedThere(device, target string) (bool, error) {
	var dev, at unix.Stat_t
	if err := unix.Stat(device, &dev); err != nil {
		return false, &os.PathError{Op: "stat", Path: device, Err: err}
	}
	if err := unix.Stat(target, &at); err != nil {
		return false, &os.PathError{Op: "stat", Path: target, Err: err}
	}
	return dev.Mode&unix.S_IFMT == unix.S_IFBLK && uint64(dev.Rdev) == uint64(at.Dev), nil
}

// parseOptions splits mount(8)'s options into the flags of mount(2) and the rest.
func parseOptions(options string) (flags uintptr, data string) {
	var rest []string
	for o := range strings.SplitSeq(options, ",") {
		switch o {
		case "", "defaults", "rw":
		case "ro":
			flags |= unix.MS_RDONLY
		case "noatime":
			flags |= unix.MS_NOATIME
		case "relatime":
			flags |= unix.MS_RELATIME
		case "nosuid":
			flags |= unix.MS_NOSUID
		case "nodev":
			flags |= unix.MS_NODEV
		case "noexec":
			flags |= unix.MS_NOEXEC
		case "sync":
			flags |= unix.MS_SYNCHRONOUS
		case "dirsync":
			flags |= unix.MS_DIRSYNC
		default:
			rest = append(rest, o)
		}
	}
	return flags, strings.Join(rest, ",")
}
