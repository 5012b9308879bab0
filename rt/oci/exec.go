package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/pflag"

	"github.com/coble-os/coble/sandbox"
)

// execStatus is the exit status of an exec that could not be made.
const execStatus = 255

// execFlags are those of exec.
type execFlags struct {
	consoleSocket, pidFile, file     string
	cwd, user, label, profile, group string
	env, caps                        []string
	gids                             []int
	tty, detach, nnp, ignorePaused   bool
	preserve                         int
	changed                          func(name string) bool
}

func setupExec(a *app, f *pflag.FlagSet) func(context.Context, []string) error {
	x := &execFlags{changed: f.Changed}
	f.StringVar(&x.consoleSocket, "console-socket", "", "unix socket that the master of the terminal is sent to")
	f.StringVar(&x.pidFile, "pid-file", "", "file to write the process's number to")
	f.StringVarP(&x.file, "process", "p", "", "file with the process as JSON (the spec's process)")
	f.StringVar(&x.cwd, "cwd", "", "working directory in the container")
	f.StringVarP(&x.user, "user", "u", "", "user as UID[:GID]")
	f.StringArrayVarP(&x.env, "env", "e", nil, "environment variables, as NAME=VALUE")
	f.StringArrayVarP(&x.caps, "cap", "c", nil, "capabilities to add")
	f.IntSliceVarP(&x.gids, "additional-gids", "g", nil, "additional groups")
	f.BoolVarP(&x.tty, "tty", "t", false, "give it a terminal")
	f.BoolVarP(&x.detach, "detach", "d", false, "do not wait for its end")
	f.BoolVar(&x.nnp, "no-new-privs", false, "set no_new_privs")
	f.BoolVar(&x.ignorePaused, "ignore-paused", false, "refused: a paused container cannot be entered")
	f.StringVar(&x.label, "process-label", "", "SELinux label of the process")
	f.StringVar(&x.profile, "apparmor", "", "AppArmor profile of the process")
	f.StringVar(&x.group, "cgroup", "", "not supported")
	f.IntVar(&x.preserve, "preserve-fds", 0, "pass on so many descriptors after 0, 1, 2 and those of LISTEN_FDS")
	return func(ctx context.Context, args []string) error {
		status, err := a.exec(ctx, x, args)
		if err != nil {
			return &exitError{execStatus, fmt.Errorf("exec failed: %w", err)}
		}
		if status != 0 {
			return &exitError{status: status}
		}
		return nil
	}
}

func (a *app) exec(ctx context.Context, x *execFlags, args []string) (int, error) {
	r, err := a.load(args[0])
	if err != nil {
		return 0, err
	}
	if err := r.enterable(x); err != nil {
		return 0, err
	}
	proc, err := x.process(r.Spec.Process, args[1:])
	if err != nil {
		return 0, err
	}
	if x.consoleSocket != "" || proc.Terminal {
		if err := checkConsole(proc.Terminal, x.detach, x.consoleSocket); err != nil {
			return 0, err
		}
	}
	freeze, err := r.neighbours()
	if err != nil {
		return 0, err
	}
	c := sandbox.ExecConfig{
		HostMounts: sandbox.HostMounts(r.Spec),
		CgroupPath: r.Cgroup, Freeze: freeze, State: r.state(), Process: proc, Seccomp: r.Spec.Linux.Seccomp, Stdin: a.in, Stdout: a.out, Stderr: a.err,
	}
	if c.Preserve, err = listenFDs(x.preserve, proc); err != nil {
		return 0, err
	}
	if c.Target, err = sandbox.Adopt(r.Pid, r.StartTime); err != nil {
		return 0, errNotRunning
	}
	defer c.Target.Close()
	return a.execIn(ctx, x, r, c)
}

