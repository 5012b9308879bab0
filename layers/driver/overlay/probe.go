package overlay

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/archive"
)

// probe stacks two folders on the driver's file system, in a mount that is
// attached nowhere (fsopen(2), fsmount(2)), hides a name in it and looks for
// the mark. That tries all at once: the kernel's overlayfs, the privilege to
// mount, and what the file system below has to support.
func (d *Driver) probe() error {
	dir, err := d.Temp("probe")
	if err != nil {
		return err
	}
	defer d.Discard(dir)
	for _, sub := range []string{"l", "u", "w"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			return fmt.Errorf("make probe folder: %w", err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "l", "x"), nil, 0o600); err != nil {
		return fmt.Errorf("make probe file: %w", err)
	}
	if err := unix.Setxattr(filepath.Join(dir, "l"), "trusted.overlay.opaque", []byte("y"), 0); err != nil {
		return fmt.Errorf("no trusted attributes on this file system: %w", err)
	}
	root, err := mountDetached(dir)
	if err != nil {
		return err
	}
	defer unix.Close(root)
	if err := unix.Unlinkat(root, "x", 0); err != nil {
		return fmt.Errorf("hide a name: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(dir, "u", "x"), &st); err != nil || !archive.IsWhiteout(&st) {
		return errors.New("hiding a name leaves no mark")
	}
	return nil
}

// mountDetached gives the descriptor of an overlay mount over dir's l, u and
// w that no path leads to and that ends with the descriptor.
func mountDetached(dir string) (int, error) {
	ctx, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if errors.Is(err, unix.ENODEV) {
		return -1, fmt.Errorf("the kernel has no overlay file system: %w", err)
	}
	if err != nil {
		return -1, fmt.Errorf("ask the kernel for overlay: %w", err)
	}
	defer unix.Close(ctx)
	for key, sub := range map[string]string{"lowerdir": "l", "upperdir": "u", "workdir": "w"} {
		fd, err := unix.Open(filepath.Join(dir, sub), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, fmt.Errorf("open probe folder: %w", err)
		}
		defer unix.Close(fd)
		// By descriptor: fsconfig(2) takes at most 255 bytes.
		path := "/proc/self/fd/" + strconv.Itoa(fd)
		if err := unix.FsconfigSetString(ctx, key, path); err != nil {
			return -1, fmt.Errorf("set %s: %w", key, err)
		}
	}
	if err := unix.FsconfigCreate(ctx); err != nil {
		return -1, fmt.Errorf("stack folders: %w", err)
	}
	mnt, err := unix.Fsmount(ctx, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("mount probe: %w", err)
	}
	return mnt, nil
}
