// Package vm boots virtual machines for tests: it fetches Debian's kernels,
// starts QEMU with KVM where there is one and with its own translation
// elsewhere, talks to the console, and runs test binaries as root inside. It
// asserts nothing and knows nothing of coble but where its files go.
package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Options says what to boot.
type Options struct {
	Kernel   Kernel
	Initrd   string    // path
	Append   string    // added to the kernel command line
	Drives   []Drive   // NVMe disks (but see WriteLog), in order: /dev/nvme0n1, /dev/nvme1n1, …
	MemMiB   int       // 0: 256
	CPUs     int       // 0: 1
	Forwards []Forward // TCP ports of 127.0.0.1 that reach into the machine
	Args     []string  // more arguments of QEMU
	Log      string    // path of a copy of the console; empty: none
}

// Drive is one disk.
type Drive struct {
	File     string
	Format   string // empty: raw
	Snapshot bool   // writes are thrown away
	// WriteLog is an existing file that gets every request which the disk
	// receives, in the format of dm-log-writes (package cut reads it). Such a disk
	// is virtio-blk (/dev/vda; label it and mount it by its label): QEMU's NVMe
	// loses the FUA mark of writes, so that a commit block would look volatile,
	// while for virtio-blk the kernel makes FUA a flush.
	WriteLog string
}

// Forward is a TCP port of this machine that reaches a port of the guest, whose
// address on the user network is 10.0.2.15/24 behind 10.0.2.2.
type Forward struct{ Host, Guest int }

// VM is a running machine. Its methods may be called by any goroutine, but only
// one may wait for console text at a time.
type VM struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	qmp    string // socket of QEMU's monitor
	dir    string // of the monitor socket, removed at the end
	exited chan struct{}
	err    error // of QEMU, valid after exited

	mu      sync.Mutex
	console bytes.Buffer
	log     io.WriteCloser
	seen    int           // bytes of console that WaitFor has passed
	more    chan struct{} // closed and replaced when console grows
}

// Start starts a machine, which is killed when ctx ends.
func Start(ctx context.Context, o Options) (*VM, error) {
	dir, err := os.MkdirTemp("", "coble-vm-")
	if err != nil {
		return nil, err
	}
	v := &VM{exited: make(chan struct{}), more: make(chan struct{}), dir: dir, qmp: filepath.Join(dir, "qmp")}
	if o.Log != "" {
		if v.log, err = os.Create(o.Log); err != nil {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
	}
	binary, args, err := Command(o)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	args = append(args, "-qmp", "unix:"+v.qmp+",server=on,wait=off")
	v.cmd = exec.CommandContext(ctx, binary, args...)
	// A test that is killed takes its machine along.
	v.cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	v.cmd.Stdout, v.cmd.Stderr = v, v
	if v.stdin, err = v.cmd.StdinPipe(); err == nil {
		err = v.cmd.Start()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", binary, err), os.RemoveAll(dir))
	}
	go func() {
		v.err = v.cmd.Wait()
		_ = os.RemoveAll(dir)
		if v.log != nil {
			_ = v.log.Close()
		}
		close(v.exited)
	}()
	return v, nil
}

// Command is the QEMU binary and its arguments for a machine, without the
// monitor.
func Command(o Options) (binary string, args []string, err error) {
	mem, cpus := max(o.MemMiB, 0), max(o.CPUs, 1)
	if mem == 0 {
		mem = 256
	}
	console := "ttyS0"
	args = []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-m", fmt.Sprint(mem), "-smp", fmt.Sprint(cpus), "-serial", "stdio",
		"-kernel", o.Kernel.Image, "-initrd", o.Initrd,
	}
	switch o.Kernel.Arch {
	case "amd64":
		binary = "qemu-system-x86_64"
		args = append(args, "-machine", "q35", "-device", "virtio-rng-pci")
		args = append(args, accel("amd64", "max", cpus)...)
	case "arm64":
		binary, console = "qemu-system-aarch64", "ttyAMA0"
		args = append(args, "-machine", "virt,gic-version=max", "-device", "virtio-rng-pci")
		args = append(args, accel("arm64", "cortex-a72", cpus)...)
	default:
		return "", nil, fmt.Errorf("no machine for architecture %q", o.Kernel.Arch)
	}
	net := "user,id=n0"
	for _, f := range o.Forwards {
		net += fmt.Sprintf(",hostfwd=tcp:127.0.0.1:%d-:%d", f.Host, f.Guest)
	}
	args = append(args, "-netdev", net, "-device", "virtio-net-pci,netdev=n0,romfile=")
	for i, d := range o.Drives {
		args = append(args, d.args(i)...)
	}
	line := strings.TrimSpace("console=" + console + " panic=-1 quiet loglevel=4 " + o.Append)
	return binary, slices.Concat(args, []string{"-append", line}, o.Args), nil
}

