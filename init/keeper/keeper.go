package keeper

import (
	"errors"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/init/keeper/mounts"
	"github.com/coble-os/coble/init/keeper/reap"
)

// Config says how to run a keeper.
type Config struct {
	RunDir string    // made with mode 0700; one keeper per folder
	Engine []string  // argv of the engine; argv[0] is a path to an ELF file
	Env    []string  // the engine's environment; nil: the keeper's own
	Init   bool      // this is process 1: mounts, console, reboot(2)
	Log    io.Writer // nil: stderr (as process 1: the console)
}

const (
	defaultStop = 60 * time.Second // for the engine to stop its containers
	settled     = 10 * time.Second // ready for so long: failures are forgotten
	sendRetry   = 50 * time.Millisecond
)

// keeper is owned by the goroutine of Run; nothing in it is shared except log.
type keeper struct {
	c       Config
	log     *logger
	self    string // path of the keeper's own binary, for REEXEC
	oomAdj  string // oom_score_adj that the keeper was started with
	lock    int    // RunDir/keeper.lock
	notify  int    // RunDir/notify, read non-blocking by the loop only
	forward string // the keeper's own NOTIFY_SOCKET, or empty
	engine  engineState
	exits   exitTable
	store   fdStore

	stop      string        // "": running; else poweroff, reboot or halt
	stopTime  time.Duration // how long the engine may take
	deadline  time.Time     // of the stop, or of the next TERM → KILL
	restartAt time.Time     // zero: no start pending
	failures  int           // engine ends since it was last settled
	reexec    bool          // asked for; done between two events
	done      bool          // Run returns code
	code      int
	chld      chan os.Signal
	sigs      chan os.Signal
}

// Run keeps the engine running until it is told to stop. It returns the
// process's exit status, and never returns when c.Init is set.
func Run(c Config) int {
	k := &keeper{
		c: c, log: &logger{out: c.Log}, stopTime: defaultStop, lock: -1, notify: -1,
		chld: make(chan os.Signal, 1), sigs: make(chan os.Signal, 16),
	}
	signal.Notify(k.chld, unix.SIGCHLD)
	signal.Notify(k.sigs, ownSignals()...)
	if c.Init && os.Getpid() != 1 {
		k.log.f("init mode needs to be process 1, this is %d", os.Getpid())
		return 1
	}
	if !k.guarded("prepare", k.prepare) && !c.Init {
		return 1
	}
	k.loop()
	if c.Init {
		for { // reboot(2) did not work or was not reached
			k.guarded("reap", func() error { k.reap(); return nil })
			time.Sleep(time.Second)
		}
	}
	k.removePidFiles()
	return k.code
}

// guarded runs step and keeps the process alive whatever happens in it.
func (k *keeper) guarded(what string, step func() error) (ok bool) {
	defer func() {
		if r := recover(); r != nil {
			k.log.f("%s: panic: %v\n%s", what, r, debug.Stack())
			time.Sleep(sendRetry) // a panic that comes again must not be a busy loop
			ok = false
		}
	}()
	if err := step(); err != nil {
		k.log.f("%s: %v", what, err)
		return false
	}
	return true
}

// prepare brings the process to where the loop can run.
func (k *keeper) prepare() error {
	restored := k.restore()
	if k.c.Init && !restored {
		mounts.Early(k.log.f)
		// Ctrl-alt-del becomes a SIGINT instead of a reboot without a word.
		if err := unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF); err != nil {
			k.log.f("take over ctrl-alt-del: %v", err)
		}
		k.log.f("mounts done")
	}
	k.self, _ = os.Readlink("/proc/self/exe")
	k.protect()
	k.forward = os.Getenv("NOTIFY_SOCKET")
	mkdir := os.MkdirAll(k.c.RunDir, 0o700)
	k.log.open(k.c.RunDir + "/keeper.log")
	binary := k.engine.openBinary(k.c.Engine)
	if binary != nil && !k.c.Init {
		return binary
	}
	if !restored {
		if err := k.claim(); err != nil {
			return errors.Join(mkdir, err)
		}
	}
	return errors.Join(mkdir, binary, writeAtomically(k.c.RunDir+"/keeper.pid", strconv.Itoa(os.Getpid())+"\n"))
}

