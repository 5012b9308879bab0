package keeper

import (
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/init/keeper/mounts"
	"github.com/coble-os/coble/init/keeper/reap"
)

const (
	termTime  = 5 * time.Second // between TERM and KILL to all, and after it
	flushTime = 30 * time.Second
)

// beginStop begins the one way down. how is poweroff, reboot or halt.
func (k *keeper) beginStop(how, why string) {
	if k.stop != "" {
		return
	}
	k.stop = how
	k.restartAt = time.Time{}
	if k.c.Init {
		k.log.f("%s: %s", how, why)
	} else {
		k.log.f("stop: %s", why)
	}
	if k.engine.pid == 0 {
		k.log.f("no engine is running: containers are not stopped in order")
		k.finish(false)
		return
	}
	k.deadline = time.Now().Add(k.stopTime)
	k.engine.signal(unix.SIGTERM)
}

// finish is reached when the engine is gone and a stop was asked for.
func (k *keeper) finish(clean bool) {
	k.done = true
	if !clean {
		k.code = 1
	}
	if !k.c.Init {
		return
	}
	k.store.closeAll()
	closeAll([]int{k.notify, k.lock}) // they are in /run
	// Interactive shells ignore TERM and go by HUP.
	if !k.endAll(unix.SIGTERM, unix.SIGHUP, unix.SIGCONT) && !k.endAll(unix.SIGKILL) {
		k.log.f("some processes do not end even by SIGKILL")
	}
	k.log.close() // keeper.log is in /run as well
	flushed := make(chan struct{})
	go func() {
		defer close(flushed)
		k.guarded("unmount", func() error { mounts.Late(k.log.f); return nil })
	}()
	select {
	case <-flushed:
	case <-time.After(flushTime):
		k.log.f("unmounting hangs, going on without")
	}
	k.log.f("%s", k.stop)
	var command uint32 = unix.LINUX_REBOOT_CMD_POWER_OFF
	switch k.stop {
	case "reboot":
		command = unix.LINUX_REBOOT_CMD_RESTART
	case "halt":
		command = unix.LINUX_REBOOT_CMD_HALT
	}
	if err := unix.Reboot(int(int32(command))); err != nil {
		k.log.f("%s: %v; it is safe to cut the power now", k.stop, err)
	}
}

// endAll signals every process but this one and tells whether all were gone
// within termTime. Only process 1 may call it.
func (k *keeper) endAll(signals ...unix.Signal) (gone bool) {
	if os.Getpid() != 1 {
		return true
	}
	for _, s := range signals {
		_ = unix.Kill(-1, s) // fails when there is nobody
	}
	limit := time.After(termTime)
	for {
		k.reap()
		if !reap.HasChildren() {
			return true
		}
		select {
		case <-k.chld:
		case <-limit:
			return false
		}
	}
}
