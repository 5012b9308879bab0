package rootfs

import (
	"bufio"
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// User is who a process runs as.
type User struct {
	UID, GID uint32
	Groups   []uint32 // supplementary
	Home     string   // of the passwd entry; "/" without one
}

// LookupUser resolves "user", "user:group", ":group", each by name or number, with the text of the container's passwd
// and group files (nil if it has none). A number is a number first, whatever names the files hold. A user without an
// entry must be a number, with group 0. A named user's supplementary groups are those that list it, unless a
// group is given.
func LookupUser(spec string, passwd, group []byte) (User, error) {
	name, grp, hasGroup := strings.Cut(spec, ":")
	u := User{Home: "/"}
	if name == "" {
		name = "0"
	}
	entry, found := findPasswd(name, passwd)
	uid, isNumber := number(name)
	switch {
	case found:
		u = entry.User
	case isNumber:
		u.UID = uid
	default:
		return User{}, fmt.Errorf("unable to find user %s: no matching entries in passwd file", name)
	}
	if found && !hasGroup {
		u.Groups = groupsOf(entry.name, u.GID, group)
	}
	if !hasGroup || grp == "" {
		return u, nil
	}
	gid, ok := number(grp)
	if !ok {
		if gid, ok = findGroup(grp, group); !ok {
			return User{}, fmt.Errorf("unable to find group %s: no matching entries in group file", grp)
		}
	}
	u.GID, u.Groups = gid, nil
	return u, nil
}

// LookupGroup resolves a group by name or number.
func LookupGroup(name string, group []byte) (uint32, error) {
	if gid, ok := number(name); ok {
		return gid, nil
	}
	if gid, ok := findGroup(name, group); ok {
		return gid, nil
	}
	return 0, fmt.Errorf("unable to find group %s: no matching entries in group file", name)
}

// number parses an id; the highest is not one (it means "no change").
func number(s string) (uint32, bool) {
	v, err := strconv.ParseUint(s, 10, 32)
	return uint32(v), err == nil && v < 1<<32-1
}

type passwdEntry struct {
	User
	name string
}

// findPasswd finds an entry by uid if name is a number, else by name (passwd(5)).
func findPasswd(name string, passwd []byte) (passwdEntry, bool) {
	want, byNumber := number(name)
	for f := range fields(passwd, 7) {
		uid, ok := number(f[2])
		gid, ok2 := number(f[3])
		if !ok || !ok2 || byNumber && uid != want || !byNumber && f[0] != name {
			continue
		}
		return passwdEntry{User{UID: uid, GID: gid, Home: f[5]}, f[0]}, true
	}
	return passwdEntry{}, false
}

func findGroup(name string, group []byte) (uint32, bool) {
	for f := range fields(group, 4) {
		if gid, ok := number(f[2]); ok && f[0] == name {
			return gid, true
		}
	}
	return 0, false
}

// groupsOf lists the groups that name is a member of, but its primary one.
func groupsOf(name string, primary uint32, group []byte) []uint32 {
	var out []uint32
	for f := range fields(group, 4) {
		gid, ok := number(f[2])
		if ok && gid != primary && slices.Contains(strings.Split(f[3], ","), name) && !slices.Contains(out, gid) {
			out = append(out, gid)
		}
	}
	return out
}

// fields yields the lines that have at least n fields; other lines are no entries.
func fields(text []byte, n int) func(yield func([]string) bool) {
	return func(yield func([]string) bool) {
		sc := bufio.NewScanner(bytes.NewReader(text))
		sc.Buffer(nil, len(text)+1)
		for sc.Scan() {
			f := strings.Split(strings.TrimSpace(sc.Text()), ":")
			if len(f) >= n && f[0] != "" && f[0][0] != '#' && !yield(f) {
				return
			}
		}
	}
}
