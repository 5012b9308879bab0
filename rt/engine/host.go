package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/rt/fault"
	"github.com/coble-os/coble/rt/ocispec"
	"github.com/coble-os/coble/rt/request"
	"github.com/coble-os/coble/sandbox/caps"
	"github.com/coble-os/coble/sandbox/rootfs"
)

// ociInput finds out what the container's record stands for on this machine, now.
func (c *ctr) ociInput(user rootfs.User) (in ocispec.Input, err error) {
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
		in.Shm = c.shmDir()
	}
	return in, c.joins(&in)
}

// joins finds the namespaces of the containers that this one joins.
func (c *ctr) joins(in *ocispec.Input) error {
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
		other, err := c.e.find(j.of)
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
			in.Shm = other.shmDir()
		case specs.NetworkNamespace:
			in.Names = other.RunDir()
		}
	}
	return nil
}

// pinReferences makes ids of the names of other containers, which may be renamed. Who shares another's network has its
// host name too.
func (e *Engine) pinReferences(in *request.Create) error {
	h := &in.Host
	pin := func(mode string, member bool, ref string) (string, error) {
		if !member {
			return mode, nil
		}
		other, err := e.find(ref)
		if err != nil {
			return "", err
		}
		return "container:" + other.Spec().ID, nil
	}
	pid, err1 := pin(string(h.PidMode), h.PidMode.IsContainer(), h.PidMode.Container())
	ipc, err2 := pin(string(h.IpcMode), h.IpcMode.IsContainer(), h.IpcMode.Container())
	net, err3 := pin(string(h.NetworkMode), h.NetworkMode.IsContainer(), h.NetworkMode.ConnectedContainer())
	h.PidMode, h.IpcMode, h.NetworkMode = container.PidMode(pid), container.IpcMode(ipc), container.NetworkMode(net)
	if err := errors.Join(err1, err2, err3); err != nil || !h.NetworkMode.IsContainer() {
		return err
	}
	other, err := e.find(h.NetworkMode.ConnectedContainer())
	if err == nil {
		in.Config.Hostname, in.Config.Domainname = other.Spec().Config.Hostname, other.Spec().Config.Domainname
	}
	return err
}

// pidFamily lists the cgroups of the running containers that live in the PID namespace which this one joins or has:
// they stand still while a child that shares the engine's memory is in there (see sandbox.Exec).
func (c *ctr) pidFamily() []string {
	root := c.pidOwner()
	var out []string
	for _, o := range c.e.Containers.All() {
		o := c.e.handles(o)
		if o.View().State.Running() && o.pidOwner() == root {
			out = append(out, o.cgroup())
		}
	}
	return out
}

// pidOwner is the id of the container whose PID namespace this one is in; with the host's, its own.
func (c *ctr) pidOwner() string {
	for range 100 { // a chain has no cycle: who is joined was made before
		mode := c.Spec().Host.PidMode
		if !mode.IsContainer() {
			break
		}
		next, err := c.e.find(mode.Container())
		if err != nil {
			return mode.Container()
		}
		c = next
	}
	return c.Spec().ID
}

// freezeForStart are those that a start which joins a PID namespace makes stand still.
func (c *ctr) freezeForStart() []string {
	if !c.Spec().Host.PidMode.IsContainer() {
		return nil
	}
	return c.pidFamily()
}

func (c *ctr) shmDir() string { return filepath.Join(c.RunDir(), "shm") }

// openShm mounts the /dev/shm of a container that shares it. It is the one mount of a container's on the host: another
// container could not bind it out of this one's mount namespace.
func (c *ctr) openShm(u *undo) error {
	h := c.Spec().Host
	if !h.IpcMode.IsShareable() {
		return nil
	}
	if err := os.MkdirAll(c.shmDir(), 0o700); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	closeShm(c.RunDir())
	data := fmt.Sprintf("mode=1777,size=%d", h.ShmSize)
	if err := unix.Mount("shm", c.shmDir(), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, data); err != nil {
		return fmt.Errorf("mount shared memory on %s: %w", c.shmDir(), err)
	}
	u.add(func() { closeShm(c.RunDir()) })
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

// removeRunDir removes a container's folder of this boot, but never what is mounted there.
func removeRunDir(dir string) error {
	closeShm(dir)
	return os.RemoveAll(dir)
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

// machine is what a request is checked against.
func machine() request.Machine {
	m := request.Machine{CPUs: runtime.NumCPU()}
	if b, err := os.ReadFile("/sys/devices/system/cpu/online"); err == nil {
		m.OnlineCPUs = strings.TrimSpace(string(b))
	}
	if b, err := os.ReadFile("/sys/devices/system/node/online"); err == nil {
		m.OnlineMems = strings.TrimSpace(string(b))
	}
	return m
}

// availableCaps are this process's own: a root without one cannot give it away.
func availableCaps() caps.Set {
	set, err := caps.Permitted()
	if err != nil {
		return 0
	}
	return set
}

// meminfo reads a line of /proc/meminfo, in bytes.
func meminfo(key string) int64 {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == key+":" {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			return n * 1024
		}
	}
	return 0
}
