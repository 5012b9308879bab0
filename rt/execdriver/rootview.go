package execdriver

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/driver"
	"github.com/coble-os/coble/rt/containers"
	"github.com/coble-os/coble/sandbox"
	"github.com/coble-os/coble/sandbox/rootfs"
)

// viewDir is where a container's root is mounted, always in a namespace of its own.
func viewDir(c *containers.Container) string { return filepath.Join(c.RunDir(), "rootfs") }

// WithRoot calls fn with the container's root as a folder: all that it sees if it runs and mounted is set, else the file
// system alone. Names in it are the container's: they must be resolved beneath it. One that does not run can't be started
// or removed meanwhile.
func (d *Driver) WithRoot(c *containers.Container, mounted bool, fn func(root *os.File) error) error {
	c.Op.Lock()
	root, live, err := d.openRoot(c, mounted)
	if live || err != nil {
		c.Op.Unlock()
	} else {
		defer c.Op.Unlock()
	}
	if err != nil {
		return fmt.Errorf("open root of container %s: %w", c.Spec().Name, err)
	}
	defer root.Close()
	return fn(root)
}

func (d *Driver) openRoot(c *containers.Container, mounted bool) (root *os.File, live bool, err error) {
	if st := c.View().State; st.Running() {
		if mounted {
			root, err = os.OpenFile(fmt.Sprintf("/proc/%d/root", st.Pid), unix.O_PATH|unix.O_DIRECTORY, 0)
		} else {
			root, err = openOwnMount(st.Pid)
		}
		// Still running: so the pid was the container's all the time.
		if now := c.View().State; now.Running() && now.Pid == st.Pid {
			return root, true, err
		}
		if err == nil {
			root.Close()
		}
	}
	mounts, err := d.o.Mounts(c.Spec().ID, viewDir(c))
	if err != nil {
		return nil, false, err
	}
	if err := os.MkdirAll(viewDir(c), 0o700); err != nil {
		return nil, false, err
	}
	root, err = openMounts(mounts, viewDir(c))
	return root, false, err
}

// openView is a container's root file system as a mount that no path leads to, gone when it is closed. It mounts what layers say in a mount namespace of its own, which ends at once: only the descriptor keeps the
// mount. (fsconfig(2) would need no namespace, but takes 255 bytes per option, too few for ten layers.)
func openView(mounts []driver.Mount, at string) (*rootfs.Root, error) {
	f, err := openMounts(mounts, at)
	if err != nil {
		return nil, err
	}
	return rootfs.New(f), nil
}

// openMounts is openView's folder itself, the caller's to close.
func openMounts(mounts []driver.Mount, at string) (*os.File, error) {
	mounts, release, err := driver.Attach(mounts)
	if err != nil {
		return nil, fmt.Errorf("look into root file system: %w", err)
	}
	defer release()
	return onOwnThread(at, func() (int, error) { return mountAlone(mounts, at) })
}

// openOwnMount is the root file system of a process that runs, without what is mounted on it: a copy of the mount that
// no path leads to, gone when it is closed (open_tree(2), Linux 5.2).
func openOwnMount(pid int) (*os.File, error) {
	return onOwnThread("/", func() (int, error) {
		ns, err := unix.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, fmt.Errorf("open mount namespace: %w", err)
		}
		defer unix.Close(ns)
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return -1, fmt.Errorf("leave shared folders: %w", err)
		}
		if err := unix.Setns(ns, unix.CLONE_NEWNS); err != nil {
			return -1, fmt.Errorf("enter mount namespace: %w", err)
		}
		fd, err := unix.OpenTree(-1, "/", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			return -1, fmt.Errorf("copy root mount: %w", err)
		}
		return fd, nil
	})
}

// opened is a descriptor, or why there is none.
type opened struct {
	fd  int
	err error
}

// onOwnThread runs what changes its thread's namespaces, and gives the folder whose descriptor it returns.
func onOwnThread(name string, open func() (int, error)) (*os.File, error) {
	got := make(chan opened, 1)
	go ownThread(open, got)
	r := <-got
	if r.err != nil {
		return nil, r.err
	}
	return os.NewFile(uintptr(r.fd), name), nil
}

// ownThread is never unlocked from its thread, which has left the process's namespaces: it ends with the goroutine. The
// first thread does not (runtime.LockOSThread), and would keep the mounts, and show them as the process's: it is held
// here until another has done the work.
func ownThread(open func() (int, error), got chan<- opened) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		again := make(chan opened, 1)
		go ownThread(open, again)
		got <- <-again
		runtime.UnlockOSThread()
		return
	}
	fd, err := open()
	got <- opened{fd, err}
}

func mountAlone(mounts []driver.Mount, at string) (int, error) {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return -1, fmt.Errorf("make mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return -1, fmt.Errorf("make mounts private: %w", err)
	}
	for _, m := range mounts {
		if err := m.Do(at); err != nil {
			return -1, err
		}
	}
	fd, err := unix.Open(at, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: at, Err: err}
	}
	return fd, nil
}

// sandboxMounts says the same to the sandbox, and gives the mounts that are there already by the names they have in it.
// Those that Attach has not made are only for printing.
func sandboxMounts(ms []driver.Mount) (out []sandbox.Mount, trees map[string]*os.File) {
	trees = map[string]*os.File{}
	for i, m := range ms {
		to := sandbox.Mount{Type: m.Type, Source: m.Source, Flags: m.Flags, Data: m.Data, Dir: m.Dir, Target: m.Target}
		if m.Volume != nil {
			to.Tree = fmt.Sprintf("layer.%d", i)
		}
		if m.Tree != nil {
			to.Tree = fmt.Sprintf("layer.%d", i)
			trees[to.Tree] = m.Tree
		}
		out = append(out, to)
	}
	return out, trees
}
