// Package mountopt says what the options of a mount mean to the kernel: which flags they set and clear (mount(2),
// mount_setattr(2)), and what is for the file system itself. The words are those of mount(8) and of the OCI runtime spec
// (config.md, "Linux mount options"). It is pure: it mounts nothing.
package mountopt

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Options is what a list of options means.
type Options struct {
	Set, Clear  uint64 // MS_ flags of this mount
	Bind        bool   // bind or rbind
	Recursive   bool   // rbind
	Propagation uint64 // MS_PRIVATE and the like, perhaps with MS_REC
	RecSet      uint64 // MOUNT_ATTR_ flags for the mount and those below it
	RecClear    uint64
	Data        string // what the file system itself is told
	CopyUp      bool   // tmpcopyup
	IDMap       bool   // idmap or ridmap
	IDMapRec    bool   // ridmap
}

// Parse sorts the options of a mount. Options that have no meaning for the kernel's mounts go to the file
// system as data, as mount(8) does, except those that would need help from this side.
func Parse(opts []string) (Options, error) {
	var o Options
	var data []string
	for _, s := range opts {
		switch {
		case s == "bind":
			o.Bind = true
		case s == "rbind":
			o.Bind, o.Recursive = true, true
		case s == "tmpcopyup":
			o.CopyUp = true
		case s == "idmap" || s == "ridmap":
			o.IDMap, o.IDMapRec = true, s == "ridmap"
		case s == "copy-symlink" || strings.HasPrefix(s, "src-"):
			return o, fmt.Errorf("option %q is not supported", s)
		case o.flag(s) || o.spread(s) || o.rec(s):
		default:
			data = append(data, s)
		}
	}
	o.Data = strings.Join(data, ",")
	return o, nil
}

// flag handles the options that are a flag of one mount.
func (o *Options) flag(s string) bool {
	v, on := optionFlag(s)
	switch {
	case s == "defaults" || s == "rw" && v == 0:
		return true
	case v == 0:
		return false
	case on:
		o.Set, o.Clear = o.Set|v, o.Clear&^v
	default:
		o.Set, o.Clear = o.Set&^v, o.Clear|v
	}
	return true
}

func optionFlag(s string) (v uint64, on bool) {
	switch s {
	case "ro":
		return unix.MS_RDONLY, true
	case "rw":
		return unix.MS_RDONLY, false
	case "nosuid":
		return unix.MS_NOSUID, true
	case "suid":
		return unix.MS_NOSUID, false
	case "nodev":
		return unix.MS_NODEV, true
	case "dev":
		return unix.MS_NODEV, false
	case "noexec":
		return unix.MS_NOEXEC, true
	case "exec":
		return unix.MS_NOEXEC, false
	case "noatime":
		return unix.MS_NOATIME, true
	case "atime":
		return unix.MS_NOATIME, false
	case "nodiratime":
		return unix.MS_NODIRATIME, true
	case "diratime":
		return unix.MS_NODIRATIME, false
	case "relatime":
		return unix.MS_RELATIME, true
	case "norelatime":
		return unix.MS_RELATIME, false
	case "strictatime":
		return unix.MS_STRICTATIME, true
	case "nostrictatime":
		return unix.MS_STRICTATIME, false
	default:
		return optionFlag2(s)
	}
}

func optionFlag2(s string) (v uint64, on bool) {
	switch s {
	case "sync":
		return unix.MS_SYNCHRONOUS, true
	case "async":
		return unix.MS_SYNCHRONOUS, false
	case "dirsync":
		return unix.MS_DIRSYNC, true
	case "mand":
		return unix.MS_MANDLOCK, true
	case "nomand":
		return unix.MS_MANDLOCK, false
	case "iversion":
		return unix.MS_I_VERSION, true
	case "noiversion":
		return unix.MS_I_VERSION, false
	case "silent":
		return unix.MS_SILENT, true
	case "loud":
		return unix.MS_SILENT, false
	case "lazytime":
		return unix.MS_LAZYTIME, true
	case "nolazytime":
		return unix.MS_LAZYTIME, false
	case "nosymfollow":
		return unix.MS_NOSYMFOLLOW, true
	case "symfollow":
		return unix.MS_NOSYMFOLLOW, false
	default:
		return 0, false
	}
}

// spread handles propagation.
func (o *Options) spread(s string) bool {
	v := Propagation(s)
	if v == 0 {
		return false
	}
	o.Propagation = v
	return true
}

// Propagation returns the MS_ flags of a propagation mode, or 0.
func Propagation(s string) uint64 {
	switch s {
	case "private":
		return unix.MS_PRIVATE
	case "rprivate":
		return unix.MS_PRIVATE | unix.MS_REC
	case "slave":
		return unix.MS_SLAVE
	case "rslave":
		return unix.MS_SLAVE | unix.MS_REC
	case "shared":
		return unix.MS_SHARED
	case "rshared":
		return unix.MS_SHARED | unix.MS_REC
	case "unbindable":
		return unix.MS_UNBINDABLE
	case "runbindable":
		return unix.MS_UNBINDABLE | unix.MS_REC
	default:
		return 0
	}
}

// rec handles the attributes of a whole tree of mounts (mount_setattr(2)).
func (o *Options) rec(s string) bool {
	if s == "" || s[0] != 'r' {
		return false
	}
	v, on := optionFlag(s[1:])
	a, known := Attrs(v)
	if v == 0 || !known {
		return false
	}
	if on {
		o.RecSet, o.RecClear = o.RecSet|a, o.RecClear&^a
	} else {
		o.RecSet, o.RecClear = o.RecSet&^a, o.RecClear|a
	}
	return true
}

// Attrs turns MS_ flags of a mount into MOUNT_ATTR_ flags; known is false if there is one without a counterpart.
func Attrs(ms uint64) (a uint64, known bool) {
	pairs := [...][2]uint64{
		{unix.MS_RDONLY, unix.MOUNT_ATTR_RDONLY},
		{unix.MS_NOSUID, unix.MOUNT_ATTR_NOSUID},
		{unix.MS_NODEV, unix.MOUNT_ATTR_NODEV},
		{unix.MS_NOEXEC, unix.MOUNT_ATTR_NOEXEC},
		{unix.MS_NOATIME, unix.MOUNT_ATTR_NOATIME},
		{unix.MS_NODIRATIME, unix.MOUNT_ATTR_NODIRATIME},
		{unix.MS_STRICTATIME, unix.MOUNT_ATTR_STRICTATIME},
		{unix.MS_NOSYMFOLLOW, unix.MOUNT_ATTR_NOSYMFOLLOW},
		{unix.MS_RELATIME, 0}, // the default, MOUNT_ATTR_RELATIME is 0
	}
	for _, p := range pairs {
		if ms&p[0] != 0 {
			a |= p[1]
			ms &^= p[0]
		}
	}
	return a, ms == 0
}
