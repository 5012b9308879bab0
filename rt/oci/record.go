package oci

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox"
	"github.com/coble-os/coble/sandbox/cgroup"
)

// record is what is kept of a container, in ROOT/ID/state.json.
type record struct {
	ID        string           `json:"id"`
	Bundle    string           `json:"bundle"`
	Rootfs    string           `json:"rootfs"`
	Created   time.Time        `json:"created"`
	UID       int              `json:"uid"` // of who made it
	Pid       int              `json:"pid"`
	StartTime uint64           `json:"startTime"`           // clock ticks since boot, as in proc_pid_stat(5)
	Cgroup    string           `json:"cgroup"`              // path below the root of each hierarchy
	Scope     string           `json:"scope,omitempty"`     // systemd unit that the cgroup is of
	RootMount uint64           `json:"rootMount,omitempty"` // what the root folder lay on, of a container with its mounts on the machine
	Waiting   *sandbox.Waiting `json:"waiting,omitempty"`   // of a container that is started later
	Spec      *specs.Spec      `json:"spec"`                // as it was when the container was made

	dir     string // of the state
	config  []byte // config.json as it was read, which is written rather than Spec
	nothing bool   // config.json has no process: see holdNothing
}

// Errors in runc's words, which its callers look for.
var (
	errNotExist   = errors.New("container does not exist")
	errExist      = errors.New("container with given ID already exists")
	errID         = errors.New("invalid container ID format")
	errNotRunning = errors.New("container not running")
	errNotPaused  = errors.New("container not paused")
	errStarted    = errors.New("cannot start an already running container")
	errStopped    = errors.New("cannot start a container that has stopped")
)

// checkID allows what can be a file's name everywhere: a letter or digit first, then those and _+.-.
func checkID(id string) error {
	if id == "" || id == "." || id == ".." || len(id) > 1024 {
		return errID
	}
	for _, r := range id {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '_', r == '+', r == '-', r == '.':
		default:
			return errID
		}
	}
	return nil
}

func (a *app) dir(id string) string { return filepath.Join(a.root, id) }

// load reads a record. A container whose creator has not got far enough to write one does not exist.
func (a *app) load(id string) (*record, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(filepath.Join(a.dir(id), "state.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("read state of %s: %w", id, err)
	}
	r := &record{dir: a.dir(id)}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("read state of %s: %w", id, err)
	}
	if r.Spec == nil || r.Spec.Linux == nil {
		return nil, fmt.Errorf("read state of %s: it is not whole", id)
	}
	r.nothing = holdNothing(r.Spec)
	return r, nil
}

// save writes a new container's record in one step, with its config.json as it stands. It is run-time state: nothing is
// synced.
func (a *app) save(r *record) error {
	short := *r
	short.Spec = nil
	b, err := json.Marshal(short)
	if err != nil {
		return fmt.Errorf("write state of %s: %w", r.ID, err)
	}
	b = append(bytes.TrimSuffix(b, []byte(`"spec":null}`)), `"spec":`...) // it is the last field
	b = append(append(b, r.config...), '}')
	return replaceFile(filepath.Join(a.dir(r.ID), "state.json"), b, 0o600)
}

// replaceFile writes a file under another name beside it and renames it.
func replaceFile(path string, b []byte, mode os.FileMode) error {
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	if err := os.WriteFile(tmp, b, mode); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return nil
}

// lock holds the folder of a container until this process ends or unlock is called.
func (a *app) lock(id string) (unlock func(), err error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	for {
		fd, err := unix.Open(a.dir(id), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err == unix.ENOENT {
			return nil, errNotExist
		}
		if err != nil {
			return nil, fmt.Errorf("open state of %s: %w", id, err)
		}
		unlock := func() { unix.Close(fd) }
		if err := flock(fd, unix.LOCK_EX); err != nil {
			unlock()
			return nil, fmt.Errorf("lock state of %s: %w", id, err)
		}
		if same(fd, a.dir(id)) {
			return unlock, nil
		}
		unlock() // it was removed, and perhaps made again, while we waited
	}
}

func flock(fd, how int) error {
	for {
		if err := unix.Flock(fd, how); err != unix.EINTR {
			return err
		}
	}
}

// busy tells whether somebody holds the lock of a folder.
func busy(dir string) bool {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return flock(fd, unix.LOCK_SH|unix.LOCK_NB) == unix.EWOULDBLOCK
}

// same tells whether a path still leads to an open folder.
func same(fd int, path string) bool {
	var x, y unix.Stat_t
	return unix.Fstat(fd, &x) == nil && unix.Stat(path, &y) == nil && x.Dev == y.Dev && x.Ino == y.Ino
}

// claim makes the folder of a new container and locks it. One that a killed creator left before its process could
// do anything is taken over.
func (a *app) claim(id string) (unlock func(), err error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(a.root, 0o711); err != nil {
		return nil, fmt.Errorf("make state folder: %w", err)
	}
	for range 100 {
		made := os.Mkdir(a.dir(id), 0o700)
		if made != nil && !errors.Is(made, fs.ErrExist) {
			return nil, fmt.Errorf("make state folder: %w", made)
		}
		fd, err := unix.Open(a.dir(id), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err == unix.ENOENT {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("open state of %s: %w", id, err)
		}
		unlock := func() { unix.Close(fd) }
		if flock(fd, unix.LOCK_EX|unix.LOCK_NB) != nil { // its creator is at work
			unlock()
			return nil, errExist
		}
		if _, err := os.Stat(filepath.Join(a.dir(id), "state.json")); err == nil {
			unlock()
			return nil, errExist
		}
		if same(fd, a.dir(id)) {
			return unlock, a.empty(id)
		}
		unlock()
	}
	return nil, errExist
}

// empty removes what a killed creator left in the folder.
func (a *app) empty(id string) error {
	entries, err := os.ReadDir(a.dir(id))
	for _, e := range entries {
		if err == nil {
			err = os.Remove(filepath.Join(a.dir(id), e.Name()))
		}
	}
	if err != nil {
		return fmt.Errorf("empty state folder: %w", err)
	}
	return nil
}

// status asks the kernel. A container without a process is being created as long as somebody holds its lock.
func (r *record) status() specs.ContainerState {
	s := sandbox.Status(r.Pid, r.StartTime)
	switch {
	case r.Pid == 0 && busy(r.dir):
		return specs.StateCreating
	case s == specs.StateCreated && r.Waiting == nil:
		return specs.StateCreating
	case s == specs.StateRunning && r.frozen():
		return statusPaused
	}
	return s
}

// statusPaused is a state of runc's that the spec does not have.
const statusPaused specs.ContainerState = "paused"

func (r *record) frozen() bool {
	g, err := r.group()
	if err != nil {
		return false
	}
	frozen, err := g.Frozen()
	return err == nil && frozen
}

func (r *record) group() (*cgroup.Group, error) {
	if r.Cgroup == "" {
		return nil, fmt.Errorf("container %s has no cgroup", r.ID)
	}
	return cgroup.Open(r.Cgroup)
}

// state is the record as the spec's state.
func (r *record) state() specs.State {
	s := specs.State{Version: specs.Version, ID: r.ID, Status: r.status(), Bundle: r.Bundle, Annotations: r.Spec.Annotations}
	if s.Status != specs.StateStopped {
		s.Pid = r.Pid
	}
	return s
}
