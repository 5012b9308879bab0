package plan

import (
	"fmt"
	"strings"
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

// Resctrl is the group of a container in the resource control file system.
type Resctrl struct {
	Group    string // name of its folder
	Given    bool   // the spec names it: it may be others' too
	Schemata []string
	Monitor  string // name of its folder in mon_groups, or ""
}

// UserNS is a user namespace that serves as the mapping of an id-mapped mount. The runner makes it, and gives a
// descriptor of it as the input.
type UserNS struct {
	Input string
	Maps  Maps
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
