package execdriver

import (
	"fmt"
	"slices"
	"strings"

	"github.com/coble-os/coble/layers/driver"
	"github.com/coble-os/coble/rt/containers"
	"github.com/coble-os/coble/rt/fault"
	"github.com/coble-os/coble/sandbox/rootfs"
)

// maxPasswd bounds what is read of an image's passwd and group files, in bytes.
const maxPasswd = 1 << 20

// lookUpUser reads the container's files through a mount that no path leads to, resolved inside it: an evil image
// reaches nothing of the host's.
func lookUpUser(c *containers.Container, mounts []driver.Mount) (rootfs.User, error) {
	view, err := openView(mounts, viewDir(c))
	if err != nil {
		return rootfs.User{}, fmt.Errorf("look into root file system of %s: %w", c.Spec().Name, err)
	}
	defer view.Close()
	return userIn(view, c.Spec().Config.User, c.Spec().Host.GroupAdd)
}

// userIn resolves a user by the files of a root, which may have none.
func userIn(root *rootfs.Root, name string, groups []string) (rootfs.User, error) {
	passwd, _ := root.ReadFile("etc/passwd", maxPasswd)
	group, _ := root.ReadFile("etc/group", maxPasswd)
	return resolveUser(name, groups, passwd, group)
}

// resolveUser is pure. As with Docker, the primary group is among the supplementary ones, and those of --group-add follow.
func resolveUser(name string, add []string, passwd, group []byte) (rootfs.User, error) {
	u, err := rootfs.LookupUser(name, passwd, group)
	if err != nil {
		return u, fault.As(fault.Invalid, err)
	}
	u.Groups = append([]uint32{u.GID}, u.Groups...)
	for _, g := range add {
		gid, err := rootfs.LookupGroup(g, group)
		if err != nil {
			return u, fault.As(fault.Invalid, err)
		}
		if !slices.Contains(u.Groups, gid) {
			u.Groups = append(u.Groups, gid)
		}
	}
	return u, nil
}

// ExitCode gives the code that a shell would for a command that could not be started.
func ExitCode(text string) int {
	switch {
	case strings.Contains(text, "executable file not found"), strings.Contains(text, "no such file or directory"):
		return 127
	case strings.Contains(text, "permission denied"), strings.Contains(text, "exec format error"), strings.Contains(text, "is a directory"):
		return 126
	}
	return 128
}
