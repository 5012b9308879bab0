// Package runc proves from outside that coble is a runtime for others: it boots a Debian with systemd and cgroup v2 and
// has that Debian's podman and containerd run containers through `coble runc`.
package runc

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/init/mkimage"
	"github.com/coble-os/coble/qemu-tests/vm"
)

// packages are what the machine has besides Debian's essential ones.
const packages = "systemd-sysv,dbus,podman,containerd,conmon,busybox-static,apparmor"

// diskSize is that of the machine's root, in MiB.
const diskSize = 1500

// errNeedsRoot is a Debian that somebody else than root wants to have made.
var errNeedsRoot = errors.New("needs root to make a Debian the first time")

// debianDisk returns a file system with a Debian, which is made (mmdebstrap, which needs root) if the cache has none. It
// must not be written to.
func debianDisk(ctx context.Context) (string, error) {
	disk := filepath.Join(vm.CacheDir(), "debian", fmt.Sprintf("containers-%08x.ext4", crc32.ChecksumIEEE([]byte(packages))))
	if err := os.MkdirAll(filepath.Dir(disk), 0o755); err != nil {
		return "", err
	}
	f, err := os.OpenFile(disk+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock %s: %w", disk, err)
	}
	if _, err := os.Stat(disk); err == nil {
		return disk, nil
	}
	if os.Geteuid() != 0 {
		return "", errNeedsRoot
	}
	tree, err := os.MkdirTemp(filepath.Dir(disk), "tree-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tree)
	out, err := exec.CommandContext(ctx, "mmdebstrap", "--variant=minbase", "--include="+packages,
		"--aptopt=APT::Install-Recommends \"false\"", "bookworm", tree).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("make a Debian with mmdebstrap: %w: %s", err, out)
	}
	tmp := disk + ".new"
	if err := mkimage.Ext4(ctx, tmp, tree, "debian", diskSize); err != nil {
		return "", errors.Join(err, os.Remove(tmp))
	}
	return disk, os.Rename(tmp, disk)
}

// initScript loads what the root needs, adds the test to it, and hands over to systemd.
const initScript = `#!/bin/sh
mount -t proc proc /proc
mount -t devtmpfs dev /dev
for m in virtio_pci nvme virtio_blk ext4; do modprobe $m; done
for i in $(seq 100); do test -b /dev/nvme0n1 && break; sleep 0.1; done
mount -t ext4 /dev/nvme0n1 /root
cp -r /add/. /root/
umount /proc
exec switch_root /root /lib/systemd/systemd
`

// unit runs the test when the machine is up, and turns it off.
const unit = `[Unit]
Description=containers through coble
After=dbus.socket
Requires=dbus.socket
[Service]
Type=oneshot
ExecStart=/bin/sh /test.sh
StandardOutput=file:/dev/ttyS0
StandardError=inherit
ExecStopPost=/bin/systemctl --force --force poweroff
[Install]
WantedBy=default.target
`

// writeInitrd writes an initramfs that brings coble and a script to the Debian.
func writeInitrd(ctx context.Context, file, script string, kernel vm.Kernel) error {
	im := mkimage.New()
	dir, err := vm.FetchPackage(ctx, kernel.Arch, "bookworm", "busybox-static")
	if err != nil {
		return err
	}
	coble := file + ".coble"
	if err := vm.Build(ctx, kernel.Arch, "github.com/coble-os/coble/cmd/coble", coble); err != nil {
		return err
	}
	for to, from := range map[string]string{"bin/busybox": dir + "/bin/busybox", "add/usr/local/bin/coble": coble} {
		if err := im.Copy(to, from); err != nil {
			return err
		}
	}
	for _, name := range strings.Fields("sh mount umount modprobe seq test sleep cp switch_root mkdir") {
		im.Symlink("bin/"+name, "busybox")
	}
	im.Dir("proc", 0o755)
	im.Dir("dev", 0o755)
	im.Dir("root", 0o755)
	im.File("init", 0o755, []byte(initScript))
	im.File("add/test.sh", 0o755, []byte(script))
	im.File("add/etc/systemd/system/containers.service", 0o644, []byte(unit))
	im.Symlink("add/etc/systemd/system/default.target", "/lib/systemd/system/basic.target")
	im.Symlink("add/etc/systemd/system/basic.target.wants/containers.service", "../containers.service")
	im.Symlink("add/usr/local/bin/runc", "coble")
	im.File("add/etc/containers/storage.conf", 0o644, []byte("[storage]\ndriver = \"vfs\"\nrunroot = \"/run/containers/storage\"\ngraphroot = \"/var/lib/containers/storage\"\n"))
	if _, err := im.Modules(kernel.Modules, strings.Fields("virtio_pci nvme virtio_blk ext4")); err != nil {
		return err
	}
	return im.WriteFile(file)
}
