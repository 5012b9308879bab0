// Package daemon is the engine's process: it opens the engine, serves the API on its listeners, launches what the TOML
// file asks for and, on SIGTERM, stops everything in order. As PID 1's engine it boots the machine first. The keeper
// starts it, and starts it again when it dies; each step may therefore run twice.
package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/configs"
	"github.com/coble-os/coble/init/boot"
	"github.com/coble-os/coble/layers/registry"
	"github.com/coble-os/coble/layers/repo"
	"github.com/coble-os/coble/netcfg"
	"github.com/coble-os/coble/netcfg/links"
	"github.com/coble-os/coble/rt/api"
	"github.com/coble-os/coble/rt/engine"
	"github.com/coble-os/coble/rt/execdriver"
	"github.com/coble-os/coble/rt/images"
	"github.com/coble-os/coble/rt/job"
	"github.com/coble-os/coble/rt/networkdriver"
	"github.com/coble-os/coble/rt/stdio"
)

// Options are the daemon's flags.
type Options struct {
	Root, Run   string   // absolute folders
	Hosts       []string // unix://path, tcp://host:port, fd://number
	Config      string   // TOML file; empty: none
	Driver      string
	InsecureTCP bool // serve tcp:// on other addresses than loopback, without TLS
	Init        bool // this is PID 1's engine
	Version     string
	Debug       bool
}

// DefaultHost is where the API is served unless told otherwise.
const DefaultHost = "unix:///run/coble/coble.sock"

// Run serves until SIGTERM or SIGINT has stopped everything.
func Run(o Options) error {
	// Small machines: give memory back early.
	debug.SetGCPercent(50)
	unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	os.WriteFile("/proc/self/comm", []byte("coble-engine"), 0)
	log := newLog(o)
	var conf configs.Config
	var problems []configs.Problem
	trace := boot.NewTrace()
	var own *links.Keeper
	if o.Init {
		o, conf, own, problems = bootMachine(o, log, trace)
	} else if o.Config != "" {
		var err error
		if conf, problems, err = configs.Load(o.Config); err != nil {
			return err
		}
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	options := engineOptions(o, conf, log, trace)
	if own != nil {
		options.Online, options.Links = own.Await, own.Status
		defer own.Close()
	}
	e, err := engine.Open(options)
	if err != nil {
		return err
	}
	defer e.Close()
	return serve(e, o, log, engine.LaunchIn{Config: conf, Problems: problems}, own, signals)
}

func newLog(o Options) *slog.Logger {
	level := slog.LevelInfo
	if o.Debug {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}

func engineOptions(o Options, conf configs.Config, log *slog.Logger, trace *boot.Trace) engine.Options {
	options := engine.Options{
		Root: o.Root, Run: o.Run, Driver: o.Driver, Pool: conf.Storage.Pool, Log: log, Version: o.Version, Init: o.Init, Trace: trace,
		Network:  networkdriver.Config{Subnet: conf.Network["default"].Subnet, MTU: conf.Network["default"].MTU, Proxy: conf.Network["default"].Proxy},
		Registry: registry.Config{Insecure: conf.Registry.Insecure, Mirrors: conf.Registry.Mirrors, Agent: "coble/" + o.Version},
		Logs:     stdio.Limits{MaxSize: int64(conf.Logs.MaxSize), MaxFiles: conf.Logs.MaxFiles},
	}
	options.Network.Follow(conf, o.Init)
	return options
}

// serve runs listeners and launcher until a signal comes, then the shutdown job.
func serve(e *engine.Engine, o Options, log *slog.Logger, launch engine.LaunchIn, own *links.Keeper, signals chan os.Signal) error {
	srv := api.New(e, log)
	for _, h := range o.Hosts {
		l, err := listen(e, h, o.InsecureTCP)
		if err != nil {
			return err
		}
		// serveapi is a job like any other: it ends with the engine.
		go job.Do(context.Background(), e.Jobs, "serveapi", func() error { return srv.Serve(l) }, h)
	}
	e.Ready()
	go giveBackWhenQuiet(e.Jobs.Count)
	if o.Init {
		go consoleShell(log)
		go powerButton(e, log)
	}
	go job.Do(context.Background(), e.Jobs, "launch", launch)
	go offerImages(e, launch.Config.Registry.Serve, log)
	for s := range signals {
		if s != unix.SIGHUP {
			break
		}
		reload(e, o, own, log)
	}
	log.Info("shutting down")
	return job.Do(context.Background(), e.Jobs, "shutdown", struct{}{})
}

// offerImages serves the machine's images, if the TOML file says so.
func offerImages(e *engine.Engine, conf configs.RegistryServe, log *slog.Logger) {
	if conf.Listen == "" {
		return
	}
	in := images.RegistryServeIn{Listen: conf.Listen, ReadOnly: conf.ReadOnly, AnyoneMayPush: conf.AnyoneMayPush}
	for _, f := range []struct {
		path string
		text *string
	}{{conf.TLSCert, &in.TLSCert}, {conf.TLSKey, &in.TLSKey}, {conf.Htpasswd, &in.Htpasswd}} {
		if f.path == "" {
			continue
		}
		b, err := os.ReadFile(f.path)
		if err == nil && len(b) == 0 {
			err = fmt.Errorf("%s is empty", f.path)
		}
		if err != nil {
			log.Error("serve registry", "err", err)
			return
		}
		*f.text = string(b)
	}
	if err := job.Do(context.Background(), e.Jobs, "registry-serve", in, in.Listen); err != nil {
		log.Error("serve registry", "err", err)
	}
}

// reload reads the TOML file again.
func reload(e *engine.Engine, o Options, own *links.Keeper, log *slog.Logger) {
	if o.Config == "" {
		return
	}
	conf, problems, err := configs.Load(o.Config)
	if err != nil {
		log.Error("reload", "err", err)
		return
	}
	if own != nil {
		own.Set(linkConfig(conf))
	}
	go job.Do(context.Background(), e.Jobs, "launch", engine.LaunchIn{Config: conf, Problems: problems})
}

// Clean takes away everything that a daemon with these folders ever made in the kernel: processes, cgroups, links,
// rules, block devices. What lies in the folders stays, but for the run folder.
func Clean(o Options) error {
	if pid, alive := Alive(o.Run); alive {
		return fmt.Errorf("clean up %s: its daemon still runs as process %d; stop it first: kill %d", o.Run, pid, pid)
	}
	name := engine.InstanceName(o.Root)
	bridge := networkdriver.BridgeName(name)
	if err := execdriver.SweepCgroups(name, func(string) bool { return false }); err != nil {
		return err
	}
	if err := netcfg.CleanUp(name, bridge); err != nil {
		return err
	}
	execdriver.UnmountShared(o.Run)
	if err := repo.CleanUp(o.Root); err != nil {
		return err
	}
	return os.RemoveAll(o.Run)
}

// Alive says whether a keeper runs in the run folder.
func Alive(run string) (pid int, alive bool) {
	b, err := os.ReadFile(filepath.Join(run, "keeper.pid"))
	if err != nil {
		return 0, false
	}
	if _, err := fmt.Sscanf(strings.TrimSpace(string(b)), "%d", &pid); err != nil || pid <= 1 {
		return 0, false
	}
	f, err := os.OpenFile(filepath.Join(run, "keeper.lock"), os.O_RDWR, 0)
	if err != nil {
		return pid, unix.Kill(pid, 0) == nil
	}
	defer f.Close()
	return pid, unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil
}
