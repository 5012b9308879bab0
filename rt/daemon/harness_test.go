package daemon_test

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/rt/daemon"
	"github.com/coble-os/coble/rt/engine"
	"github.com/coble-os/coble/rt/networkdriver"
	"github.com/coble-os/coble/sandbox/cgroup"
)

// face is set for the processes that are the daemon under test: the keeper starts its engine as /proc/self/exe, which
// is this test's binary.
const face = "COBLE_TEST_FACE"

// patience bounds every wait for something that must happen.
const patience = 60 * time.Second

func TestMain(m *testing.M) {
	if os.Getenv(face) == "" || len(os.Args) < 2 {
		os.Exit(m.Run())
	}
	status, err := 0, error(nil)
	switch os.Args[1] {
	case "daemon":
		status, err = daemon.Main("test", os.Args[2:])
	case "engine":
		err = daemon.EngineMain("test", os.Args[2:])
	default:
		err = fmt.Errorf("unknown face %q", os.Args[1])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(status)
}

// machine is a daemon in folders of its own.
type machine struct {
	t    testing.TB
	dir  string // short: a socket's path has room for 108 bytes
	cmd  *exec.Cmd
	http *http.Client
	down bool

	driver string // graph driver; empty: the best
}

// newMachine starts a daemon; it is stopped and cleaned away with the test. config is TOML, or empty.
func newMachine(t testing.TB, config string) *machine {
	t.Helper()
	m := newFolders(t)
	if config != "" {
		m.writeConfig(config)
	}
	m.boot()
	return m
}

// newFolders is a machine that is still to be booted.
func newFolders(t testing.TB) *machine {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: run as root or make test-vm")
	}
	dir, err := os.MkdirTemp("/tmp", "cbt")
	require.NoError(t, err)
	m := &machine{t: t, dir: dir}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", m.sock())
	}
	m.http = &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	t.Cleanup(m.cleanUp)
	return m
}

func (m *machine) root() string { return m.dir + "/root" }
func (m *machine) run() string  { return m.dir + "/run" }
func (m *machine) sock() string { return m.dir + "/s" }
func (m *machine) name() string { return engine.InstanceName(m.root()) }

func (m *machine) writeConfig(toml string) {
	m.t.Helper()
	require.NoError(m.t, os.WriteFile(m.dir+"/coble.toml", []byte(toml), 0o644))
}

// boot starts keeper and engine and waits for an answer.
func (m *machine) boot() {
	m.t.Helper()
	args := []string{"daemon", "--root", m.root(), "--run", m.run(), "-H", "unix://" + m.sock()}
	if _, err := os.Stat(m.dir + "/coble.toml"); err == nil {
		args = append(args, "--config", m.dir+"/coble.toml")
	}
	if m.driver != "" {
		args = append(args, "--graph-driver", m.driver)
	}
	log, err := os.OpenFile(m.dir+"/log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	require.NoError(m.t, err)
	defer log.Close()
	m.cmd = exec.Command("/proc/self/exe", args...)
	m.cmd.Env = append(os.Environ(), face+"=1")
	m.cmd.Stdout, m.cmd.Stderr = log, log
	require.NoError(m.t, m.cmd.Start())
	m.down = false
	m.awaitEngine(0)
}

// stop ends the daemon politely.
func (m *machine) stop() {
	if m.down || m.cmd == nil {
		return
	}
	m.down = true
	m.cmd.Process.Signal(unix.SIGTERM)
	ended := make(chan error, 1)
	go func() { ended <- m.cmd.Wait() }()
	select {
	case err := <-ended:
		if err != nil {
			m.t.Errorf("the daemon ended with %v", err)
		}
	case <-time.After(patience):
		m.t.Error("the daemon does not stop")
		if pid := m.enginePid(); pid > 0 {
			unix.Kill(pid, unix.SIGQUIT)
		}
		m.cmd.Process.Kill()
		<-ended
		if pid := m.enginePid(); pid > 0 {
			unix.Kill(pid, unix.SIGKILL)
		}
	}
}

func (m *machine) cleanUp() {
	m.stop()
	if err := daemon.Clean(daemon.Options{Root: m.root(), Run: m.run()}); err != nil {
		m.t.Errorf("clean up: %v", err)
	}
	b, _ := os.ReadFile(m.dir + "/log")
	for _, bad := range []string{"DATA RACE", "panic:", "fatal error:"} {
		if i := bytes.Index(b, []byte(bad)); i >= 0 {
			m.t.Errorf("the daemon's log has a %s", b[i:min(len(b), i+8000)])
		}
	}
	if m.t.Failed() {
		m.t.Logf("the daemon's log:\n%s", b[max(0, len(b)-8000):])
	}
	os.RemoveAll(m.dir)
}

// until polls a condition that must come true.
func (m *machine) until(what string, cond func() bool) {
	m.t.Helper()
	for deadline := time.Now().Add(patience); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			require.FailNow(m.t, "waited in vain: "+what)
		}
	}
}

