package execdriver

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/rt/containers"
)

func shmDir(c *containers.Container) string { return filepath.Join(c.RunDir(), "shm") }

// openShm mounts the /dev/shm of a container that shares it. It is the one mount of a container's on the host: another
// container could not bind it out of this one's mount namespace.
func openShm(c *containers.Container) error {
	h := c.Spec().Host
	if !h.IpcMode.IsShareable() {
		return nil
	}
	if err := os.MkdirAll(shmDir(c), 0o700); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	closeShm(c.RunDir())
	data := fmt.Sprintf("mode=1777,size=%d", h.ShmSize)
	if err := unix.Mount("shm", shmDir(c), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, data); err != nil {
		return fmt.Errorf("mount shared memory on %s: %w", shmDir(c), err)
	}
	return nil
}

// closeShm unmounts what openShm mounted; who has it bound keeps it.
func closeShm(runDir string) {
	for unix.Unmount(filepath.Join(runDir, "shm"), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) == nil {
	}
}

// UnmountShared unmounts what containers whose engine is gone had mounted below the run folder.
func UnmountShared(run string) {
	dirs, _ := filepath.Glob(filepath.Join(run, "c", "*"))
	for _, d := range dirs {
		closeShm(d)
	}
}

// RemoveRunDir removes a container's folder of this boot, but never what is mounted there.
func RemoveRunDir(dir string) error {
	closeShm(dir)
	return os.RemoveAll(dir)
}
