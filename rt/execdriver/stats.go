package execdriver

import (
	"bufio"
	"fmt"
	"os"
	"os/user"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coble-os/coble/init/boot"
	"github.com/coble-os/coble/rt/fault"
	"github.com/coble-os/coble/rt/job"
	"github.com/coble-os/coble/rt/procs"
	"github.com/coble-os/coble/sandbox/cgroup"
)

// TopIn asks for a container's processes.
type TopIn struct {
	Ref  string
	Args string // of ps; empty: -ef
}

// TopOut is ps's table.
type TopOut struct {
	Titles []string
	Rows   [][]string
}

// top lists the processes of a running container, as the host sees them, by pid.
func (d *Driver) top(_ *job.Job, in TopIn) (TopOut, error) {
	c, err := d.o.Containers.Find(in.Ref)
	if err != nil {
		return TopOut{}, err
	}
	names, err := procs.Columns(in.Args)
	if err != nil {
		return TopOut{}, fault.As(fault.Invalid, err)
	}
	if !c.Running() {
		return TopOut{}, fault.New(fault.Conflict, "container %s is not running", c.Spec().ID)
	}
	g, err := cgroup.Open(d.cgroup(c))
	if err != nil {
		return TopOut{}, err
	}
	pids, err := g.Pids()
	if err != nil {
		return TopOut{}, err
	}
	slices.Sort(pids)
	var list []procs.Process
	for _, pid := range pids {
		if p, err := procs.Read(os.DirFS("/proc"), pid, int64(os.Getpagesize())); err == nil { // or it is gone by now
			list = append(list, p)
		}
	}
	clock := procs.Clock{Now: time.Now(), Uptime: time.Duration(boot.Uptime() * float64(time.Millisecond)), Memory: meminfo("MemTotal"), UserName: userName}
	titles, rows := procs.Table(names, list, clock)
	return TopOut{titles, rows}, nil
}

func userName(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return id
}

// Traffic is what has passed a container's interface.
type Traffic struct{ RxBytes, RxPackets, RxErrors, RxDropped, TxBytes, TxPackets, TxErrors, TxDropped uint64 }

// Sample is what a container uses at one moment; only ID and Name of one that does not run.
type Sample struct {
	ID, Name      string
	Read          time.Time
	Stats         cgroup.Stats
	CgroupVersion int
	SystemCPU     time.Duration // of all processors since boot
	OnlineCPUs    int
	MemoryLimit   uint64 // bytes; the machine's memory where the container has no limit
	Networks      map[string]Traffic
}

// stats takes one sample.
func (d *Driver) stats(_ *job.Job, ref string) (Sample, error) {
	c, err := d.o.Containers.Find(ref)
	if err != nil {
		return Sample{}, err
	}
	s := Sample{ID: c.Spec().ID, Name: c.Spec().Name, Read: time.Now().UTC(), CgroupVersion: CgroupVersion(), OnlineCPUs: runtime.NumCPU()}
	st := c.View().State
	g, ok := d.group(c)
	if !st.Running() || !ok {
		return s, nil
	}
	if s.Stats, err = g.Stats(); err != nil {
		return s, fmt.Errorf("read use of container %s: %w", s.Name, err)
	}
	if s.MemoryLimit = s.Stats.MemoryLimit; s.MemoryLimit == 0 {
		s.MemoryLimit = uint64(meminfo("MemTotal"))
	}
	s.SystemCPU = systemCPU()
	if !c.Spec().Host.NetworkMode.IsHost() {
		s.Networks = traffic(st.Pid)
	}
	return s, nil
}

// systemCPU adds up the first line of /proc/stat, idle time included (proc_stat(5)).
func systemCPU() time.Duration {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(b), "\n")
	var ticks uint64
	for _, f := range strings.Fields(line)[1:min(8, len(strings.Fields(line)))] {
		n, _ := strconv.ParseUint(f, 10, 64)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// traffic reads the interfaces of a process's network namespace but loopback (proc_pid_net(5), dev).
func traffic(pid int) map[string]Traffic {
	f, err := os.Open(fmt.Sprintf("/proc/%d/net/dev", pid))
	if err != nil {
		return nil
	}
	defer f.Close()
	out := map[string]Traffic{}
	for s := bufio.NewScanner(f); s.Scan(); {
		name, rest, ok := strings.Cut(s.Text(), ":")
		fields := strings.Fields(rest)
		if name = strings.TrimSpace(name); !ok || name == "lo" || len(fields) < 12 {
			continue
		}
		n := func(i int) uint64 { v, _ := strconv.ParseUint(fields[i], 10, 64); return v }
		out[name] = Traffic{n(0), n(1), n(2), n(3), n(8), n(9), n(10), n(11)}
	}
	return out
}
