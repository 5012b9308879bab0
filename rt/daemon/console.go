package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/init/boot"
	"github.com/coble-os/coble/rt/engine"
)

// consoleShell keeps a shell on the machine's console, where the image has one. A shell that an earlier engine started
// goes on as the keeper's child, so this engine starts none.
func consoleShell(log *slog.Logger) {
	const shell, mark = "/bin/sh", "/run/coble/console.pid"
	if _, err := os.Stat(shell); err != nil {
		return
	}
	if b, err := os.ReadFile(mark); err == nil {
		if _, err := os.Stat("/proc/" + strings.TrimSpace(string(b))); err == nil {
			return
		}
	}
	for {
		pid, err := boot.Shell(consoleDevice(), []string{shell, "-l"}, []string{"PATH=/bin:/sbin:/usr/bin:/usr/sbin", "HOME=/", "TERM=vt100", "PS1=\\h:\\w# "})
		if err != nil {
			log.Error("console shell", "err", err)
			return
		}
		os.WriteFile(mark, fmt.Appendln(nil, pid), 0o600)
		unix.Wait4(pid, nil, 0, nil)
		time.Sleep(time.Second)
	}
}

// powerButton switches the machine off when somebody presses the button.
func powerButton(e *engine.Engine, log *slog.Logger) {
	err := boot.PowerButton(context.Background(), func() {
		log.Info("power button pressed")
		if err := e.RequestShutdown("poweroff"); err != nil {
			log.Error("power off", "err", err)
		}
	})
	if err != nil {
		log.Debug("power button", "err", err)
	}
}

// consoleDevice is the device behind /dev/console: a shell there cannot have job control.
func consoleDevice() string {
	b, err := os.ReadFile("/sys/class/tty/console/active")
	if f := strings.Fields(string(b)); err == nil && len(f) > 0 {
		return "/dev/" + f[len(f)-1]
	}
	return "/dev/console"
}

// handOff notes the kernel's part and the keeper's, whose log's lines begin with the time since the kernel started.
func handOff(trace *boot.Trace) {
	b, err := os.ReadFile("/run/coble/keeper.log")
	var first float64
	if _, serr := fmt.Sscanf(string(b), "%f", &first); err != nil || serr != nil {
		return
	}
	trace.Add(boot.Mark{Name: "kernel", End: first * 1000})
	trace.Add(boot.Mark{Name: "mounts, keeper", Start: first * 1000, End: boot.Uptime()})
}
