package engine

import (
	"os"
	"runtime"
	"strings"

	"github.com/moby/moby/api/types/container"

	"github.com/coble-os/coble/rt/execdriver"
	"github.com/coble-os/coble/rt/job"
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
		ID: e.id, Version: e.o.Version, Root: e.o.Root, CPUs: runtime.NumCPU(), CgroupVersion: execdriver.CgroupVersion(),
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
	i.Kernel, i.Arch = execdriver.Uname()
	if fds, err := os.ReadDir("/proc/self/fd"); err == nil {
		i.Descriptors = len(fds)
	}
	i.Memory = execdriver.Memory()
	i.Firewall, i.Warnings = e.Net.Firewall()
	i.Proxied = e.Net.Proxied()
	return i, nil
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
