package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/pflag"

	"github.com/coble-os/coble/sandbox"
	"github.com/coble-os/coble/sandbox/spawn"
)

// launch is what create and run have in common.
type launch struct {
	*app
	bundle, consoleSocket, pidFile string
	noKeyring, detach, keep        bool
	waits                          bool   // the process waits for a later start
	home                           string // folder that this command was started in
	preserve                       int

	rec     *record
	config  sandbox.Config
	console *consoleSocket
	scope   *scope
}

func (l *launch) flags(f *pflag.FlagSet) {
	f.StringVarP(&l.bundle, "bundle", "b", "", "the bundle's folder (default: the current one)")
	f.StringVar(&l.consoleSocket, "console-socket", "", "unix socket that the master of the terminal is sent to")
	f.StringVar(&l.pidFile, "pid-file", "", "file to write the process's number to")
	f.Bool("no-pivot", false, "accepted: roots on a ramdisk need no help here")
	f.BoolVar(&l.noKeyring, "no-new-keyring", false, "inherit the caller's session keyring")
	f.IntVar(&l.preserve, "preserve-fds", 0, "pass on so many descriptors after 0, 1, 2 and those of LISTEN_FDS")
}

func setupCreate(a *app, f *pflag.FlagSet) func(context.Context, []string) error {
	l := &launch{app: a, detach: true, waits: true}
	l.flags(f)
	return func(ctx context.Context, args []string) error {
		if err := l.create(ctx, args[0]); err != nil {
			return fmt.Errorf("runc create failed: %w", err)
		}
		return nil
	}
}

func setupRun(a *app, f *pflag.FlagSet) func(context.Context, []string) error {
	l := &launch{app: a}
	l.flags(f)
	f.BoolVarP(&l.detach, "detach", "d", false, "do not wait for the container's end")
	f.BoolVar(&l.keep, "keep", false, "do not delete the container when it has ended")
	f.Bool("no-subreaper", false, "accepted: orphans are never this process's")
	return func(ctx context.Context, args []string) error {
		status, err := l.run(ctx, args[0])
		if err != nil {
			return fmt.Errorf("runc run failed: %w", err)
		}
		if status != 0 {
			return &exitError{status: status}
		}
		return nil
	}
}

// create makes a container that waits for its start.
func (l *launch) create(ctx context.Context, id string) error {
	unlock, err := l.prepare(id)
	if err != nil {
		return err
	}
	defer unlock()
	p, err := sandbox.Create(ctx, l.config, sandbox.Gate{Dir: l.dir(id), Ready: func(w sandbox.Waiting) error {
		l.rec.Waiting = &w
		return l.save(l.rec)
	}})
	if err != nil {
		return l.failed(err)
	}
	return l.settle(p)
}

// run makes and starts a container. Unless it is left alone, it waits for its end and deletes it.
func (l *launch) run(ctx context.Context, id string) (int, error) {
	unlock, err := l.prepare(id)
	if err != nil {
		return 0, err
	}
	var signals *forwarder
	if !l.detach {
		signals = forward()
		ownSize(l.rec.Spec.Process)
	}
	p, err := sandbox.Start(ctx, l.config)
	if err != nil {
		defer unlock()
		return 0, l.failed(err)
	}
	if err := l.settle(p); err != nil {
		defer unlock()
		return 0, err
	}
	unlock()
	if l.detach {
		return 0, nil
	}
	status, err := l.attend(p, signals, l.rec.Spec)
	if l.keep {
		return status, err
	}
	if unlock, err = l.lock(id); errors.Is(err, errNotExist) {
		return status, nil // somebody else has deleted it
	} else if err != nil {
		return status, err
	}
	defer unlock()
	return status, l.destroy(l.rec)
}

