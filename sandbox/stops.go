package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox/compiler"
	"github.com/coble-os/coble/sandbox/plan"
	"github.com/coble-os/coble/sandbox/spawn"
)

// atStops returns what spawn calls at each barrier of p. created is the caller's hook, or nil.
func (r *runner) atStops(p *plan.Plan, created func(pid int) error) func(pid int) error {
	next := 0
	return func(pid int) error {
		if next >= len(p.Stops) {
			return fmt.Errorf("stop %d of a plan with %d", next+1, len(p.Stops))
		}
		s := &p.Stops[next]
		next++
		if err := r.atStop(pid, s); err != nil {
			return err
		}
		if s.Created && created != nil {
			return created(pid)
		}
		return nil
	}
}

// atStop does what a stop says. The child is ours and not reaped: its pid is nobody else's.
func (r *runner) atStop(pid int, s *plan.Stop) error {
	if s.Maps != nil {
		if err := writeMaps(pid, *s.Maps); err != nil {
			return err
		}
	}
	if s.OOMScoreAdj != nil {
		if err := writeProc(pid, "oom_score_adj", fmt.Sprint(*s.OOMScoreAdj)); err != nil {
			return err
		}
	}
	if s.TimeOffsets != "" {
		if err := writeProc(pid, "timens_offsets", s.TimeOffsets); err != nil {
			return err
		}
	}
	for _, l := range s.Rlimits {
		if err := unix.Prlimit(pid, l.Resource, &unix.Rlimit{Cur: l.Soft, Max: l.Hard}, nil); err != nil {
			return fmt.Errorf("set %s: %w", l.Name, err)
		}
	}
	if err := moveLinks(pid, s.NetDevices); err != nil {
		return err
	}
	if s.Resctrl != nil {
		if err := joinResctrl(resctrlTop, pid, s.Resctrl); err != nil {
			return err
		}
	}
	if s.CopyUp != "" {
		return r.copyUp(s.CopyUp)
	}
	return nil
}

// writeMaps maps users and groups. Only one who is root of the machine, or near to it, may map more than himself; who
// may not hears it from here (user_namespaces(7)).
func writeMaps(pid int, m plan.Maps) error {
	if err := writeProc(pid, "gid_map", m.GID); err != nil {
		return fmt.Errorf("map groups: %w%s", err, rootlessHint(err))
	}
	if err := writeProc(pid, "uid_map", m.UID); err != nil {
		return fmt.Errorf("map users: %w%s", err, rootlessHint(err))
	}
	return nil
}

func rootlessHint(err error) string {
	if os.Geteuid() != 0 && errors.Is(err, unix.EPERM) {
		return " (containers without root are not supported: run as root)"
	}
	return ""
}

// writeProc writes one file of /proc/PID in one write, as the files there want it.
func writeProc(pid int, name, text string) error {
	path := fmt.Sprintf("/proc/%d/%s", pid, name)
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(fd)
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil || st.Type != unix.PROC_SUPER_MAGIC {
		return fmt.Errorf("open %s: it is not on procfs (%v)", path, err)
	}
	if _, err := unix.Write(fd, []byte(text)); err != nil {
		return fmt.Errorf("write %q to %s: %w", strings.TrimSpace(text), path, err)
	}
	return nil
}

// prepare gets all inputs of p that something must be run for: user namespaces for id-mapped mounts, sources that are
// opened before the user namespace is entered, and the socket for a tmpfs to be filled.
func (r *runner) prepare(ctx context.Context, p *plan.Plan) error {
	for _, u := range p.UserNS {
		f, err := newUserNS(ctx, u.Maps)
		if err != nil {
			return fmt.Errorf("make user namespace for an id-mapped mount: %w", err)
		}
		r.keep(u.Input, f)
	}
	if p.Slot("copyup") != 0 {
		mine, theirs, err := socketPair("copyup")
		if err != nil {
			return err
		}
		r.files, r.filled = append(r.files, mine), mine
		r.keep("copyup", theirs)
	}
	if p.Prepare == nil {
		return nil
	}
	return r.sources(ctx, p.Prepare)
}

// sources runs the plan that opens sources and takes them.
func (r *runner) sources(ctx context.Context, p *plan.Plan) error {
	helper := &runner{inputs: map[string]uintptr{}}
	defer helper.close()
	for _, name := range p.Inputs {
		if fd, given := r.inputs[name]; given {
			helper.inputs[name] = fd
		}
	}
	if err := helper.prepare(ctx, p); err != nil {
		return err
	}
	mine, theirs, err := socketPair("sources")
	if err != nil {
		return err
	}
	helper.files = append(helper.files, mine)
	helper.keep("sources", theirs)
	if err := spawn.RunToEnd(ctx, p, spawn.Options{Inputs: helper.inputs}); err != nil {
		return err
	}
	for _, name := range p.Sends {
		fd, err := receiveFD(mine)
		if err != nil {
			return fmt.Errorf("receive %s: %w", name, err)
		}
		r.keep(name, os.NewFile(uintptr(fd), name))
	}
	return nil
}

func socketPair(name string) (mine, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket for %s: %w", name, err)
	}
	return os.NewFile(uintptr(fds[0]), name), os.NewFile(uintptr(fds[1]), name+" of child"), nil
}

// newUserNS makes a user namespace that nobody is in.
func newUserNS(ctx context.Context, m plan.Maps) (f *os.File, err error) {
	r := &runner{}
	p := compiler.NewUserNS(m)
	err = spawn.RunToEnd(ctx, p, spawn.Options{Barrier: r.atStops(p, func(pid int) error {
		f, err = os.Open(fmt.Sprintf("/proc/%d/ns/user", pid))
		return err
	})})
	if err != nil && f != nil {
		f.Close()
	}
	return f, err
}

// userMaps returns the mappings that count for the process of a spec: its own, or those of the namespace it joins.
func userMaps(ctx context.Context, s *specs.Spec) (uids, gids []specs.LinuxIDMapping, err error) {
	path := ""
	for _, n := range s.Linux.Namespaces {
		if n.Type == specs.UserNamespace {
			path = n.Path
		}
	}
	if path == "" {
		return s.Linux.UIDMappings, s.Linux.GIDMappings, nil
	}
	r := &runner{}
	p := compiler.InUserNS(path)
	err = spawn.RunToEnd(ctx, p, spawn.Options{Barrier: r.atStops(p, func(pid int) error {
		if uids, err = readMap(pid, "uid_map"); err != nil {
			return err
		}
		gids, err = readMap(pid, "gid_map")
		return err
	})})
	return uids, gids, err
}

// readMap reads uid_map or gid_map, seen from here.
func readMap(pid int, name string) ([]specs.LinuxIDMapping, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
	if err != nil {
		return nil, err
	}
	var out []specs.LinuxIDMapping
	for line := range strings.Lines(string(b)) {
		var m specs.LinuxIDMapping
		if _, err := fmt.Sscan(line, &m.ContainerID, &m.HostID, &m.Size); err != nil {
			return nil, fmt.Errorf("parse %s %q: %w", name, line, err)
		}
		out = append(out, m)
	}
	return out, nil
}
