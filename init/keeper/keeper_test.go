package keeper

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/init/keeper/reap"
	"github.com/coble-os/coble/init/keeper/wire"
	"github.com/coble-os/coble/init/notify"
)

// The test binary plays three parts, chosen by argv[1]: the tests, the keeper
// and the engine. The engine obeys lines from a fifo and answers on stdout.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "test-keeper":
			os.Exit(Run(Config{RunDir: os.Args[2], Engine: []string{os.Args[3], "test-engine", os.Args[2]}}))
		case "test-init":
			// Stdout and stderr become the machine's console; what the test wants to
			// see goes to the fifo /out.
			out, err := os.OpenFile("/out", os.O_WRONLY, 0)
			if err != nil {
				os.Exit(1)
			}
			Run(Config{RunDir: "/run/coble", Engine: []string{"/init", "test-engine", "/"}, Init: true, Log: out})
		case "test-engine":
			os.Exit(engineMain(os.Args[2]))
		case "test-orphan": // exits with status 7 when its stdin ends
			_, _ = bufio.NewReader(os.Stdin).ReadByte()
			os.Exit(7)
		case "test-last-words":
			exit(lastWords(os.Args[2]))
		case "test-dying-engine":
			exit(dyingEngine(os.Args[2]))
		case "test-idle":
			time.Sleep(time.Hour)
		}
	}
	os.Exit(m.Run())
}

func exit(err error) {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

func engineMain(dir string) int {
	if dir == "/" {
		out, err := unix.Open("/out", unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err != nil || unix.Dup3(out, 1, 0) != nil || unix.Dup3(out, 2, 0) != nil {
			return 1
		}
	}
	conn, files, err := notify.Open()
	if err != nil {
		fmt.Println("open:", err)
		return 1
	}
	told := signals() // before anybody may send one
	var names []string
	for _, f := range files {
		names = append(names, f.Name)
	}
	fmt.Printf("engine %d files %v\n", os.Getpid(), names)
	go func() {
		for {
			e, err := conn.Exit.Next()
			if err != nil {
				fmt.Println("exits:", err)
				os.Exit(3) // the keeper is gone
			}
			fmt.Printf("exit ready=%v pid=%d start=%d status=%d\n", e.Ready, e.PID, e.Start, e.Status)
		}
	}()
	go handleTerm(conn, told)
	return obey(dir, conn, files)
}

func obey(dir string, conn *notify.Conn, files []notify.File) int {
	f, err := os.OpenFile(filepath.Join(dir, "orders"), os.O_RDWR, 0)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		verb, arg, _ := strings.Cut(lines.Text(), " ")
		var err error
		switch verb {
		case "send":
			err = conn.Send(strings.Split(arg, "|")...)
		case "store":
			var p [2]int
			err = unix.Pipe2(p[:], unix.O_CLOEXEC)
			if err == nil {
				_, err = unix.Write(p[1], []byte(arg))
			}
			if err == nil {
				err = conn.Store(arg, p[0])
			}
		case "read": // what is in the pipe that was inherited as arg
			for _, f := range files {
				if f.Name == arg {
					buf := make([]byte, 100)
					n, _ := unix.Read(f.FD, buf)
					fmt.Printf("content %s\n", buf[:n])
				}
			}
		case "barrier":
			err = conn.Barrier(10 * time.Second)
		case "child":
			err = startOrphan(dir)
		case "exit":
			n, _ := strconv.Atoi(arg)
			return n
		}
		fmt.Printf("done %s %v\n", lines.Text(), err)
	}
	return 1
}

func startOrphan(dir string) error {
	r, err := os.OpenFile(filepath.Join(dir, "orphan"), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer r.Close()
	pid, err := syscall.ForkExec("/proc/self/exe", []string{"orphan", "test-orphan"},
		&syscall.ProcAttr{Files: []uintptr{r.Fd(), 1, 2}})
	fmt.Printf("child %d\n", pid)
	return err
}

// handleTerm is a well-behaved engine's answer to SIGTERM and SIGHUP.
func handleTerm(conn *notify.Conn, told <-chan os.Signal) {
	for s := range told {
		fmt.Println("got", s)
		if s == unix.SIGTERM && os.Getenv("ENGINE_IGNORES_TERM") == "" {
			_ = conn.Send("STOPPING=1")
			os.Exit(0)
		}
	}
}

// rig is one keeper under test.
type rig struct {
	t     *testing.T
	dir   string
	cmd   *exec.Cmd
	out   *transcript
	ended chan error
	fifo  *os.File // of orders; open at all times, or what is in it would be lost
}

// transcript collects what keeper and engine print and lets the test wait for
// a line.
type transcript struct {
	mu      sync.Mutex
	text    bytes.Buffer
	changed chan struct{}
}

func (w *transcript) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text.Write(p)
	close(w.changed)
	w.changed = make(chan struct{})
	return len(p), nil
}

func (w *transcript) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

// wait returns the rest of the nth line (from 1) that begins with prefix.
func (w *transcript) wait(t *testing.T, prefix string, nth int) string {
	t.Helper()
	limit := time.After(30 * time.Second)
	for {
		w.mu.Lock()
		text, changed := w.text.String(), w.changed
		w.mu.Unlock()
		text = text[:strings.LastIndexByte(text, '\n')+1]
		seen := 0
		for line := range strings.SplitSeq(text, "\n") {
			if rest, ok := strings.CutPrefix(line, prefix); ok {
				if seen++; seen == nth {
					return rest
				}
			}
		}
		select {
		case <-changed:
		case <-limit:
			t.Fatalf("no line %d beginning with %q in\n%s", nth, prefix, text)
		}
	}
}

// newRig makes a folder with the fifos that engine and orphan listen to.
func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), out: &transcript{changed: make(chan struct{})}, ended: make(chan error, 1)}
	for _, fifo := range []string{"orders", "orphan"} {
		require.NoError(t, unix.Mkfifo(filepath.Join(r.dir, fifo), 0o600))
	}
	var err error
	r.fifo, err = os.OpenFile(filepath.Join(r.dir, "orders"), os.O_RDWR, 0)
	require.NoError(t, err)
	return r
}

