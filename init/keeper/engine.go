package keeper

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// engineState is the running engine, if any.
type engineState struct {
	binary   int // O_PATH descriptor of argv[0], -1: none
	pid      int // 0: not running
	sock     int // the keeper's end of the "keeper" socket pair, -1: none
	ready    bool
	readyAt  time.Time
	stopping bool // it said STOPPING=1
}

// openBinary holds on to the engine's file, so that it is not the one that
// somebody puts in its place that is started next.
func (e *engineState) openBinary(argv []string) error {
	e.binary = -1
	if len(argv) == 0 {
		return fmt.Errorf("no engine to start")
	}
	fd, err := unix.Open(argv[0], unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open engine", Path: argv[0], Err: err}
	}
	e.binary = fd
	return nil
}

func (e *engineState) signal(s unix.Signal) {
	if e.pid > 0 { // never 0 or -1: those are groups
		_ = unix.Kill(e.pid, s) // our unreaped child: the pid is its own
	}
}

// backOff is the pause before the next start after so many failures in a row.
// An engine that was ready is missed by its users: the first time it is started
// again at once, and the pause is bounded lower for it.
func backOff(failures int, wasReady bool) time.Duration {
	const first, last, lastReady = 100 * time.Millisecond, 10 * time.Second, 500 * time.Millisecond
	if wasReady {
		return min(first<<min(max(failures-1, 0), 10)-first, lastReady)
	}
	return min(first<<min(max(failures-1, 0), 10), last)
}

// startEngine starts the engine and sends it what is remembered; if it can't,
// it arranges for another try.
func (k *keeper) startEngine() {
	k.restartAt = time.Time{}
	if k.engine.pid != 0 || k.stop != "" {
		return
	}
	if err := k.launch(); err != nil {
		k.log.f("start engine: %v", err)
		k.failed(false)
		return
	}
	pidFile := k.c.RunDir + "/engine.pid"
	if err := writeAtomically(pidFile, strconv.Itoa(k.engine.pid)+"\n"); err != nil {
		k.log.f("%v", err)
	}
	k.log.f("engine started, pid %d, %d descriptors", k.engine.pid, len(k.store.fds))
	k.exits.rewind()
	k.exits.send(k.engine.sock)
}

func (k *keeper) launch() error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make socket pair: %w", err)
	}
	defer unix.Close(pair[1])
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		unix.Close(pair[0])
		return fmt.Errorf("open /dev/null: %w", err)
	}
	defer unix.Close(null)
	files := []uintptr{uintptr(null), 1, 2, uintptr(pair[1])}
	names := []string{"keeper"}
	for _, s := range k.store.fds {
		files, names = append(files, uintptr(s.fd)), append(names, s.name)
	}
	argv, attr := k.c.Engine, &syscall.ProcAttr{
		Env: k.engineEnv(names), Files: files,
		Sys: &syscall.SysProcAttr{Setsid: true},
	}
	if cmdline, _ := os.ReadFile("/proc/cmdline"); k.c.Init && slices.Contains(strings.Fields(string(cmdline)), "coble.rescue") {
		argv = k.rescue(attr)
	}
	pid, err := k.forkExec(argv, attr)
	if err != nil {
		unix.Close(pair[0])
		return err
	}
	k.engine = engineState{binary: k.engine.binary, pid: pid, sock: pair[0]}
	if k.oomAdj != "" {
		_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte(k.oomAdj), 0)
	}
	return nil
}

// forkExec starts argv through the descriptor of the engine's binary. The
// descriptor needs a number that the child's shuffling of files stays clear of.
func (k *keeper) forkExec(argv []string, attr *syscall.ProcAttr) (int, error) {
	if argv[0] != k.c.Engine[0] || k.engine.binary < 0 {
		return syscall.ForkExec(argv[0], argv, attr)
	}
	top := uintptr(0)
	for _, f := range attr.Files {
		top = max(top, f)
	}
	fd, err := unix.FcntlInt(uintptr(k.engine.binary), unix.F_DUPFD_CLOEXEC, int(top)+len(attr.Files)+16)
	if err != nil {
		return 0, fmt.Errorf("duplicate engine descriptor: %w", err)
	}
	defer unix.Close(fd)
	pid, err := syscall.ForkExec("/proc/self/fd/"+strconv.Itoa(fd), argv, attr)
	if err == syscall.ENOENT { // no /proc
		return syscall.ForkExec(argv[0], argv, attr)
	}
	return pid, err
}

func (k *keeper) engineEnv(names []string) []string {
	base := k.c.Env
	if base == nil {
		base = os.Environ()
	}
	env := make([]string, 0, len(base)+4)
	for _, e := range base {
		if !strings.HasPrefix(e, "NOTIFY_SOCKET=") && !strings.HasPrefix(e, "LISTEN_") {
			env = append(env, e)
		}
	}
	return append(env,
		"NOTIFY_SOCKET="+k.c.RunDir+"/notify",
		"LISTEN_FDS="+strconv.Itoa(len(names)),
		"LISTEN_FDNAMES="+strings.Join(names, ":"),
		"LISTEN_PPID="+strconv.Itoa(os.Getpid()))
}

// engineEnded is called after the engine was reaped.
func (k *keeper) engineEnded(status syscall.WaitStatus) {
	e := k.engine
	unix.Close(e.sock)
	k.engine = engineState{binary: e.binary, sock: -1}
	k.deadline = time.Time{}
	os.Remove(k.c.RunDir + "/engine.pid")
	clean := status.Exited() && status.ExitStatus() == 0
	switch {
	case k.stop != "":
		k.finish(clean)
		return
	case clean && e.stopping && !k.c.Init:
		k.done, k.code = true, 0
		return
	}
	k.log.f("engine %d ended: %s", e.pid, describe(status))
	if e.ready && time.Since(e.readyAt) >= settled {
		k.failures = 0
	}
	k.failed(e.ready)
}

// failed arranges for the next start of the engine.
func (k *keeper) failed(wasReady bool) {
	k.failures++
	pause := backOff(k.failures, wasReady)
	k.restartAt = time.Now().Add(pause)
	if k.failures%5 == 0 {
		k.log.f("the engine ended %d times in a row; next try in %v", k.failures, pause)
		if k.c.Init {
			k.log.f("containers run on; for a shell on this console boot with coble.rescue on the kernel command line")
		}
	}
}

func describe(s syscall.WaitStatus) string {
	if s.Signaled() {
		return "signal " + s.Signal().String()
	}
	return "status " + strconv.Itoa(s.ExitStatus())
}

// rescue turns the start of the engine into that of a shell on the console, and
// returns what to start.
func (k *keeper) rescue(attr *syscall.ProcAttr) []string {
	if unix.Access("/bin/sh", unix.X_OK) != nil {
		k.log.f("coble.rescue: there is no /bin/sh here, the engine is started instead")
		return k.c.Engine
	}
	k.log.f("coble.rescue: no engine, a shell instead; SIGTERM to process 1 powers off, SIGINT reboots")
	k.stopTime = time.Second // an interactive shell ignores TERM
	attr.Files[0] = 0
	attr.Sys.Setctty, attr.Sys.Ctty = true, 0
	return []string{"/bin/sh"}
}