func (m *machine) enginePid() int {
	b, _ := os.ReadFile(m.run() + "/engine.pid")
	pid, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return pid
}

// awaitEngine waits until an engine other than old answers, and returns its pid.
func (m *machine) awaitEngine(old int) (pid int) {
	m.t.Helper()
	m.until("an engine that answers", func() bool {
		if pid = m.enginePid(); pid == 0 || pid == old {
			return false
		}
		status, _, err := m.try("GET", "/_ping", nil)
		return err == nil && status == 200 && m.enginePid() == pid
	})
	return pid
}

// killEngine sends SIGKILL to the engine and waits until it has gone.
func (m *machine) killEngine() (pid int) {
	m.t.Helper()
	pid = m.enginePid()
	require.Greater(m.t, pid, 1)
	require.NoError(m.t, unix.Kill(pid, unix.SIGKILL))
	m.until("the engine's end", func() bool { return m.enginePid() != pid })
	return pid
}

func (m *machine) try(method, path string, body any) (int, []byte, error) {
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case io.Reader:
		r = b
	default:
		j, err := json.Marshal(b)
		if err != nil {
			return 0, nil, err
		}
		r = bytes.NewReader(j)
	}
	req, err := http.NewRequest(method, "http://coble/v1.43"+path, r)
	if err != nil {
		return 0, nil, err
	}
	if _, stream := body.(io.Reader); r != nil && !stream {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := m.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, b, err
}

// call is a request that must be answered.
func (m *machine) call(method, path string, body any) (status int, text string) {
	m.t.Helper()
	status, b, err := m.try(method, path, body)
	require.NoError(m.t, err, "%s %s", method, path)
	return status, string(b)
}

// do is a request that must succeed.
func (m *machine) do(method, path string, body any) string {
	m.t.Helper()
	status, text := m.call(method, path, body)
	require.Less(m.t, status, 400, "%s %s: %s", method, path, text)
	return text
}

type request struct {
	container.Config
	HostConfig container.HostConfig
}

// create makes a container of the test image without a network, that any stop ends at once, and returns its id.
func (m *machine) create(name string, change func(*request), cmd ...string) string {
	m.t.Helper()
	req := request{Config: container.Config{Image: "box", Cmd: cmd, StopSignal: "KILL"}}
	req.HostConfig.NetworkMode = "none"
	if change != nil {
		change(&req)
	}
	text := m.do("POST", "/containers/create?name="+url.QueryEscape(name), req)
	var out struct{ ID string }
	require.NoError(m.t, json.Unmarshal([]byte(text), &out))
	return out.ID
}

func (m *machine) start(name string, change func(*request), cmd ...string) string {
	m.t.Helper()
	id := m.create(name, change, cmd...)
	m.do("POST", "/containers/"+id+"/start", nil)
	return id
}

// wait returns the exit code.
func (m *machine) wait(ref string) int {
	m.t.Helper()
	var out struct{ StatusCode int }
	require.NoError(m.t, json.Unmarshal([]byte(m.do("POST", "/containers/"+ref+"/wait", nil)), &out))
	return out.StatusCode
}

func (m *machine) inspect(ref string) (out container.InspectResponse) {
	m.t.Helper()
	require.NoError(m.t, json.Unmarshal([]byte(m.do("GET", "/containers/"+ref+"/json", nil)), &out))
	return out
}

func (m *machine) logs(ref string) string {
	m.t.Helper()
	return demux(m.t, strings.NewReader(m.do("GET", "/containers/"+ref+"/logs?stdout=1&stderr=1", nil)))
}

// demux takes the frames off a multiplexed stream.
func demux(t testing.TB, r io.Reader) string {
	t.Helper()
	var out strings.Builder
	var head [8]byte
	for {
		if _, err := io.ReadFull(r, head[:]); err == io.EOF {
			return out.String()
		} else {
			require.NoError(t, err)
		}
		_, err := io.CopyN(&out, r, int64(binary.BigEndian.Uint32(head[4:])))
		require.NoError(t, err)
	}
}

// attach takes over a connection to a container.
func (m *machine) attach(ref string) (*net.UnixConn, *bufio.Reader) {
	m.t.Helper()
	c, err := net.Dial("unix", m.sock())
	require.NoError(m.t, err)
	m.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(c, "POST /v1.43/containers/%s/attach?stream=1&stdin=1&stdout=1&stderr=1 HTTP/1.1\r\nHost: coble\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n", ref)
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	require.NoError(m.t, err)
	require.Equal(m.t, 101, resp.StatusCode)
	return c.(*net.UnixConn), r
}