// begin starts r.cmd and waits for its engine.
func (r *rig) begin() {
	r.t.Helper()
	r.cmd.Stdout, r.cmd.Stderr = r.out, r.out
	require.NoError(r.t, r.cmd.Start())
	go func() { r.ended <- r.cmd.Wait() }()
	r.t.Cleanup(r.cleanUp)
	r.out.wait(r.t, "engine ", 1)
	r.out.wait(r.t, "exit ready=true", 1)
}

func start(t *testing.T, env ...string) *rig {
	t.Helper()
	r := newRig(t)
	exe, err := os.Executable()
	require.NoError(t, err)
	r.cmd = exec.Command(exe, "test-keeper", r.dir, exe)
	r.cmd.Env = append(os.Environ(), env...)
	r.begin()
	return r
}

func (r *rig) cleanUp() {
	_ = r.cmd.Process.Kill()
	_ = r.fifo.Close()
	if pid := r.pidFile("engine.pid"); pid > 0 {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	for line := range strings.SplitSeq(r.out.String(), "\n") {
		if pid, ok := strings.CutPrefix(line, "child "); ok {
			n, _ := strconv.Atoi(pid)
			if exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", n)); strings.Contains(exe, ".test") {
				_ = unix.Kill(n, unix.SIGKILL)
			}
		}
	}
	if r.t.Failed() {
		r.t.Log(r.out.String())
	}
}

func (r *rig) pidFile(name string) int {
	data, _ := os.ReadFile(filepath.Join(r.dir, name))
	n, _ := strconv.Atoi(strings.TrimSpace(string(data)))
	return n
}

// order writes one line to the engine's fifo and waits until it is obeyed.
func (r *rig) order(line string) {
	r.t.Helper()
	before := strings.Count(r.out.String(), "done "+line+" ")
	r.say(line)
	require.Equal(r.t, "<nil>", r.out.wait(r.t, "done "+line+" ", before+1))
}

func (r *rig) say(line string) {
	_, err := r.fifo.WriteString(line + "\n")
	require.NoError(r.t, err)
}

// killEngine kills engine number nth with SIGKILL and waits for the next one.
func (r *rig) killEngine(nth int) {
	r.t.Helper()
	require.NoError(r.t, unix.Kill(r.enginePid(nth), unix.SIGKILL))
	r.out.wait(r.t, "engine ", nth+1)
}

func (r *rig) enginePid(nth int) int {
	var pid int
	_, err := fmt.Sscan(r.out.wait(r.t, "engine ", nth), &pid)
	require.NoError(r.t, err)
	return pid
}

func (r *rig) wait() error {
	r.t.Helper()
	select {
	case err := <-r.ended:
		return err
	case <-time.After(30 * time.Second):
		r.t.Fatal("the keeper does not end")
		return nil
	}
}