// prepare claims the container's folder and fills in what sandbox needs. It changes nothing else.
func (l *launch) prepare(id string) (unlock func(), err error) {
	spec, config, err := l.readBundle()
	if err != nil {
		return nil, err
	}
	if err := l.checkConsole(spec); err != nil {
		return nil, err
	}
	if l.config.Freeze, err = joinPidNamespace(spec); err != nil {
		return nil, err
	}
	if l.waits && l.config.Freeze != nil {
		if err := sealed(l.home); err != nil {
			return nil, err
		}
	}
	if unlock, err = l.claim(id); err != nil {
		return nil, err
	}
	if err = l.fill(id, spec, config); err != nil {
		err = errors.Join(err, l.scope.stop(), os.RemoveAll(l.dir(id)))
		unlock()
		return nil, err
	}
	return unlock, nil
}

// readBundle goes to the bundle, as runc does, and reads its config.json.
func (l *launch) readBundle() (*specs.Spec, []byte, error) {
	var err error
	if l.home, err = os.Getwd(); err != nil {
		return nil, nil, err
	}
	if l.bundle != "" {
		if err := os.Chdir(l.bundle); err != nil {
			return nil, nil, err
		}
	}
	dir, err := os.Getwd()
	if err != nil {
		return nil, nil, err
	}
	l.bundle = dir
	b, err := os.ReadFile("config.json")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, errors.New("JSON specification file config.json not found")
	}
	if err != nil {
		return nil, nil, err
	}
	spec := &specs.Spec{}
	if err := json.Unmarshal(b, spec); err != nil {
		return nil, nil, fmt.Errorf("parse config.json: %w", err)
	}
	if spec.Process == nil && !l.waits {
		return nil, nil, errors.New("process property must not be empty")
	}
	if spec.Linux == nil || spec.Root == nil {
		return nil, nil, errors.New("config.json: root and linux are needed")
	}
	holdNothing(spec)
	return spec, b, nil
}

// holdNothing gives a container without a process one that waits for a start and does nothing: the process is needed when
// start is called, not before (OCI runtime spec, config.md, "Process").
func holdNothing(spec *specs.Spec) (nothing bool) {
	if spec.Process != nil {
		return false
	}
	spec.Process = &specs.Process{Cwd: "/", Args: []string{"/"}, NoNewPrivileges: true}
	return true
}

// checkConsole refuses terminals that nobody would hold.
func (l *launch) checkConsole(spec *specs.Spec) error {
	return checkConsole(spec.Process.Terminal, l.detach, l.consoleSocket)
}

func checkConsole(terminal, detach bool, socket string) error {
	switch {
	case terminal && detach && socket == "":
		return errors.New("cannot allocate tty if runc will detach without setting console socket")
	case socket != "" && !(terminal && detach):
		return errors.New("cannot use console socket if runc will not detach or allocate tty")
	}
	return nil
}

// fill makes the record and sandbox's configuration.
func (l *launch) fill(id string, spec *specs.Spec, config []byte) error {
	root := spec.Root.Path
	if !filepath.IsAbs(root) {
		root = filepath.Join(l.bundle, root)
	}
	l.rec = &record{
		ID: id, Bundle: l.bundle, Rootfs: root, Created: time.Now().UTC(), UID: os.Getuid(), Spec: spec, config: config,
	}
	if sandbox.HostMounts(spec) {
		var err error
		if l.rec.RootMount, err = sandbox.RootMount(root); err != nil {
			return err
		}
	}
	preserve, err := listenFDs(l.preserve, spec.Process)
	if err != nil {
		return err
	}
	if l.consoleSocket != "" {
		if l.console, err = dialConsole(l.consoleSocket); err != nil {
			return err
		}
	}
	l.config = sandbox.Config{
		ID: id, Spec: spec, Bundle: l.bundle, Stdin: l.in, Stdout: l.out, Stderr: l.err, Freeze: l.config.Freeze,
		Preserve: preserve, KeepKeyring: l.noKeyring, Created: l.created,
	}
	if err := l.placeGroup(id); err != nil {
		return err
	}
	return l.save(l.rec) // before there is a cgroup: who removes what a killed creator left must know of it
}

