package daemon

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/pflag"

	"github.com/coble-os/coble/configs"
	"github.com/coble-os/coble/init/keeper"
	"github.com/coble-os/coble/rt/engine"
)

// DefaultRun is where the state of this boot lies unless told otherwise.
const DefaultRun = "/run/coble"

// flags declares what `coble daemon` and its engine take.
func flags(o *Options) *pflag.FlagSet {
	f := pflag.NewFlagSet("daemon", pflag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&o.Root, "root", engine.DefaultRoot, "folder for images, containers and the store")
	f.StringVar(&o.Run, "run", DefaultRun, "folder for the state of this boot")
	f.StringArrayVarP(&o.Hosts, "host", "H", []string{DefaultHost}, "where to serve the API: unix://path, tcp://host:port, fd://number; may repeat")
	f.StringVar(&o.Config, "config", "", "TOML file with images and containers to start")
	f.StringVar(&o.Driver, "graph-driver", "", "overlay, btrfs, devmapper or vfs (default: the best that works)")
	f.BoolVar(&o.InsecureTCP, "insecure-tcp", false, "serve tcp:// on any address without TLS: whoever reaches it owns the machine")
	f.BoolVar(&o.Debug, "debug", false, "say more")
	return f
}

// parse reads flags and makes the folders absolute.
func parse(o *Options, f *pflag.FlagSet, args []string) error {
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q: see `coble daemon --help`", f.Arg(0))
	}
	var err1, err2 error
	o.Root, err1 = filepath.Abs(o.Root)
	o.Run, err2 = filepath.Abs(o.Run)
	return errors.Join(err1, err2)
}

// Main is `coble daemon`: the keeper, which starts the engine. The status is the process's, meaningful without an error.
func Main(version string, args []string) (int, error) {
	o := Options{Version: version}
	f := flags(&o)
	clean := f.Bool("clean", false, "take away what a stopped daemon with these folders left in the kernel: processes, cgroups, links, rules, block devices")
	err := parse(&o, f, args)
	if errors.Is(err, pflag.ErrHelp) {
		fmt.Printf("Usage: coble daemon [flags]\n\nRun the engine: a keeper that never dies, and the engine that it starts again if that does.\n\n%s", f.FlagUsages())
		return 0, nil
	}
	if err != nil {
		return 1, err
	}
	if *clean {
		return 0, Clean(o)
	}
	if os.Getuid() != 0 {
		return 1, errors.New("the daemon needs root")
	}
	if pid, alive := Alive(o.Run); alive {
		return 1, fmt.Errorf("a daemon runs in %s already, as process %d", o.Run, pid)
	}
	if err := os.MkdirAll(o.Run, 0o711); err != nil {
		return 1, err
	}
	engineArgs := []string{"/proc/self/exe", "engine", "--root", o.Root, "--run", o.Run, "--config", o.Config, "--graph-driver", o.Driver}
	for _, h := range o.Hosts {
		engineArgs = append(engineArgs, "--host", h)
	}
	for flag, on := range map[string]bool{"--insecure-tcp": o.InsecureTCP, "--debug": o.Debug} {
		if on {
			engineArgs = append(engineArgs, flag)
		}
	}
	go giveBackWhenQuiet(func() uint64 { return 0 })
	return keeper.Run(keeper.Config{RunDir: o.Run, Engine: engineArgs}), nil
}

// Init is PID 1: the keeper with the machine's engine.
func Init(version string) int {
	go giveBackWhenQuiet(func() uint64 { return 0 })
	return keeper.Run(keeper.Config{RunDir: DefaultRun, Init: true, Engine: []string{"/proc/self/exe", "engine", "--init", "--config", configs.DefaultPath}})
}

// EngineMain is the engine's process.
func EngineMain(version string, args []string) error {
	o := Options{Version: version}
	f := flags(&o)
	f.BoolVar(&o.Init, "init", false, "boot the machine first")
	if err := parse(&o, f, args); err != nil {
		return err
	}
	return Run(o)
}

// Check is `coble check FILE`.
func Check(w io.Writer, args []string) error {
	if len(args) != 1 {
		return errors.New("want one file: coble check FILE")
	}
	_, problems, err := configs.Load(args[0])
	if err != nil {
		return err
	}
	for _, p := range problems {
		fmt.Fprintln(w, p.Error())
	}
	if len(problems) > 0 {
		return fmt.Errorf("%s has %d problem(s)", args[0], len(problems))
	}
	fmt.Fprintln(w, args[0], "is good")
	return nil
}