func (d Drive) args(i int) []string {
	format, comma := d.Format, func(s string) string { return strings.ReplaceAll(s, ",", ",,") }
	if format == "" {
		format = "raw"
	}
	args := []string{"-device", fmt.Sprintf("nvme,drive=d%d,serial=coble%d", i, i)}
	if d.WriteLog != "" {
		args[1] = fmt.Sprintf("virtio-blk-pci,drive=d%d,serial=coble%d", i, i)
		return append(args,
			"-blockdev", fmt.Sprintf("driver=file,filename=%s,node-name=f%d", comma(d.File), i),
			"-blockdev", fmt.Sprintf("driver=file,filename=%s,node-name=l%d", comma(d.WriteLog), i),
			"-blockdev", fmt.Sprintf("driver=blklogwrites,file=f%d,log=l%d,node-name=d%d,log-super-update-interval=1", i, i, i))
	}
	drive := fmt.Sprintf("if=none,id=d%d,file=%s,format=%s", i, comma(d.File), format)
	if d.Snapshot {
		drive += ",snapshot=on"
	}
	return append(args, "-drive", drive)
}

// WaitFor waits until the console shows a match of the regular expression after
// the last match of an earlier call, and returns it with its groups.
func (v *VM) WaitFor(ctx context.Context, expression string) ([]string, error) {
	re, err := regexp.Compile(expression)
	if err != nil {
		return nil, err
	}
	for {
		v.mu.Lock()
		text, more := v.console.Bytes()[v.seen:], v.more
		if at := re.FindSubmatchIndex(text); at != nil {
			v.seen += at[1]
			var groups []string
			for i := 0; i < len(at); i += 2 {
				group := ""
				if at[i] >= 0 {
					group = string(text[at[i]:at[i+1]])
				}
				groups = append(groups, group)
			}
			v.mu.Unlock()
			return groups, nil
		}
		v.mu.Unlock()
		select {
		case <-more:
		case <-v.exited:
			if v.changed(more) { // its last words
				continue
			}
			return nil, fmt.Errorf("the machine ended before its console showed %q (%v):\n%s", expression, v.err, v.tail())
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for %q on the console: %w:\n%s", expression, ctx.Err(), v.tail())
		}
	}
}

func (v *VM) changed(more chan struct{}) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.more != more
}

// Write takes what the console prints. It is for QEMU's output only.
func (v *VM) Write(p []byte) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.console.Write(p)
	if v.log != nil {
		_, _ = v.log.Write(p)
	}
	close(v.more)
	v.more = make(chan struct{})
	return len(p), nil
}

// Console is all that the console has shown.
func (v *VM) Console() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.console.String()
}

func (v *VM) tail() string {
	s := v.Console()
	return s[max(0, len(s)-4000):]
}

// Send types a line on the console.
func (v *VM) Send(line string) error {
	_, err := io.WriteString(v.stdin, line+"\n")
	return err
}

// Wait waits until the machine has powered off (or, since it was started with
// -no-reboot, wants to reboot).
func (v *VM) Wait(ctx context.Context) error {
	select {
	case <-v.exited:
		return v.err
	case <-ctx.Done():
		return fmt.Errorf("wait for power-off: %w:\n%s", ctx.Err(), v.tail())
	}
}

// Kill cuts the power and waits until the machine is gone.
func (v *VM) Kill() {
	_ = v.cmd.Process.Kill()
	<-v.exited
}

// PowerButton presses it.
func (v *VM) PowerButton(ctx context.Context) error {
	return v.monitor(ctx, "system_powerdown", "")
}

// Pid is QEMU's.
func (v *VM) Pid() int { return v.cmd.Process.Pid }
