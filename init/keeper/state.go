package keeper

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/init/keeper/reap"
)

// The state that passes through execve(2) is text in a sealed memfd whose
// number is in stateEnv. The first line is the format's version; a keeper reads
// its own and all older ones.
const (
	stateEnv     = "COBLE_KEEPER_STATE"
	stateVersion = "coble-keeper 1"
)

// replace executes the binary that is now at the keeper's path. When that fails
// the keeper goes on as it was.
func (k *keeper) replace() {
	if k.stop != "" {
		return
	}
	path := strings.TrimSuffix(k.self, " (deleted)")
	fd, err := k.save()
	if err != nil {
		k.log.f("save state: %v", err)
		return
	}
	env := append(os.Environ(), stateEnv+"="+strconv.Itoa(fd)) // restore has removed an older one
	k.log.f("replacing the keeper by %s", path)
	// Ignored signals stay ignored through execve, so one that comes now does
	// not kill a keeper that has no handlers yet.
	signal.Ignore(ownSignals()...)
	k.closeOnExec(false)
	err = syscall.Exec(path, os.Args, env)
	k.closeOnExec(true)
	unix.Close(fd)
	k.log.f("execute %s: %v; going on with the old keeper", path, err)
	signal.Notify(k.sigs, ownSignals()...)
}

// held lists the descriptors that outlive an execve.
func (k *keeper) held() []int {
	fds := append(fdNumbers(k.store.fds), k.lock, k.notify)
	if k.engine.sock >= 0 {
		fds = append(fds, k.engine.sock)
	}
	return fds
}

func (k *keeper) closeOnExec(on bool) {
	flag := 0
	if on {
		flag = unix.FD_CLOEXEC
	}
	for _, fd := range k.held() {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, flag); err != nil {
			k.log.f("set flags of descriptor %d: %v", fd, err)
		}
	}
}

func (k *keeper) save() (int, error) {
	var b strings.Builder
	fmt.Fprintln(&b, stateVersion)
	fmt.Fprintln(&b, "sockets", k.lock, k.notify)
	fmt.Fprintln(&b, "engine", k.engine.pid, k.engine.sock, k.engine.ready, k.engine.stopping, k.failures)
	fmt.Fprintln(&b, "oom", k.oomAdj)
	fmt.Fprintln(&b, "stoptime", k.stopTime.Microseconds())
	for _, s := range k.store.fds {
		fmt.Fprintln(&b, "fd", s.fd, s.name)
	}
	for _, e := range k.exits.entries {
		fmt.Fprintln(&b, "exit", e.PID, e.Start, e.Status)
	}
	fmt.Fprintln(&b, "sent", k.exits.sent, k.exits.marked, k.exits.mark)
	fd, err := unix.MemfdCreate("coble-keeper", unix.MFD_ALLOW_SEALING)
	if err != nil {
		return -1, fmt.Errorf("make memfd: %w", err)
	}
	for data := []byte(b.String()); len(data) > 0; {
		n, err := unix.Write(fd, data)
		if err != nil {
			unix.Close(fd)
			return -1, fmt.Errorf("write memfd: %w", err)
		}
		data = data[n:]
	}
	const seals = unix.F_SEAL_WRITE | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("seal memfd: %w", err)
	}
	return fd, nil
}

// restore takes over from the keeper that executed this one, if one did.
func (k *keeper) restore() bool {
	value := os.Getenv(stateEnv)
	os.Unsetenv(stateEnv)
	k.engine.sock = -1
	if value == "" {
		return false
	}
	fd, err := strconv.Atoi(value)
	if err != nil || fd < 3 {
		return false
	}
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil || seals&unix.F_SEAL_WRITE == 0 {
		k.log.f("descriptor %d holds no state of a keeper", fd)
		return false
	}
	f := os.NewFile(uintptr(fd), "state")
	defer f.Close()
	data, err := io.ReadAll(io.NewSectionReader(f, 0, 4<<20))
	if err == nil {
		err = k.parseState(string(data))
	}
	if err != nil {
		k.log.f("restore state: %v", err)
		return false
	}
	k.closeOnExec(true)
	k.log.f("keeper replaced: engine %d, %d descriptors, %d exits", k.engine.pid, len(k.store.fds), len(k.exits.entries))
	return true
}

func (k *keeper) parseState(s string) error {
	version, rest, _ := strings.Cut(s, "\n")
	if version != stateVersion {
		return fmt.Errorf("unknown version %.40q", version)
	}
	for line := range strings.SplitSeq(strings.TrimSuffix(rest, "\n"), "\n") {
		if err := k.parseStateLine(line); err != nil {
			return fmt.Errorf("line %.80q: %w", line, err)
		}
	}
	if k.exits.sent > len(k.exits.entries) || k.lock < 3 || k.notify < 3 {
		return fmt.Errorf("incomplete state")
	}
	if k.engine.ready {
		k.engine.readyAt = time.Now()
	}
	return nil
}

func (k *keeper) parseStateLine(line string) (err error) {
	key, value, _ := strings.Cut(line, " ")
	switch key {
	case "sockets":
		_, err = fmt.Sscan(value, &k.lock, &k.notify)
	case "engine":
		e := &k.engine
		_, err = fmt.Sscan(value, &e.pid, &e.sock, &e.ready, &e.stopping, &k.failures)
	case "oom":
		k.oomAdj = value
	case "stoptime":
		var usec int64
		_, err = fmt.Sscan(value, &usec)
		k.stopTime = time.Duration(usec) * time.Microsecond
	case "fd":
		var s storedFD
		if _, err = fmt.Sscan(value, &s.fd, &s.name); err == nil {
			err = k.store.add(s.name, []int{s.fd})
		}
	case "exit":
		var e reap.Exit
		_, err = fmt.Sscan(value, &e.PID, &e.Start, &e.Status)
		k.exits.add(e)
	case "sent":
		_, err = fmt.Sscan(value, &k.exits.sent, &k.exits.marked, &k.exits.mark)
	}
	return err
}
