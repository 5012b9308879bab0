package mkimage

import (
	"context"
	"fmt"
	"os"
	"os/exec"
)

// Ext4 makes file an ext4 image of size MiB with the given label, holding what
// is in folder (nothing when folder is empty). It needs mkfs.ext4 (Debian:
// e2fsprogs) and no root.
func Ext4(ctx context.Context, file, folder, label string, size int) error {
	if err := sparse(file, size); err != nil {
		return err
	}
	args := []string{"-q", "-F", "-L", label, "-m", "0", "-E", "root_owner=0:0,lazy_itable_init=1,lazy_journal_init=1"}
	if folder != "" {
		args = append(args, "-d", folder)
	}
	cmd := exec.CommandContext(ctx, "mkfs.ext4", append(args, file)...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("mkfs.ext4 %s: %w: %s", file, err, out)
	}
	return nil
}
