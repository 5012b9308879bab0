package plan

import (
	"fmt"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Join is a namespace by path.
type Join struct {
	Path string
	Flag uint64 // CLONE_NEW…
}

// Stop is what the parent does while the child waits at a barrier: what only the machine's root may do to a child that
// is in a user namespace, and what is no list of calls. The order of the fields is that of the work.
type Stop struct {
	Maps        *Maps  // of the new user namespace
	OOMScoreAdj *int   // for /proc/PID/oom_score_adj
	TimeOffsets string // for /proc/PID/timens_offsets
	Rlimits     []Rlimit
	NetDevices  []NetDevice
	Resctrl     *Resctrl // group in the resource control file system to join
	CopyUp      string   // fill a tmpfs: the child has sent it, and the folder that it will cover, to the input copyup
	Created     bool     // whatever the caller of the start wants to do
}

// Maps are the texts of uid_map and gid_map.
type Maps struct{ UID, GID string }

// Rlimit is a limit for prlimit(2).
type Rlimit struct {
	Name       string
	Resource   int
	Soft, Hard uint64
}

// NetDevice is a link that moves from this network namespace into the container's.
type NetDevice struct{ Host, Name string }

// stop makes the child wait for the parent to do s. The parent's end is closed first: a parent that dies is seen.
func (b *builder) stop(s Stop) {
	b.about("wait for the parent")
	sync := b.input("sync")
	parent := b.input("sync.parent")
	if b.p.Barriers == 0 {
		b.call("close", value(parent))
	}
	b.call("write", value(sync), str("r"), num(1)).want(1)
	b.call("read", value(sync), mem(make([]byte, 8), "<byte>"), num(1)).want(1).check(Check{1, 0, 1, 0xff, 1})
	b.p.Barriers++
	b.p.Stops = append(b.p.Stops, s)
}

// barrier is the first stop, namespaces made.
func (b *builder) barrier(in *Input) error {
	s := Stop{Created: in.Barrier, NetDevices: netDevices(in.Spec)}
	if in.makes(specs.UserNamespace) {
		s.Maps = &Maps{UID: mapText(in.Spec.Linux.UIDMappings), GID: mapText(in.Spec.Linux.GIDMappings)}
		s.OOMScoreAdj = in.Spec.Process.OOMScoreAdj
	}
	if in.inUserNS() {
		var err error
		if s.TimeOffsets, err = timeOffsets(in.Spec); err != nil {
			return err
		}
	}
	var err error
	if s.Resctrl, err = resctrl(in); err != nil {
		return err
	}
	if !s.empty() {
		b.stop(s)
	}
	if in.makes(specs.UserNamespace) {
		b.becomeRoot()
	}
	return nil
}

func (s *Stop) empty() bool {
	return s.Maps == nil && s.OOMScoreAdj == nil && s.TimeOffsets == "" && len(s.Rlimits) == 0 &&
		len(s.NetDevices) == 0 && s.Resctrl == nil && s.CopyUp == "" && !s.Created
}

// String prints what the parent does.
func (s *Stop) String() string {
	var out []string
	add := func(format string, a ...any) { out = append(out, fmt.Sprintf(format, a...)) }
	if s.Maps != nil {
		add("uid_map %q, gid_map %q", s.Maps.UID, s.Maps.GID)
	}
	if s.OOMScoreAdj != nil {
		add("oom_score_adj %d", *s.OOMScoreAdj)
	}
	if s.TimeOffsets != "" {
		add("timens_offsets %q", s.TimeOffsets)
	}
	for _, r := range s.Rlimits {
		add("%s {%d, %d}", r.Name, r.Soft, r.Hard)
	}
	for _, d := range s.NetDevices {
		add("move link %s to %s", d.Host, d.Name)
	}
	if r := s.Resctrl; r != nil {
		add("join resctrl group %s %q, monitor %q", r.Group, r.Schemata, r.Monitor)
	}
	if s.CopyUp != "" {
		add("copy up %s", s.CopyUp)
	}
	if s.Created {
		add("caller's hook")
	}
	return strings.Join(out, "; ")
}

// copyUp sends a new tmpfs and the folder below it to the parent, which copies.
func (b *builder) copyUp(fresh, covered Slot, destination string) {
	b.about("send tmpfs for %s to the parent", destination)
	sock := b.input("copyup")
	b.call("sendmsg", value(sock), b.rights(covered), num(0)).want(1)
	b.call("sendmsg", value(sock), b.rights(fresh), num(0)).want(1)
	b.stop(Stop{CopyUp: destination})
	b.about("mount tmpfs on %s", destination)
}

// exit ends a plan that executes nothing.
func (b *builder) exit() {
	b.about("exit")
	b.call("exit_group", num(0))
}

const openPath = unix.O_PATH | unix.O_CLOEXEC