func TestDescriptorsOutliveKills(t *testing.T) {
	r := start(t)
	require.Equal(t, r.cmd.Process.Pid, r.pidFile("keeper.pid"))
	r.order("send READY=1|STATUS=fine")
	r.order("store one")
	r.order("store two")
	r.order("barrier")
	r.killEngine(1)
	require.Contains(t, r.out.wait(t, "engine ", 2), "files [one two]")
	r.out.wait(t, "keeper: engine started, pid", 2) // the file is written before that is said
	require.Equal(t, r.enginePid(2), r.pidFile("engine.pid"))
	r.order("read one")
	require.Equal(t, "one", r.out.wait(t, "content ", 1))
	r.order("send FDSTOREREMOVE=1|FDNAME=one")
	r.order("barrier")
	r.killEngine(2)
	require.Contains(t, r.out.wait(t, "engine ", 3), "files [two]")
}

// A keeper that gets no processor for a while finds the engine's death and its last datagrams at the same time.
// The keeper's part is played by another process, since it waits for any child.
func TestLastWordsOfAnEngineAreHeard(t *testing.T) {
	exe, err := os.Executable()
	require.NoError(t, err)
	out, err := exec.Command(exe, "test-last-words", t.TempDir()).CombinedOutput()
	require.NoError(t, err)
	require.Regexp(t, `^keeper: engine (\d+) is ready\nkeeper: engine \d+ ended: signal killed\n$`, string(out))
}

// lastWords sees an engine that says READY=1 and kills itself, in one look.
func lastWords(dir string) error {
	socket, err := listenNotify(dir + "/notify")
	if err != nil {
		return err
	}
	engine := exec.Command("/proc/self/exe", "test-dying-engine", dir+"/notify")
	if err := engine.Start(); err != nil {
		return err
	}
	if err := unix.Waitid(unix.P_PID, engine.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		return err
	}
	k := &keeper{c: Config{RunDir: dir}, log: &logger{out: os.Stdout}, notify: socket}
	k.engine.pid, k.engine.sock = engine.Process.Pid, -1
	k.reap()
	return nil
}

func dyingEngine(path string) error {
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Sendto(socket, []byte("READY=1"), 0, &unix.SockaddrUnix{Name: path})
	}
	if err == nil {
		err = unix.Kill(os.Getpid(), unix.SIGKILL)
	}
	return err
}

func TestExitsAreRemembered(t *testing.T) {
	r := start(t)
	r.order("child")
	pid := r.out.wait(t, "child ", 1)
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	require.NoError(t, err)
	want := fmt.Sprintf("pid=%s start=%d status=%d", pid, reap.StartTime(stat), 7<<8)
	r.killEngine(1)
	r.out.wait(t, "exit ready=true", 2)

	// The orphan ends under the second engine, which is told at once.
	r.releaseOrphan()
	r.out.wait(t, "exit ready=false "+want, 1)
	// A third engine is told too, before READY, until it says FORGET.
	r.killEngine(2)
	r.out.wait(t, "exit ready=false "+want, 2)
	r.out.wait(t, "exit ready=true", 3)
	all := r.out.String()
	require.Less(t, strings.LastIndex(all, "exit ready=false "+want), strings.LastIndex(all, "exit ready=true"))
	r.order(fmt.Sprintf("send FORGET=%s %d", pid, reap.StartTime(stat)))
	r.order("barrier")
	r.killEngine(3)
	r.out.wait(t, "exit ready=true", 4)
	require.Equal(t, 2, strings.Count(r.out.String(), want))
}

func TestTermStopsTheEngineFirst(t *testing.T) {
	r := start(t)
	r.order("send READY=1")
	require.NoError(t, r.cmd.Process.Signal(unix.SIGHUP))
	r.out.wait(t, "got hangup", 1)
	require.NoError(t, r.cmd.Process.Signal(unix.SIGTERM))
	require.NoError(t, r.wait())
	r.out.wait(t, "got terminated", 1)
	require.NoFileExists(t, filepath.Join(r.dir, "engine.pid"))
	require.NoFileExists(t, filepath.Join(r.dir, "keeper.pid"))
}

func TestEngineThatIgnoresTermIsKilled(t *testing.T) {
	r := start(t, "ENGINE_IGNORES_TERM=1")
	r.order("send EXTEND_TIMEOUT_USEC=200000")
	r.order("barrier")
	require.NoError(t, r.cmd.Process.Signal(unix.SIGTERM))
	require.Error(t, r.wait())
	require.Equal(t, 1, r.cmd.ProcessState.ExitCode())
	r.out.wait(t, "got terminated", 1)
}

func TestShutdownRequestTakesTheSamePath(t *testing.T) {
	r := start(t)
	r.say("send SHUTDOWN=poweroff")
	require.NoError(t, r.wait())
	r.out.wait(t, "got terminated", 1)
}

