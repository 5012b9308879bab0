package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/coble-os/coble/configs"
	"github.com/coble-os/coble/init/boot"
	"github.com/coble-os/coble/netcfg/links"
)

// diskWait bounds how long a data disk may take to appear.
const diskWait = 15 * time.Second

// bootMachine is the boot between the keeper's first mounts and the engine: what goes wrong in a step is on the console
// and in `coble status`, and the boot goes on.
func bootMachine(o Options, log *slog.Logger, trace *boot.Trace) (Options, configs.Config, *links.Keeper, []configs.Problem) {
	var problems []configs.Problem
	step := func(name string, f func() error) bool {
		err := trace.Span(name, f)
		if err != nil {
			log.Error(name, "err", err)
			problems = append(problems, configs.Problem{File: "boot", Text: name + ": " + err.Error()})
		}
		return err == nil
	}
	conf, found := readConfig(o.Config)
	problems = append(problems, found...)
	handOff(trace)
	step("modules", func() error {
		missing, err := boot.LoadModules(slices.Concat(boot.DefaultModules(), []string{conf.Storage.FSType}, poolModules(conf.Storage), links.Modules(linkConfig(conf)), conf.Boot.Modules))
		for _, m := range missing {
			for _, wanted := range conf.Boot.Modules {
				if m == wanted {
					return fmt.Errorf("the kernel has no module %s", m)
				}
			}
		}
		return err
	})
	step("host name", func() error { return hostNames(conf) })
	step("loopback", boot.Loopback)
	var k *links.Keeper
	step("links", func() (err error) { k, err = keepLinks(o, conf, log, trace); return err })
	if conf.Storage.Device != "" {
		if !step("storage", func() error { return mountStorage(conf.Storage) }) {
			problems = append(problems, configs.Problem{File: "boot", Text: "nothing that is written now will survive a power cut"})
		}
		o.Root = filepath.Join(conf.Storage.Path, "coble")
	}
	return o, conf, k, problems
}

// readConfig takes the file from the kernel command line's coble.config= or the usual place. A machine without one
// still boots, to a console and an empty engine.
func readConfig(path string) (configs.Config, []configs.Problem) {
	cmdline, _ := os.ReadFile("/proc/cmdline")
	if p, ok := boot.Param(string(cmdline), "coble.config"); ok && p != "" {
		path = p
	}
	conf, problems, err := configs.Load(path)
	if err != nil {
		conf, _ = configs.Parse(path, nil)
		problems = append(problems, configs.Problem{File: path, Text: err.Error()})
	}
	return conf, problems
}

func hostName(conf configs.Config) string {
	if conf.Hostname == "" {
		return "coble"
	}
	return conf.Hostname
}

func hostNames(conf configs.Config) error {
	name := hostName(conf)
	if err := boot.Hostname(name); err != nil {
		return err
	}
	return boot.NameFiles("", name)
}

// poolModules are what a thin pool needs.
func poolModules(s configs.Storage) []string {
	if s.Pool == "" {
		return nil
	}
	return []string{"dm_thin_pool"}
}

func mountStorage(s configs.Storage) error {
	ctx, cancel := context.WithTimeout(context.Background(), diskWait)
	defer cancel()
	device, err := boot.FindDisk(ctx, s.Device)
	if err != nil {
		return err
	}
	return boot.MountData(device, s.Path, s.FSType, "noatime")
}
