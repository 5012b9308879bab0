package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coble-os/coble/configs"
	"github.com/coble-os/coble/init/boot"
	"github.com/coble-os/coble/rt/engine"
)

// diskWait bounds how long a data disk or a link may take to appear.
const diskWait = 15 * time.Second

// bootMachine is the boot between the keeper's first mounts and the engine: what goes wrong in a step is on the console
// and in `coble status`, and the boot goes on.
func bootMachine(o Options, log *slog.Logger, trace *engine.BootTrace) (Options, configs.Config, []configs.Problem) {
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
		missing, err := boot.LoadModules(slices.Concat(boot.DefaultModules(), []string{conf.Storage.FSType}, poolModules(conf.Storage), conf.Boot.Modules))
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
	for name, u := range conf.Uplink {
		// A network that is slow to come holds up nobody.
		go func() {
			if err := trace.Span("link "+name, func() error { return bringUp(name, u, log) }); err != nil {
				log.Error("link", "name", name, "err", err)
			}
		}()
	}
	if conf.Storage.Device != "" {
		if !step("storage", func() error { return mountStorage(conf.Storage) }) {
			problems = append(problems, configs.Problem{File: "boot", Text: "nothing that is written now will survive a power cut"})
		}
		o.Root = filepath.Join(conf.Storage.Path, "coble")
	}
	return o, conf, problems
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

func hostNames(conf configs.Config) error {
	name := conf.Hostname
	if name == "" {
		name = "coble"
	}
	if err := boot.Hostname(name); err != nil {
		return err
	}
	var servers []netip.Addr
	for _, u := range conf.Uplink {
		for _, s := range u.DNS {
			if a, err := netip.ParseAddr(s); err == nil {
				servers = append(servers, a)
			}
		}
	}
	return boot.NameFiles("", name, servers)
}

// bringUp gives a link its address. One that asks a DHCP server goes on asking, and renewing, as long as the engine lives.
func bringUp(name string, u configs.Uplink, log *slog.Logger) error {
	if u.DHCP {
		first := make(chan struct{})
		var once sync.Once
		got := func(l boot.Lease) {
			if err := writeResolvers(l.DNS); err != nil {
				log.Error("name servers", "link", name, "err", err)
			}
			once.Do(func() { close(first) })
		}
		go func() {
			err := boot.DHCP(context.Background(), name, got, func(format string, args ...any) { log.Warn(fmt.Sprintf(format, args...)) })
			log.Error("dhcp", "link", name, "err", err)
		}()
		<-first
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), diskWait)
	defer cancel()
	address, err := netip.ParsePrefix(u.Address)
	if err != nil {
		return err
	}
	gateway, _ := netip.ParseAddr(u.Gateway)
	return boot.StaticLink(ctx, name, address, gateway)
}

// writeResolvers names the servers that a lease came with, whole or not at all.
func writeResolvers(servers []netip.Addr) error {
	if len(servers) == 0 {
		return nil
	}
	var b strings.Builder
	for _, a := range servers {
		fmt.Fprintln(&b, "nameserver", a)
	}
	const file = "/etc/resolv.conf"
	if err := os.WriteFile(file+".new", []byte(b.String()), 0o644); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
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