func TestCleanEndOfTheEngineEndsTheKeeper(t *testing.T) {
	r := start(t)
	r.order("send STOPPING=1")
	r.say("exit 0")
	require.NoError(t, r.wait())
}

func TestStatusZeroWithoutWordIsARestart(t *testing.T) {
	r := start(t)
	r.say("exit 0")
	r.out.wait(t, "engine ", 2)
}

func TestReplaceKeepsEverything(t *testing.T) {
	r := start(t)
	r.order("send READY=1")
	r.order("store one")
	r.order("child")
	child := r.out.wait(t, "child ", 1)
	r.killEngine(1)
	r.order("store two")
	r.releaseOrphan()
	r.out.wait(t, "exit ready=false pid="+child, 1)
	for i := range 3 {
		require.NoError(t, r.cmd.Process.Signal(unix.SIGUSR2))
		r.out.wait(t, "keeper: keeper replaced", i+1)
	}
	r.order("send REEXEC=1")
	r.out.wait(t, "keeper: keeper replaced", 4)
	r.order("barrier")
	require.Equal(t, r.enginePid(2), r.pidFile("engine.pid"))
	require.NotContains(t, r.out.String(), "exits:")
	require.Equal(t, 1, strings.Count(r.out.String(), "exit ready=false pid="+child), "nothing is sent twice")

	r.killEngine(2)
	require.Contains(t, r.out.wait(t, "engine ", 3), "files [one two]")
	r.out.wait(t, "exit ready=false pid="+child, 2)
	r.order("read two")
	require.Equal(t, "two", r.out.wait(t, "content ", 1))
	require.NoError(t, r.cmd.Process.Signal(unix.SIGTERM))
	require.NoError(t, r.wait())
}

func TestSecondKeeperIsRefused(t *testing.T) {
	r := start(t)
	exe, err := os.Executable()
	require.NoError(t, err)
	out, err := exec.Command(exe, "test-keeper", r.dir, exe).CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "another keeper holds")
	r.order("barrier")
}

func TestOnlyTheEngineIsHeard(t *testing.T) {
	r := start(t)
	sock, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(sock)
	addr := &unix.SockaddrUnix{Name: filepath.Join(r.dir, "notify")}
	require.NoError(t, unix.Sendto(sock, []byte("SHUTDOWN=poweroff"), 0, addr))
	r.out.wait(t, fmt.Sprintf("keeper: notify: datagram from pid %d of uid %d refused", os.Getpid(), os.Getuid()), 1)
	for _, bad := range []string{"SHUTDOWN=now", "FDSTORE=1", "\x00", "FORGET=x", strings.Repeat("x", wire.MaxMessage+1)} {
		r.order("send " + bad)
	}
	r.order("barrier")
	require.Equal(t, 1, strings.Count(r.out.String(), "\nengine ")+strings.Count(r.out.String()[:7], "engine "))
}

// Ten engines are killed while children end before and after them: the last
// engine is told every exit, once, before READY.
func TestNoExitIsLostOverKills(t *testing.T) {
	r := start(t)
	var pids []string
	for i := 1; i <= 10; i++ {
		r.order("send READY=1") // else the pauses between engines grow to 10 s
		r.order("child")
		pid := r.out.wait(t, "child ", i)
		pids = append(pids, pid)
		r.killEngine(i) // the orphan is the keeper's now
		r.releaseOrphan()
		if i%2 == 0 { // half of the exits are seen live, half may happen between two engines
			r.out.wait(t, "exit ready=false pid="+pid+" ", 1)
		}
		r.out.wait(t, "exit ready=true", i+1)
	}
	for _, pid := range pids {
		r.out.wait(t, "exit ready=false pid="+pid+" ", 1)
	}
	r.order("send READY=1")
	r.order("barrier")
	r.killEngine(11)
	r.out.wait(t, "exit ready=true", 12)
	all := r.out.String()
	last := all[strings.LastIndex(all, "\nengine "):strings.LastIndex(all, "exit ready=true")]
	require.Equal(t, 10, strings.Count(last, "exit ready=false"))
	for _, pid := range pids {
		require.Equal(t, 1, strings.Count(last, " pid="+pid+" "), pid)
	}
}

// releaseOrphan lets the one orphan that waits end.
func (r *rig) releaseOrphan() {
	r.t.Helper()
	f, err := os.OpenFile(filepath.Join(r.dir, "orphan"), os.O_RDWR, 0)
	require.NoError(r.t, err)
	defer f.Close()
	_, err = f.WriteString("x")
	require.NoError(r.t, err)
}
