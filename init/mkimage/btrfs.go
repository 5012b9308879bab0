package mkimage

import (
	"context"
	"fmt"
	"os"
	"os/exec"
)

// Btrfs makes file a btrfs image of size MiB (at least 114) with the given
// label, holding what is in folder (nothing when folder is empty). It needs
// mkfs.btrfs (Debian: btrfs-progs) and no root.
func Btrfs(ctx context.Context, file, folder, label string, size int) error {
	if err := sparse(file, size); err != nil {
		return err
	}
	args := []string{"-q", "-f", "-L", label}
	if folder != "" {
		args = append(args, "--rootdir", folder)
	}
	cmd := exec.CommandContext(ctx, "mkfs.btrfs", append(args, file)...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("mkfs.btrfs %s: %w: %s", file, err, out)
	}
	return nil
}

// sparse makes an empty file of size MiB.
func sparse(file string, size int) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	err = f.Truncate(int64(size) << 20)
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("make image %s: %w", file, err)
	}
	return nil
}
