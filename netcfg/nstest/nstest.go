// Package nstest runs a package's tests in a network namespace of their own, and gives them others with real servers in
// them. It is for tests only.
package nstest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Main is for TestMain: as root it starts the test binary again in fresh network and mount namespaces, where all its
// threads are, and not just one as after unshare(2). Without root it runs the tests here: those that want root say so.
func Main(m *testing.M) int {
	const inside, settled = "COBLE_TEST_INSIDE", "settled"
	if os.Getuid() != 0 || os.Getenv(inside) == settled { // settled: a fuzz worker, which this binary starts too
		return m.Run()
	}
	if os.Getenv(inside) != "" {
		if err := settle(); err != nil {
			panic(err)
		}
		os.Setenv(inside, settled)
		return m.Run()
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	runtime.LockOSThread() // for Pdeathsig
	if err := cmd.Run(); err != nil {
		if e, is := err.(*exec.ExitError); is {
			return e.ExitCode()
		}
		panic(err)
	}
	return 0
}

// settle makes mounts private and /sys that of the new network namespace.
func settle() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	return unix.Mount("sysfs", "/sys", "sysfs", 0, "")
}

// Root skips a test that needs it.
func Root(t testing.TB) {
	if os.Getuid() != 0 {
		t.Skip("needs root: run as root or make test-vm")
	}
}

// Kind skips a test if err, of making a link of that kind, says that this kernel has none such: Debian's, in the virtual
// machines, have all. Any other error fails it.
func Kind(t testing.TB, kind string, err error) {
	t.Helper()
	if errors.Is(err, unix.EOPNOTSUPP) && os.Getenv("COBLE_VM") == "" {
		t.Skipf("this kernel has no %s: make test-vm", kind)
	}
	if err != nil {
		t.Fatalf("make link of kind %s: %v", kind, err)
	}
}

// Program is the path of a Debian package's program. In a machine of another kind, where Debian's programs of this one
// can't be, the test is skipped; anywhere else the package must be there.
func Program(t testing.TB, name, pkg string) string {
	t.Helper()
	for _, dir := range []string{"/usr/sbin/", "/usr/bin/", "/sbin/", "/bin/"} {
		if _, err := os.Stat(dir + name); err == nil {
			return dir + name
		}
	}
	if os.Getenv("COBLE_VM") != "" {
		t.Skipf("this machine has no %s", name)
	}
	t.Fatalf("no program %s: install Debian's package %s (make deps)", name, pkg)
	return ""
}

// Own gives the rest of the test, on this thread, a network namespace of its own with loopback up. Programs that it starts are
// there too.
func Own(t testing.TB) {
	t.Helper()
	Root(t)
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	Up(t, "lo", true)
}

// Visit calls f in the network namespace of a process, or of a thread.
func Visit(pid int, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
		if err == nil {
			defer ns.Close()
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// Peer is another network namespace: a thread that is in it for as long as the test takes.
type Peer struct {
	Path   string // of the namespace
	Thread int    // its number, which the kernel takes for a process's where it wants a namespace
	work   chan func()
}

// NewPeer makes one, with loopback down and no other link.
func NewPeer(t testing.TB) *Peer {
	t.Helper()
	Root(t)
	p := &Peer{work: make(chan func())}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		p.Thread = unix.Gettid()
		p.Path = fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), p.Thread)
		made <- err
		for f := range p.work {
			f()
		}
	}()
	if err := <-made; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(p.work) })
	return p
}

// Do runs f in the namespace.
func (p *Peer) Do(f func()) {
	done := make(chan struct{})
	p.work <- func() { defer close(done); f() }
	<-done
}

// start starts a program there.
func (p *Peer) start(path string, args ...string) (cmd *exec.Cmd, out *output, err error) {
	out = &output{}
	cmd = exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = out, out
	p.Do(func() { err = cmd.Start() })
	return cmd, out, err
}

// Start starts a program there, which is killed at the test's end; its output is shown if the test fails.
func (p *Peer) Start(t testing.TB, path string, args ...string) *exec.Cmd {
	t.Helper()
	cmd, out, err := p.start(path, args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("%s %s:\n%s", path, strings.Join(args, " "), out.String())
		}
	})
	return cmd
}

// Output runs a program there to its end, which must be a good one.
func (p *Peer) Output(t testing.TB, path string, args ...string) string {
	t.Helper()
	cmd, out, err := p.start(path, args...)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", path, strings.Join(args, " "), err, out.String())
	}
	return out.String()
}

// output is a buffer for a program's output, read while that still comes.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// Until waits up to a minute for something to be so.
func Until(t testing.TB, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !so(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after a minute: no %s", what)
		}
	}
}
