// Package engine is the daemon's middle: it decides when a container starts, stops and starts again, and what follows its end. A
// job each is what it can be asked for; the parts that it is made of put in theirs. The HTTP server above it decodes requests
// into jobs; images, networks and processes below it do the work and never call back up. The engine may be killed at any
// instruction: containers run on, and the next engine takes them over (adopt.go).
package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/go-digest"

	"github.com/coble-os/coble/init/boot"
	"github.com/coble-os/coble/init/notify"
	"github.com/coble-os/coble/layers/registry"
	"github.com/coble-os/coble/netcfg/links"
	"github.com/coble-os/coble/rt/containers"
	"github.com/coble-os/coble/rt/execdriver"
	"github.com/coble-os/coble/rt/images"
	"github.com/coble-os/coble/rt/job"
	"github.com/coble-os/coble/rt/networkdriver"
	"github.com/coble-os/coble/rt/stdio"
	"github.com/coble-os/coble/rt/store"
	"github.com/coble-os/coble/sandbox/cgroup"
	"github.com/coble-os/coble/sandbox/spawn"
)

// Options say where an engine lives.
type Options struct {
	Root    string // durable state: images, containers, volumes, the store
	Run     string // state of this boot
	Driver  string // graph driver; empty: the best available
	Pool    string // block device for driver devmapper; empty: files in Root
	Network networkdriver.Config
	Logs    stdio.Limits // of a container that asks for no others
	// Registry is what the machine's owner says about registries.
	Registry registry.Config
	Log      *slog.Logger
	Version  string
	Init     bool // coble is PID 1 here
	// Online waits for a link of the TOML file, or with an empty name for a default route; nil: links are not coble's, and
	// nothing waits for them.
	Online func(ctx context.Context, link string) error
	// Links tells how the links of the TOML file do; nil: they are not coble's.
	Links func() []links.Status
	Trace *boot.Trace // what happened before; nil: nothing
}

// Engine is the table of handlers, the store of containers, and the drivers that know neither it nor each other. What is
// exported is there from Open on, and never changes.
type Engine struct {
	Jobs       *job.Table // all that the engine can be asked for
	Containers *containers.Table
	Images     *images.Store
	Net        *networkdriver.Driver
	Exec       *execdriver.Driver
	Boot       *boot.Trace // what the boot did when

	o        Options
	id       string // of this installation, 32 hex digits
	log      *slog.Logger
	store    *store.Store
	keeper   *notify.Link
	events   eventLog
	name     string // instance name: of the bridge, the nftables table and the cgroup
	problems problemList
	adopted  bool // an earlier engine of this boot has written down the state of every container

	mu      sync.Mutex
	ctrs    map[*containers.Container]*ctr // guarded by mu
	closing bool                           // no new starts; guarded by mu
	fresh   bool                           // nobody has launched since the machine or the daemon was down; guarded by mu

	launching sync.Mutex // held by the launch job
	endWaits  func()     // ends the waiting of containers for links; guarded by launching

	ctx    context.Context // ends with the engine
	cancel context.CancelFunc
	// done is closed when Shutdown has ended.
	done chan struct{}
}

// Open opens the stores, finds what an earlier engine left, takes over its containers and removes what nobody claims.
// When it returns, the engine's view of the world is true and jobs may run.
func Open(o Options) (*Engine, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Logs.MaxSize == 0 {
		o.Logs = stdio.Limits{MaxSize: 20 << 20, MaxFiles: 5}
	}
	e := &Engine{
		o: o, log: o.Log, name: InstanceName(o.Root),
		ctrs: map[*containers.Container]*ctr{},
		done: make(chan struct{}), Jobs: job.NewTable(), Boot: o.Trace,
	}
	if e.Boot == nil {
		e.Boot = boot.NewTrace()
	}
	if o.Init {
		e.name = "coble" // the machine's only engine, wherever its disk is mounted
	}
	e.events.listeners = map[chan events.Message]struct{}{}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	if err := e.openParts(); err != nil {
		e.cancel()
		return nil, err
	}
	e.registerJobs()
	// In a group of its own: that of a container may have a limit.
	if err := cgroup.CountDisk("/"+e.name+"-count", e.o.Root); err != nil {
		e.log.Error("control groups", "err", err)
	}
	e.adoptAll()
	return e, nil
}