// protect keeps other processes from reading the keeper, from taking its
// children and, as far as the kernel lets it, from having it killed for memory.
func (k *keeper) protect() {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		k.log.f("set non-dumpable: %v", err)
	}
	if os.Getpid() != 1 {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			k.log.f("become sub-reaper: %v", err)
		}
	}
	if k.oomAdj == "" {
		old, _ := os.ReadFile("/proc/self/oom_score_adj")
		k.oomAdj = strings.TrimSpace(string(old))
	}
	if os.Geteuid() != 0 {
		return
	}
	err := os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0)
	if err != nil && k.c.Init { // elsewhere root may be without CAP_SYS_RESOURCE
		k.log.f("protect from the OOM killer: %v", err)
	}
	want := unix.Rlimit{Cur: 1 << 16, Max: 1 << 16}
	var have unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &have) == nil && have.Max < want.Max {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &want); err != nil && k.c.Init {
			k.log.f("raise open files to %d: %v", want.Max, err)
		}
	}
}

// claim takes the run folder for this keeper and opens its socket.
func (k *keeper) claim() (err error) {
	if err = os.Chmod(k.c.RunDir, 0o700); err != nil {
		return err
	}
	name := k.c.RunDir + "/keeper.lock"
	k.lock, err = unix.Open(name, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return &os.PathError{Op: "open", Path: name, Err: err}
	}
	if err = unix.Flock(k.lock, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return &os.PathError{Op: "another keeper holds", Path: name, Err: err}
	}
	k.notify, err = listenNotify(k.c.RunDir + "/notify")
	return err
}

// loop handles one event after another until the keeper is done.
func (k *keeper) loop() {
	readable, handled := make(chan struct{}), make(chan struct{})
	go waitReadable(k.notify, readable, handled)

	k.step("start", func() {
		k.reap()
		if k.engine.pid == 0 && !k.done {
			k.startEngine()
		}
	})
	for !k.done {
		timer := time.NewTimer(k.untilNext())
		select {
		case <-k.chld:
			k.step("reap", k.reap)
		case s := <-k.sigs:
			k.step("signal", func() { k.signal(s) })
		case <-readable:
			k.step("notify", func() { k.receive() })
			handled <- struct{}{}
		case <-timer.C:
		}
		timer.Stop()
		k.step("tick", k.tick)
		if k.reexec && len(k.sigs) == 0 {
			k.reexec = false
			k.step("re-exec", k.replace)
		}
	}
}

func ownSignals() []os.Signal {
	return []os.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGPWR, unix.SIGHUP, unix.SIGUSR2}
}

func (k *keeper) step(what string, f func()) {
	k.guarded(what, func() error { f(); return nil })
}

// untilNext is the time to the next thing that tick has to do.
func (k *keeper) untilNext() time.Duration {
	next := time.Hour
	for _, t := range []time.Time{k.restartAt, k.deadline} {
		if !t.IsZero() {
			next = min(next, time.Until(t))
		}
	}
	if k.engine.sock >= 0 && k.exits.pending() {
		next = min(next, sendRetry)
	}
	return max(next, 0)
}

// tick does what has become due.
func (k *keeper) tick() {
	now := time.Now()
	if !k.restartAt.IsZero() && !now.Before(k.restartAt) {
		k.startEngine()
	}
	if !k.deadline.IsZero() && !now.Before(k.deadline) {
		k.deadline = time.Time{}
		k.log.f("engine %d did not stop in time: killed", k.engine.pid)
		k.engine.signal(unix.SIGKILL)
	}
	k.exits.send(k.engine.sock)
}

func (k *keeper) signal(s os.Signal) {
	switch s {
	case unix.SIGHUP:
		k.engine.signal(unix.SIGHUP)
	case unix.SIGUSR2:
		k.reexec = true
	case unix.SIGINT:
		k.beginStop("reboot", "interrupt")
	default:
		k.beginStop("poweroff", s.String())
	}
}

// reap collects every child that has ended.
func (k *keeper) reap() {
	for {
		e, ok := reap.One(k.lastWords)
		if !ok {
			return
		}
		if e.PID == k.engine.pid {
			k.engineEnded(syscall.WaitStatus(e.Status))
			continue
		}
		k.exits.add(e)
		k.exits.send(k.engine.sock)
	}
}

// lastWords hears what a dead engine had sent before its end. Both its death and its datagrams may be waiting,
// and once it is reaped its pid proves nothing.
func (k *keeper) lastWords(pid int) {
	for pid == k.engine.pid && k.receive() {
	}
}

func (k *keeper) removePidFiles() {
	for _, name := range []string{"engine.pid", "notify", "keeper.pid"} {
		if err := os.Remove(k.c.RunDir + "/" + name); err != nil && !os.IsNotExist(err) {
			k.log.f("%v", err)
		}
	}
}
