// Package oci is `coble runc`: the command line of runc over sandbox, for podman, containerd, Docker and Kubernetes.
// Flags, exit codes, output and the errors that those parse are those of runc 1.1 and later.
//
// It is a process for each command and no daemon. What one must tell the next is in ROOT/ID/state.json ([record]),
// which is written to another name and renamed, so that readers need no lock; who changes a container holds a lock on
// its folder, which ends with the process. Whether a container runs is never written down: its process says so (pid and
// start time, and whether it has passed an execve). A killed command leaves a container that `delete` removes.
//
// The package imports sandbox, and nothing else of coble.
package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
)

// DefaultRoot is where the state of containers is unless --root says otherwise.
const DefaultRoot = "/run/coble/runc"

// app is one command.
type app struct {
	version       string
	root          string
	systemdCgroup bool
	log           *logger
	in, out, err  *os.File
}

// exitError ends the command with a status and, if there is one, a message.
type exitError struct {
	status int
	err    error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// command is one verb.
type command struct {
	name, usage, help string
	least, most       int // arguments; most < 0 is no limit
	// setup declares flags and returns what runs after they were parsed.
	setup func(a *app, f *pflag.FlagSet) func(ctx context.Context, args []string) error
}

// Main runs `runc ARGS…` and returns the exit status.
func Main(version string, args []string) int {
	if os.Geteuid() == 0 { // for others their own files in /proc would then be root's
		// What is forked off here must not be opened by others meanwhile. It fails for no valid argument.
		_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	}
	debug.SetGCPercent(400) // most commands end before they have any garbage to speak of
	a := &app{version: version, in: os.Stdin, out: os.Stdout, err: os.Stderr, log: &logger{out: os.Stderr}}
	err := a.run(args)
	if err == nil {
		return 0
	}
	status := 1
	var exit *exitError
	if errors.As(err, &exit) {
		status = exit.status
	}
	if text := err.Error(); text != "" {
		a.log.fatal(text)
	}
	return status
}

func (a *app) run(args []string) error {
	g := pflag.NewFlagSet("runc", pflag.ContinueOnError)
	g.SetOutput(io.Discard)
	g.SetInterspersed(false)
	debug := g.Bool("debug", false, "enable debug logging")
	logFile := g.String("log", "", "file to write logs to (default: standard error)")
	logFormat := g.String("log-format", "text", "format of logs: text or json")
	g.StringVar(&a.root, "root", DefaultRoot, "folder for the state of containers, which should be a tmpfs")
	g.BoolVar(&a.systemdCgroup, "systemd-cgroup", false, "make cgroups through systemd: cgroupsPath is slice:prefix:name")
	g.String("criu", "", "ignored")
	g.String("rootless", "auto", "ignored")
	version := g.BoolP("version", "v", false, "print the version")
	err := g.Parse(args)
	if errors.Is(err, pflag.ErrHelp) || err == nil && !*version && (g.NArg() == 0 || g.Arg(0) == "help" || g.Arg(0) == "h") {
		a.help(g)
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: see runc --help", err)
	}
	if *version {
		fmt.Fprintf(a.out, "runc version %s (coble)\nspec: %s\n", a.version, specs.Version)
		return nil
	}
	if a.log, err = newLogger(*logFile, *logFormat, *debug); err != nil {
		return err
	}
	return a.dispatch(g.Args())
}

func (a *app) dispatch(args []string) error {
	c := find(args[0])
	if c == nil {
		return fmt.Errorf("no such command %q: see runc --help", args[0])
	}
	f := pflag.NewFlagSet(c.name, pflag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.SetInterspersed(c.name != "exec" && c.name != "ps")
	run := c.setup(a, f)
	err := f.Parse(args[1:])
	if errors.Is(err, pflag.ErrHelp) {
		fmt.Fprintf(a.out, "Usage: runc %s %s\n\n%s\n\n%s", c.name, c.usage, c.help, f.FlagUsages())
		return nil
	}
	if err != nil {
		return fmt.Errorf("runc %s: %w", c.name, err)
	}
	a.log.debugf("%s %q in %s", c.name, f.Args(), a.root)
	if err := c.count(f.NArg()); err != nil {
		return err
	}
	return run(context.Background(), f.Args())
}

// count checks the number of arguments, in runc's words.
func (c *command) count(n int) error {
	switch {
	case c.least == c.most && n != c.least:
		return fmt.Errorf("runc: %q requires exactly %d argument(s)", c.name, c.least)
	case n < c.least:
		return fmt.Errorf("runc: %q requires a minimum of %d argument(s)", c.name, c.least)
	case c.most >= 0 && n > c.most:
		return fmt.Errorf("runc: %q requires a maximum of %d argument(s)", c.name, c.most)
	}
	return nil
}

func find(name string) *command {
	for _, c := range commands() {
		if c.name == name {
			return &c
		}
	}
	return nil
}

func (a *app) help(g *pflag.FlagSet) {
	fmt.Fprint(a.out, "coble runc: run containers from OCI bundles\n\nUsage: runc [global flags] COMMAND [flags] [arguments]\n\n")
	for _, c := range commands() {
		fmt.Fprintf(a.out, "  %-10s %s\n", c.name, c.help)
	}
	fmt.Fprintf(a.out, "\nGlobal flags:\n%s\nEach command explains itself: runc COMMAND --help\n", g.FlagUsages())
}

func commands() []command {
	return []command{
		{"create", "[flags] ID", "make a container, without starting its program", 1, 1, setupCreate},
		{"run", "[flags] ID", "make a container and start its program", 1, 1, setupRun},
		{"start", "ID", "start the program of a container that was made", 1, 1, setupStart},
		{"exec", "[flags] ID COMMAND [ARG…] | -p process.json ID", "run another program in a container", 1, -1, setupExec},
		{"state", "ID", "print the state of a container", 1, 1, setupState},
		{"list", "[flags]", "list containers", 0, 0, setupList},
		{"ps", "[flags] ID [ps options]", "list the processes of a container", 1, -1, setupPs},
		{"kill", "[flags] ID [SIGNAL]", "send a signal (default: TERM) to a container's first process", 1, 2, setupKill},
		{"delete", "[flags] ID", "remove a container that has stopped", 1, 1, setupDelete},
		{"pause", "ID", "make all processes of a container stand still", 1, 1, setupPause},
		{"resume", "ID", "let them go on", 1, 1, setupResume},
		{"update", "[flags] ID", "change the limits of a container", 1, 1, setupUpdate},
		{"events", "[flags] ID", "print what a container uses, and when memory runs out", 1, 1, setupEvents},
		{"spec", "[flags]", "write an example of a config.json", 0, 0, setupSpec},
		{"features", "", "print what this runtime can do, as JSON", 0, 0, setupFeatures},
		{"checkpoint", "", "not supported", 0, -1, setupCheckpoint},
		{"restore", "", "not supported", 0, -1, setupCheckpoint},
	}
}

func setupCheckpoint(*app, *pflag.FlagSet) func(context.Context, []string) error {
	return func(context.Context, []string) error {
		return errors.New("checkpoint and restore are not supported: coble cannot write the memory of processes to disk")
	}
}