// openParts opens what the engine stands on, in order.
func (e *Engine) openParts() (err error) {
	if err := e.makeFolders(); err != nil {
		return err
	}
	if e.keeper, err = notify.Dial(); err != nil {
		return err
	}
	if err := spawn.ReserveLow(); err != nil {
		return err
	}
	if e.store, err = store.Open(e.o.Root, e.o.Run, names{}); err != nil {
		return err
	}
	e.Containers = containers.New(e.store, e.o.Root, e.o.Run, e.log)
	e.findPredecessor()
	if err := e.openID(); err != nil {
		return err
	}
	e.Images, err = images.Open(e.ctx, images.Options{
		Root: e.o.Root, DB: e.store.Durable, Driver: e.o.Driver, Pool: e.o.Pool, Registry: e.o.Registry, Log: e.log,
		Jobs: e.Jobs, Containers: e.Containers, Emit: e.events.emit,
	})
	if err != nil {
		return err
	}
	e.Net, err = networkdriver.Open(e.ctx, networkdriver.Options{
		Config: e.o.Network, Instance: e.name, ID: e.id, Own: e.o.Init, Store: e.store, Log: e.log,
		Jobs: e.Jobs, Containers: e.Containers, Keeper: e.keeper, Emit: e.events.emit, Problem: e.Problem, Once: e.problemOnce,
	})
	if err != nil {
		return err
	}
	e.Exec = execdriver.New(execdriver.Options{
		Instance: e.name, Root: e.o.Root, Log: e.log, Jobs: e.Jobs, Containers: e.Containers, Emit: e.events.emit, Mounts: e.Images.Mounts,
	})
	return nil
}

// makeFolders makes what is missing and closes it: nobody but root walks into images and containers, whose set-uid
// programs are not this machine's (CVE-2021-41091). The run folder itself lets through to the socket.
func (e *Engine) makeFolders() error {
	for dir, perm := range map[string]os.FileMode{
		e.o.Root: 0o710, filepath.Join(e.o.Root, "containers"): 0o710, e.o.Run: 0o711, filepath.Join(e.o.Run, "c"): 0o710,
	} {
		if err := os.MkdirAll(dir, perm); err != nil {
			return fmt.Errorf("make folder: %w", err)
		}
		if err := os.Chmod(dir, perm); err != nil {
			return fmt.Errorf("close folder: %w", err)
		}
	}
	return nil
}

func (e *Engine) openID() error {
	if e.id = string(e.store.Meta("id")); e.id != "" {
		return nil
	}
	e.id = containers.NewID()[:32]
	return e.store.PutMeta("id", []byte(e.id))
}

// DefaultRoot is where an engine keeps its durable state unless told otherwise.
const DefaultRoot = "/var/lib/coble"

// InstanceName names an engine's kernel objects: "coble" for the default root, and a name of its own, at most 12
// characters, for every other root, so that two engines on one host never touch each other's.
func InstanceName(root string) string {
	if root == DefaultRoot {
		return "coble"
	}
	return "cb" + digest.FromString(root).Encoded()[:8]
}

// Close leaves the containers running and lets go of everything else. Shutdown stops them first.
func (e *Engine) Close() error {
	e.cancel()
	return errors.Join(e.store.Close())
}

// Done is closed when a shutdown job has stopped everything.
func (e *Engine) Done() <-chan struct{} { return e.done }

// ID identifies the installation.
func (e *Engine) ID() string { return e.id }

// Options returns what the engine was opened with.
func (e *Engine) Options() Options { return e.o }

// now is a time as the records keep it.
func now() time.Time { return time.Now().UTC() }

// Ready tells the keeper that the API answers.
func (e *Engine) Ready() { e.keeper.Say("READY=1") }

// TakeListener returns the socket that an earlier engine listened on for this address, or nil.
func (e *Engine) TakeListener(host string) net.Listener {
	f := e.keeper.Take(listenerName(host))
	if f == nil {
		return nil
	}
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil
	}
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
		if _, err := os.Lstat(strings.TrimPrefix(host, "unix://")); err != nil {
			l.Close() // somebody removed the name: nobody could call
			return nil
		}
	}
	return l
}

// StoreListener gives the keeper a copy of a listening socket.
func (e *Engine) StoreListener(host string, l net.Listener) error {
	c, ok := l.(syscall.Conn)
	if !ok {
		return nil
	}
	return e.keeper.Store(listenerName(host), c)
}

func listenerName(host string) string { return "listen." + digest.FromString(host).Encoded()[:12] }