// placeGroup decides about the cgroup, and makes the unit of one that systemd holds.
func (l *launch) placeGroup(id string) error {
	if !l.systemdCgroup {
		l.rec.Cgroup = groupPath(l.rec.Spec.Linux.CgroupsPath, id)
		l.config.CgroupPath = l.rec.Cgroup
		return nil
	}
	var err error
	if l.scope, err = startScope(l.rec.Spec, id); err != nil {
		return err
	}
	l.rec.Cgroup, l.rec.Scope = l.scope.path, l.scope.unit
	l.config.CgroupPath, l.config.Delegated = l.scope.path, l.scope.holder()
	return nil
}

// groupPath is the cgroup of a container without systemd: what the spec says, from the root of the hierarchies.
func groupPath(path, id string) string {
	if path == "" {
		path = id
	}
	return filepath.Clean("/" + path)
}

// created adds the process to the record, while it waits before anything is mounted.
func (l *launch) created(pid int) error {
	st, err := spawn.ReadStat(pid)
	if err != nil {
		return err
	}
	l.rec.Pid, l.rec.StartTime = pid, st.StartTime
	if err := l.scope.join(pid); err != nil {
		return err
	}
	return l.save(l.rec)
}

// settle hands over what a container's creator wants: the terminal and the process's number.
func (l *launch) settle(p *sandbox.Process) error {
	err := l.scope.letGo()
	if err == nil && l.console != nil {
		err = l.console.send(p.Console)
	}
	if err == nil && l.pidFile != "" {
		err = replaceFile(l.pidFile, []byte(strconv.Itoa(p.Pid)), 0o666)
	}
	if err == nil {
		return nil
	}
	kill(p)
	_, werr := p.Reap()
	return errors.Join(err, werr, l.destroy(l.rec))
}

// failed cleans up after a start of which sandbox has left nothing.
func (l *launch) failed(err error) error {
	return errors.Join(fmt.Errorf("unable to start container process: %w", err), l.scope.stop(), os.RemoveAll(l.dir(l.rec.ID)))
}

func setupStart(a *app, _ *pflag.FlagSet) func(context.Context, []string) error {
	return func(ctx context.Context, args []string) error {
		unlock, err := a.lock(args[0])
		if err != nil {
			return err
		}
		defer unlock()
		r, err := a.load(args[0])
		if err != nil {
			return err
		}
		switch s := r.status(); s {
		case specs.StateCreated:
			if r.nothing {
				return a.startNothing(ctx, r)
			}
			return a.start(ctx, r)
		case specs.StateStopped:
			return errStopped
		case specs.StateCreating:
			return fmt.Errorf("cannot start a container in the %s state", s)
		default:
			return errStarted
		}
	}
}

// startNothing ends a container without a process. That is said as an error, and is none of the command's, as in crun: the
// container has started, and stopped for want of anything to run.
func (a *app) startNothing(ctx context.Context, r *record) error {
	a.log.line("error", "process property must not be empty: the container has nothing to run, and stops")
	return a.end(ctx, r)
}

// start lets a container that waits run, and runs its poststart hooks. One whose hook fails is killed.
func (a *app) start(ctx context.Context, r *record) error {
	err := sandbox.StartCreated(ctx, a.dir(r.ID), *r.Waiting)
	if errors.Is(err, sandbox.ErrStarted) {
		return errStarted
	}
	if err != nil {
		return fmt.Errorf("unable to start container process: %w", err)
	}
	if r.Spec.Hooks == nil {
		return nil
	}
	if err := sandbox.RunHooks(ctx, "poststart", r.Spec.Hooks.Poststart, r.state()); err != nil {
		return errors.Join(err, a.end(ctx, r))
	}
	return nil
}
