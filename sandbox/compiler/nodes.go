package compiler

import (
	"fmt"
	"os"
	"path"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox/plan"
)

// devices makes the devices and links that every container has (OCI runtime spec, config-linux.md, "Default
// Devices"), and those of the spec.
func (b *builder) devices(in *Input) error {
	if hostDev(in.Spec) {
		if len(in.Spec.Linux.Devices) > 0 {
			return fmt.Errorf("linux.devices: /dev is a bind mount")
		}
		return nil
	}
	dev := b.slot("dev")
	b.about("open /dev")
	b.folder(b.slot("root"), "/dev", dev, 0)
	b.about("make default devices")
	b.call("umask", octal(0)).to(b.slot("umask"))
	for _, d := range defaultDevices(in.Spec.Linux.Devices) {
		if in.inUserNS() {
			b.bindDevice(dev, "/dev/"+d.name, unix.S_IFCHR, d.major, d.minor)
			continue
		}
		b.call("mknodat", value(dev), str(d.name), named(unix.S_IFCHR|0o666, "S_IFCHR|0666"),
			named(unix.Mkdev(d.major, d.minor), fmt.Sprintf("%d:%d", d.major, d.minor))).ignore(unix.EEXIST)
	}
	for _, l := range [...][2]string{
		{"/proc/self/fd", "fd"},
		{"/proc/self/fd/0", "stdin"},
		{"/proc/self/fd/1", "stdout"},
		{"/proc/self/fd/2", "stderr"},
		{"pts/ptmx", "ptmx"},
	} {
		b.call("symlinkat", str(l[0]), value(dev), str(l[1])).ignore(unix.EEXIST)
	}
	for i, d := range in.Spec.Linux.Devices {
		if err := b.device(in, d); err != nil {
			return fmt.Errorf("linux.devices[%d] (%s): %w", i, d.Path, err)
		}
	}
	b.about("restore umask")
	b.call("umask", value(b.slot("umask")))
	return nil
}

type device struct {
	name         string
	major, minor uint32
}

// defaultDevices leaves out those that the spec makes itself.
func defaultDevices(own []specs.LinuxDevice) []device {
	all := [...]device{{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}}
	var out []device
	for _, d := range all {
		mine := false
		for _, o := range own {
			mine = mine || path.Clean(o.Path) == "/dev/"+d.name
		}
		if !mine {
			out = append(out, d)
		}
	}
	return out
}

func (b *builder) device(in *Input, d specs.LinuxDevice) error {
	kind := uint32(0)
	switch d.Type {
	case "c", "u":
		kind = unix.S_IFCHR
	case "b":
		kind = unix.S_IFBLK
	case "p":
		kind = unix.S_IFIFO
	default:
		return fmt.Errorf("unknown type %q", d.Type)
	}
	if !path.IsAbs(d.Path) || relative(d.Path) == "." {
		return fmt.Errorf("path is not that of a file")
	}
	b.about("make device %s", d.Path)
	dir := b.slot("target")
	b.folder(b.slot("root"), path.Dir(d.Path), dir, 0)
	if in.inUserNS() && kind != unix.S_IFIFO {
		b.bindDevice(dir, path.Clean(d.Path), kind, uint32(d.Major), uint32(d.Minor))
	} else {
		b.makeDevice(dir, kind, d)
	}
	b.close(dir)
	return nil
}

func (b *builder) makeDevice(dir plan.Slot, kind uint32, d specs.LinuxDevice) {
	mode := os.FileMode(0o666)
	if d.FileMode != nil {
		mode = *d.FileMode
	}
	name := path.Base(d.Path)
	b.call("mknodat", value(dir), str(name), octal(kind|uint32(mode.Perm())),
		named(unix.Mkdev(uint32(d.Major), uint32(d.Minor)), fmt.Sprintf("%d:%d", d.Major, d.Minor)))
	if d.UID != nil || d.GID != nil {
		b.call("fchownat", value(dir), str(name), id(d.UID), id(d.GID),
			named(unix.AT_SYMLINK_NOFOLLOW, "AT_SYMLINK_NOFOLLOW"))
	}
}

// bindDevice mounts the machine's node of the same name in dir: the root of a user namespace can make none (mknod(2)).
// Mode and owner are those of the machine's node; it must be the device that the spec means.
func (b *builder) bindDevice(dir plan.Slot, file string, kind, major, minor uint32) {
	node, t, name := b.slot("node"), b.slot("place"), path.Base(file)
	b.about("open device %s of the machine", file)
	b.call("openat", cwd(), str(file), flags(openPath|unix.O_NOFOLLOW, plan.OpenBits), num(0)).to(node)
	b.isDevice(node, kind, major, minor)
	b.about("bind device %s", file)
	const create = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
	at := b.next()
	b.call("openat", value(dir), str(name), flags(create, plan.OpenBits), octal(0o644)).to(t).ignore(unix.EEXIST)
	b.close(t)
	b.skipOn(at)
	b.openat2(dir, name, openPath, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS, 0).to(t)
	b.mount("", fdPath(t), "", unix.MS_BIND, "")
	b.p.Calls[b.next()-1].Args[0] = fdPath(node)
	b.close(t)
	b.close(node)
}
