package engine

import (
	"encoding/json"
	"os"
	"runtime"
	"strings"

	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/rt/job"
	"github.com/coble-os/coble/rt/ocispec"
	"github.com/coble-os/coble/sandbox"
	"github.com/coble-os/coble/sandbox/rootfs"
)

// Info is what `coble info` tells of the engine and its machine.
type Info struct {
	ID, Name, Version                string
	Root                             string
	Total, Running, Paused, Stopped  int
	Images                           int
	Driver, DriverReason, Backing    string
	CgroupVersion                    int
	Kernel, OS, Arch                 string
	CPUs                             int
	Memory                           int64 // bytes
	Bridge, Subnet                   string
	Firewall                         string   // whose guest coble is; empty: nobody's
	Proxied                          string   // why ports are published by the engine itself; empty: they are not
	Warnings                         []string // what keeps published ports from being reached
	Goroutines, Descriptors, Waiting int
}

func (e *Engine) info(*job.Job, struct{}) (Info, error) {
	i := Info{
		ID: e.id, Version: e.o.Version, Root: e.o.Root, CPUs: runtime.NumCPU(), CgroupVersion: CgroupVersion(),
		Bridge: e.Net.Default().Bridge, Subnet: e.Net.Default().V4.String(), Goroutines: runtime.NumGoroutine(), OS: osName(),
	}
	i.Name, _ = os.Hostname()
	i.Driver, i.DriverReason = e.Images.Driver()
	i.Backing = e.Images.Backing()
	for _, v := range e.Containers.Views() {
		i.Total++
		switch v.State.Status {
		case container.StateRunning:
			i.Running++
		case container.StatePaused:
			i.Paused++
		default:
			i.Stopped++
		}
	}
	images, err := e.Images.List()
	if err != nil {
		return i, err
	}
	i.Images = len(images)
	i.Kernel, i.Arch = Uname()
	if fds, err := os.ReadDir("/proc/self/fd"); err == nil {
		i.Descriptors = len(fds)
	}
	i.Memory = meminfo("MemTotal")
	i.Firewall, i.Warnings = e.Net.Firewall()
	i.Proxied = e.Net.Proxied()
	return i, nil
}

// Uname returns the kernel's release and its name for the machine.
func Uname() (release, machine string) {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "", ""
	}
	return unix.ByteSliceToString(u.Release[:]), unix.ByteSliceToString(u.Machine[:])
}

func osName() string {
	b, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "coble"
	}
	for line := range strings.Lines(string(b)) {
		if name, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
			return strings.Trim(strings.TrimSpace(name), `"`)
		}
	}
	return "Linux"
}

// PlanOut is the list of system calls that starting a container makes.
type PlanOut struct {
	Text string
	JSON []byte
}

// plan compiles what starting the container would do, without doing it.
func (e *Engine) plan(_ *job.Job, ref string) (PlanOut, error) {
	var out PlanOut
	c, err := e.find(ref)
	if err != nil {
		return out, err
	}
	mounts, err := e.Images.Mounts(c.Spec().ID, c.viewDir())
	if err != nil {
		return out, err
	}
	in, err := c.ociInput(rootfs.User{Home: "/root"})
	if err != nil {
		return out, err
	}
	spec, err := ocispec.Build(in)
	if err != nil {
		return out, err
	}
	rootMounts, _ := sandboxMounts(mounts)
	p, err := sandbox.Plan(sandbox.Config{ID: c.Spec().ID, Spec: spec, Bundle: c.RunDir(), RootMounts: rootMounts, CgroupPath: c.cgroup(), Init: ocispec.InitPath(c.Spec())})
	if err != nil {
		return out, err
	}
	out.Text = p.String()
	out.JSON, err = json.MarshalIndent(p, "", "  ")
	return out, err
}