// left lists what the kernel holds for containers of this daemon: control groups, links, and run folders.
func (m *machine) left() (list []string) {
	m.t.Helper()
	layout, err := cgroup.Detect()
	require.NoError(m.t, err)
	add := func(what, dir string) {
		entries, _ := os.ReadDir(dir)
		for _, d := range entries {
			if what != "cgroup" || d.IsDir() {
				list = append(list, what+" "+d.Name())
			}
		}
	}
	for _, h := range layout.Hierarchies {
		add("cgroup", filepath.Join(h.Mount, m.name()))
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(m.t, err)
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); strings.HasPrefix(f[4], m.run()+"/") {
			list = append(list, "mount "+f[4])
		}
	}
	add("link", "/sys/class/net/"+networkdriver.BridgeName(m.name())+"/brif")
	slices.Sort(list)
	return slices.Compact(list)
}

// children lists the processes whose parent is pid.
func children(pid int) (pids []int) {
	procs, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, p := range procs {
		b, _ := os.ReadFile(p)
		_, rest, _ := strings.Cut(string(b), ") ")
		var state string
		var parent, child int
		fmt.Sscan(rest, &state, &parent)
		fmt.Sscan(string(b), &child)
		if parent == pid {
			pids = append(pids, child)
		}
	}
	return pids
}

func alive(pid int) bool { return pid > 0 && unix.Kill(pid, 0) == nil }

// loadBox gives the daemon the image "box": busybox, built into a docker-archive.
func (m *machine) loadBox() {
	m.t.Helper()
	m.do("POST", "/images/load?quiet=1", bytes.NewReader(boxArchive(m.t)))
}

// boxArchive is what `docker save box` would write.
func boxArchive(t testing.TB) []byte {
	t.Helper()
	busybox, err := os.ReadFile("/bin/busybox")
	require.NoError(t, err, "needs busybox: apt-get install busybox-static")
	list, err := exec.Command("/bin/busybox", "--list").Output()
	require.NoError(t, err)
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	add := func(h tar.Header, data []byte) {
		h.Size = int64(len(data))
		require.NoError(t, w.WriteHeader(&h))
		_, err := w.Write(data)
		require.NoError(t, err)
	}
	for _, dir := range []string{"bin/", "etc/", "tmp/", "gate/"} {
		add(tar.Header{Name: dir, Typeflag: tar.TypeDir, Mode: 0o755}, nil)
	}
	add(tar.Header{Name: "bin/busybox", Typeflag: tar.TypeReg, Mode: 0o755}, busybox)
	for _, applet := range strings.Fields(string(list)) {
		if applet != "busybox" {
			add(tar.Header{Name: "bin/" + applet, Typeflag: tar.TypeSymlink, Linkname: "busybox", Mode: 0o777}, nil)
		}
	}
	add(tar.Header{Name: "etc/passwd", Typeflag: tar.TypeReg, Mode: 0o644}, []byte("root:x:0:0:root:/:/bin/sh\n"))
	add(tar.Header{Name: "etc/group", Typeflag: tar.TypeReg, Mode: 0o644}, []byte("root:x:0:\n"))
	add(tar.Header{Name: "etc/plain", Typeflag: tar.TypeReg, Mode: 0o644}, []byte("no program\n"))
	require.NoError(t, w.Close())

	sum := sha256.Sum256(layer.Bytes())
	config := fmt.Appendf(nil, `{"architecture":%q,"os":"linux","config":{"Env":["PATH=/bin"],"Cmd":["sh"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}`,
		runtime.GOARCH, hex.EncodeToString(sum[:]))
	csum := sha256.Sum256(config)
	cname := hex.EncodeToString(csum[:]) + ".json"
	var archive bytes.Buffer
	w = tar.NewWriter(&archive)
	add(tar.Header{Name: "layer.tar", Typeflag: tar.TypeReg, Mode: 0o644}, layer.Bytes())
	add(tar.Header{Name: cname, Typeflag: tar.TypeReg, Mode: 0o644}, config)
	add(tar.Header{Name: "manifest.json", Typeflag: tar.TypeReg, Mode: 0o644},
		fmt.Appendf(nil, `[{"Config":%q,"RepoTags":["box:latest"],"Layers":["layer.tar"]}]`, cname))
	require.NoError(t, w.Close())
	return archive.Bytes()
}

// secondDaemon is a daemon for the folders of one that runs.
func secondDaemon(m *machine) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", "daemon", "--root", m.root(), "--run", m.run(), "-H", "unix://"+m.sock()+"2")
	cmd.Env = append(os.Environ(), face+"=1")
	return cmd
}
