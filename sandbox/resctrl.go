package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox/plan"
	"github.com/coble-os/coble/sandbox/spec"
)

// resctrlTop is where the kernel's resource control file system is mounted (Documentation/filesystems/resctrl.rst).
const resctrlTop = "/sys/fs/resctrl"

// hasResctrl tells whether resctrl is mounted.
func hasResctrl() bool {
	var st unix.Statfs_t
	return unix.Statfs(resctrlTop, &st) == nil && uint32(st.Type) == unix.RDTGROUP_SUPER_MAGIC
}

// joinResctrl makes the group, if it is not there, says what its processes get of caches and memory bandwidth, and
// puts a process in. What it has made is gone again after an error.
func joinResctrl(top string, pid int, g *plan.Resctrl) (err error) {
	dir := filepath.Join(top, g.Group)
	made := false
	if len(g.Schemata) == 0 && g.Given {
		if _, err := os.Stat(dir); err != nil {
			return fmt.Errorf("linux.intelRdt.closID: without schemata it must exist: %w", err)
		}
	} else if made, err = makeDir(dir); err != nil {
		return err
	}
	defer func() {
		if err != nil && made {
			err = errors.Join(err, os.Remove(dir))
		}
	}()
	if len(g.Schemata) > 0 {
		if err := writeOne(filepath.Join(dir, "schemata"), strings.Join(g.Schemata, "\n")+"\n"); err != nil {
			return err
		}
	}
	if err := writeOne(filepath.Join(dir, "tasks"), fmt.Sprint(pid)); err != nil || g.Monitor == "" {
		return err
	}
	watched := filepath.Join(dir, "mon_groups", g.Monitor)
	if _, err := makeDir(watched); err != nil {
		return err
	}
	return writeOne(filepath.Join(watched, "tasks"), fmt.Sprint(pid))
}

func makeDir(dir string) (made bool, err error) {
	err = os.Mkdir(dir, 0o755)
	if errors.Is(err, os.ErrExist) {
		return false, nil
	}
	return err == nil, err
}

func writeOne(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// RemoveResctrl removes what the start of container id made in resctrl: its monitoring group, and its own group unless
// the spec named one, which may be others' too. What is gone is gone.
func RemoveResctrl(id string, r *specs.LinuxIntelRdt) error {
	if r == nil {
		return nil
	}
	return removeResctrl(resctrlTop, id, r)
}

func removeResctrl(top, id string, r *specs.LinuxIntelRdt) error {
	g, err := spec.ResctrlGroup(id, r)
	if err != nil {
		return err
	}
	dir := filepath.Join(top, g.Group)
	if g.Monitor != "" {
		if err := os.Remove(filepath.Join(dir, "mon_groups", g.Monitor)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if g.Given {
		return nil
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
