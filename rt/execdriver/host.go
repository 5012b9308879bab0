package execdriver

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/rt/containers"
	"github.com/coble-os/coble/rt/fault"
	"github.com/coble-os/coble/rt/ocispec"
	"github.com/coble-os/coble/sandbox/rootfs"
)

// ociInput finds out what the container's record stands for on this machine, now.
func (d *Driver) ociInput(c *containers.Container, user rootfs.User) (in ocispec.Input, err error) {
	spec := c.Spec()
	kernel, _ := Uname()
	in = ocispec.Input{Spec: spec, User: user, RunDir: c.RunDir(), Kernel: ocispec.ParseKernel(kernel), Available: availableCaps(), Join: map[specs.LinuxNamespaceType]string{}}
	if in.Devices, err = hostDevices(spec.Host); err != nil {
		return in, err
	}
	if in.Blocks, err = blockNumbers(ocispec.BlockPaths(spec.Host.Resources)); err != nil {
		return in, err
	}
	if spec.Host.IpcMode.IsShareable() {
		in.Shm = shmDir(c)
	}
	return in, d.joins(c, &in)
}

// joins finds the namespaces of the containers that this one joins.
func (d *Driver) joins(c *containers.Container, in *ocispec.Input) error {
	h := in.Spec.Host
	for _, j := range []struct {
		kind   specs.LinuxNamespaceType
		name   string
		member bool
		of     string
	}{
		{specs.PIDNamespace, "pid", h.PidMode.IsContainer(), h.PidMode.Container()},
		{specs.IPCNamespace, "ipc", h.IpcMode.IsContainer(), h.IpcMode.Container()},
		{specs.NetworkNamespace, "net", h.NetworkMode.IsContainer(), h.NetworkMode.ConnectedContainer()},
	} {
		if !j.member {
			continue
		}
		other, err := d.o.Containers.Find(j.of)
		if err != nil {
			return err
		}
		st := other.View().State
		if !st.Running() {
			return fault.New(fault.Conflict, "cannot join the %s namespace of container %s: it is not running", j.kind, other.Spec().Name)
		}
		in.Join[j.kind] = fmt.Sprintf("/proc/%d/ns/%s", st.Pid, j.name)
		switch j.kind {
		case specs.IPCNamespace:
			if !other.Spec().Host.IpcMode.IsShareable() {
				return fault.New(fault.Conflict, "cannot join the IPC of container %s: it was not made with --ipc shareable", other.Spec().Name)
			}
			in.Shm = shmDir(other)
		case specs.NetworkNamespace:
			in.Names = other.RunDir()
		}
	}
	return nil
}

// pidFamily lists the cgroups of the running containers that live in the PID namespace which this one joins or has:
// they stand still while a child that shares the engine's memory is in there (see sandbox.Exec).
func (d *Driver) pidFamily(c *containers.Container) []string {
	root := d.pidOwner(c)
	var out []string
	for _, o := range d.o.Containers.All() {
		if o.View().State.Running() && d.pidOwner(o) == root {
			out = append(out, d.cgroup(o))
		}
	}
	return out
}

// pidOwner is the id of the container whose PID namespace this one is in; with the host's, its own.
func (d *Driver) pidOwner(c *containers.Container) string {
	for range 100 { // a chain has no cycle: who is joined was made before
		mode := c.Spec().Host.PidMode
		if !mode.IsContainer() {
			break
		}
		next, err := d.o.Containers.Find(mode.Container())
		if err != nil {
			return mode.Container()
		}
		c = next
	}
	return c.Spec().ID
}

// freezeForStart are those that a start which joins a PID namespace makes stand still.
func (d *Driver) freezeForStart(c *containers.Container) []string {
	if !c.Spec().Host.PidMode.IsContainer() {
		return nil
	}
	return d.pidFamily(c)
}

// hostDevices are the nodes that a container is given: those that are asked for, or, privileged, all.
func hostDevices(h container.HostConfig) ([]ocispec.Device, error) {
	var out []ocispec.Device
	if h.Privileged {
		return walkDevices("/dev", "/dev", "rwm")
	}
	for _, d := range h.Devices {
		access, err := ocispec.ParseAccess(d.CgroupPermissions)
		if err != nil {
			return nil, err
		}
		to := d.PathInContainer
		if to == "" {
			to = d.PathOnHost
		}
		from, err := filepath.EvalSymlinks(d.PathOnHost)
		if err == nil {
			var found []ocispec.Device
			found, err = walkDevices(from, to, access)
			out = append(out, found...)
			if err == nil && len(found) == 0 {
				err = errors.New("not a device node")
			}
		}
		if err != nil {
			return nil, fault.New(fault.Invalid, "error gathering device information while adding custom device %q: %w", d.PathOnHost, err)
		}
	}
	return out, nil
}

// walkDevices lists the node at from, or those below it, as they shall be called below to. Terminals, and what every
// container has of its own, are left out.
func walkDevices(from, to, access string) ([]ocispec.Device, error) {
	var out []ocispec.Device
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) && path != from {
				return nil // gone while we looked
			}
			return err
		}
		rel, _ := filepath.Rel(from, path)
		if d.IsDir() && from == "/dev" && slices.Contains([]string{"pts", "shm", "fd", "mqueue"}, rel) {
			return fs.SkipDir
		}
		if d.Type()&fs.ModeDevice == 0 || from == "/dev" && slices.Contains([]string{"console", "ptmx"}, rel) {
			return nil
		}
		dev, err := deviceAt(path)
		if err == nil {
			dev.Path, dev.Access = filepath.Join(to, rel), access
			out = append(out, dev)
		}
		return err
	})
	return out, err
}

// deviceAt reads the numbers of a node.
func deviceAt(path string) (ocispec.Device, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return ocispec.Device{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	d := ocispec.Device{Type: "c", Mode: os.FileMode(st.Mode & 0o777), UID: st.Uid, GID: st.Gid}
	d.Major, d.Minor = int64(unix.Major(uint64(st.Rdev))), int64(unix.Minor(uint64(st.Rdev)))
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
	case unix.S_IFBLK:
		d.Type = "b"
	default:
		return d, fmt.Errorf("%s is not a device node", path)
	}
	return d, nil
}

func blockNumbers(paths []string) (map[string]ocispec.Numbers, error) {
	out := map[string]ocispec.Numbers{}
	for _, p := range paths {
		d, err := deviceAt(p)
		if err == nil && d.Type != "b" {
			err = fmt.Errorf("%s is not a block device", p)
		}
		if err != nil {
			return nil, fault.As(fault.Invalid, err)
		}
		out[p] = d.Numbers
	}
	return out, nil
}