// execIn starts the process and hands it over, or stands in for it.
func (a *app) execIn(ctx context.Context, x *execFlags, r *record, c sandbox.ExecConfig) (int, error) {
	var console *consoleSocket
	var err error
	if x.consoleSocket != "" {
		if console, err = dialConsole(x.consoleSocket); err != nil {
			return 0, err
		}
	}
	var signals *forwarder
	if !x.detach {
		signals = forward()
		ownSize(c.Process)
	}
	p, err := sandbox.Exec(ctx, c)
	if err != nil {
		return 0, fmt.Errorf("unable to start container process: %w", err)
	}
	if console != nil {
		err = console.send(p.Console)
	}
	if err == nil && x.pidFile != "" {
		err = replaceFile(x.pidFile, []byte(strconv.Itoa(p.Pid)), 0o666)
	}
	if err != nil {
		kill(p)
		_, werr := p.Reap()
		return 0, errors.Join(err, werr)
	}
	if x.detach {
		return 0, nil
	}
	return a.attend(p, signals, r.Spec)
}

// enterable refuses containers that nothing can be started in. A container that waits for its start is among them: its
// process still has this program as its executable, which nobody inside may see.
func (r *record) enterable(x *execFlags) error {
	switch s := r.status(); {
	case s == specs.StateStopped:
		return errors.New("cannot exec in a stopped container")
	case s == statusPaused && x.ignorePaused:
		return errors.New("cannot exec in a paused container: --ignore-paused is not supported")
	case s == statusPaused:
		return errors.New("cannot exec in a paused container (use --ignore-paused to override)")
	case s != specs.StateRunning:
		return fmt.Errorf("cannot exec in a container in the %s state", s)
	case x.group != "":
		return errors.New("--cgroup is not supported")
	}
	return nil
}

// process is the one in the file, or the container's own with the changes that flags make.
func (x *execFlags) process(base *specs.Process, args []string) (*specs.Process, error) {
	if x.file != "" {
		return readProcess(x.file)
	}
	if len(args) == 0 {
		return nil, errors.New("process args cannot be empty")
	}
	p := *base
	p.Args, p.Terminal, p.ConsoleSize = args, x.tty, nil
	p.Env = slices.Concat(base.Env, x.env)
	if x.cwd != "" {
		p.Cwd = x.cwd
	}
	if x.changed("no-new-privs") {
		p.NoNewPrivileges = x.nnp
	}
	if x.label != "" {
		p.SelinuxLabel = x.label
	}
	if x.profile != "" {
		p.ApparmorProfile = x.profile
	}
	p.Capabilities = withCaps(base.Capabilities, x.caps)
	for _, g := range x.gids {
		if g < 0 {
			return nil, fmt.Errorf("additional-gids must be positive: %d", g)
		}
		p.User.AdditionalGids = append(slices.Clip(p.User.AdditionalGids), uint32(g))
	}
	return &p, x.setUser(&p)
}

func (x *execFlags) setUser(p *specs.Process) error {
	if x.user == "" {
		return nil
	}
	uid, gid, both := strings.Cut(x.user, ":")
	n, err := strconv.ParseUint(uid, 10, 32)
	if err != nil {
		return fmt.Errorf("parsing %s as int for uid failed: %w", uid, err)
	}
	p.User.UID = uint32(n)
	if !both {
		return nil
	}
	if n, err = strconv.ParseUint(gid, 10, 32); err != nil {
		return fmt.Errorf("parsing %s as int for gid failed: %w", gid, err)
	}
	p.User.GID = uint32(n)
	return nil
}

// withCaps adds capabilities to the sets that make the process have them, and to the ambient set where the container's
// own process has one.
func withCaps(base *specs.LinuxCapabilities, add []string) *specs.LinuxCapabilities {
	if len(add) == 0 || base == nil {
		return base
	}
	c := *base
	for _, set := range []*[]string{&c.Bounding, &c.Effective, &c.Permitted} {
		*set = slices.Concat(*set, add)
	}
	if len(base.Ambient) > 0 {
		c.Inheritable, c.Ambient = slices.Concat(c.Inheritable, add), slices.Concat(c.Ambient, add)
	}
	return &c
}

func readProcess(path string) (*specs.Process, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	p := &specs.Process{}
	if err := json.Unmarshal(b, p); err != nil {
		return nil, fmt.Errorf("parse %s: %w", path, err)
	}
	if len(p.Args) == 0 {
		return nil, errors.New("process args cannot be empty")
	}
	if p.Cwd == "" {
		//lint:ignore ST1005 these are runc's words
		return nil, errors.New("Cwd property must not be empty")
	}
	return p, nil
}
