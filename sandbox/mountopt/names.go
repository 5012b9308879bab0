package mountopt

import "slices"

// Names lists the options of mounts that have a meaning here; all others go to the file system.
func Names() []string {
	var out []string
	for _, name := range []string{
		"async", "atime", "bind", "defaults", "dev", "diratime", "dirsync", "exec", "idmap", "iversion", "lazytime", "loud",
		"mand", "noatime", "nodev", "nodiratime", "noexec", "noiversion", "nolazytime", "nomand", "norelatime",
		"nostrictatime", "nosuid", "nosymfollow", "private", "rbind", "relatime", "ridmap", "ro", "rprivate", "rshared",
		"rslave", "runbindable", "rw", "shared", "silent", "slave", "strictatime", "suid", "symfollow", "sync",
		"tmpcopyup", "unbindable",
		"ratime", "rdev", "rdiratime", "rexec", "rnoatime", "rnodev", "rnodiratime", "rnoexec", "rnorelatime",
		"rnostrictatime", "rnosuid", "rnosymfollow", "rrelatime", "rro", "rrw", "rstrictatime", "rsuid", "rsymfollow",
	} {
		if o, err := Parse([]string{name}); err == nil && o.Data == "" {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}
