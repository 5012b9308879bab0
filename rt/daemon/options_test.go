package daemon_test

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/stretchr/testify/require"
)

// output runs a container to its end and returns what it printed.
func (m *machine) output(name string, change func(*request), cmd ...string) string {
	m.t.Helper()
	m.start(name, change, cmd...)
	m.wait(name)
	return m.logs(name)
}

func (m *machine) top(ref, args string) (out container.TopResponse) {
	m.t.Helper()
	require.NoError(m.t, json.Unmarshal([]byte(m.do("GET", "/containers/"+ref+"/top?ps_args="+args, nil)), &out))
	return out
}

// TestWatching: top, stats and update of a container that runs, also after another engine took it over.
func TestWatching(t *testing.T) {
	m := newMachine(t, "")
	m.loadBox()
	m.start("web", func(r *request) { r.HostConfig.Memory = 64 << 20 }, "sh", "-c", "sleep 777 & while :; do :; done")
	m.until("both processes", func() bool {
		all := m.top("web", "").Processes
		return len(all) == 2 && slices.Contains(all[1], "sleep 777") // and not the shell's fork
	})
	pid := strconv.Itoa(m.inspect("web").State.Pid)
	top := m.top("web", "-o+pid,args")
	require.Equal(t, []string{"PID", "COMMAND"}, top.Titles)
	require.Equal(t, pid, top.Processes[0][0])
	require.Contains(t, top.Processes[1], "sleep 777")
	status, text := m.call("GET", "/containers/web/top?ps_args=-o+nope", nil)
	require.Equal(t, 400, status, text)

	m.awaitEngine(m.killEngine())
	var s container.StatsResponse
	require.NoError(t, json.Unmarshal([]byte(m.do("GET", "/containers/web/stats?stream=false", nil)), &s))
	require.Equal(t, "/web", s.Name)
	require.EqualValues(t, 64<<20, s.MemoryStats.Limit)
	require.EqualValues(t, 2, s.PidsStats.Current)
	require.Greater(t, s.CPUStats.CPUUsage.TotalUsage, s.PreCPUStats.CPUUsage.TotalUsage)
	require.Greater(t, s.CPUStats.SystemUsage, s.PreCPUStats.SystemUsage)

	pids := int64(7)
	m.do("POST", "/containers/web/update", container.UpdateConfig{
		Resources: container.Resources{Memory: 32 << 20, MemorySwap: 32 << 20, PidsLimit: &pids}, RestartPolicy: container.RestartPolicy{Name: "always"},
	})
	require.NoError(t, json.Unmarshal([]byte(m.do("GET", "/containers/web/stats?stream=false&one-shot=1", nil)), &s))
	require.EqualValues(t, 32<<20, s.MemoryStats.Limit)
	require.EqualValues(t, 7, s.PidsStats.Limit)
	m.awaitEngine(m.killEngine())
	got := m.inspect("web").HostConfig
	require.EqualValues(t, []any{int64(32 << 20), int64(7), container.RestartPolicyAlways}, []any{got.Memory, *got.PidsLimit, got.RestartPolicy.Name})
	status, _ = m.call("POST", "/containers/web/update", container.UpdateConfig{Resources: container.Resources{Memory: 1 << 20}})
	require.Equal(t, 400, status)
	m.do("DELETE", "/containers/web?force=1", nil)
	require.Empty(t, m.left())
}

// TestJoining: containers share process, IPC and network namespaces, and nothing of that is left behind.
func TestJoining(t *testing.T) {
	m := newMachine(t, "")
	m.loadBox()
	m.start("first", func(r *request) { r.HostConfig.IpcMode, r.HostConfig.ShmSize = "shareable", 1<<20 }, "sh", "-c", "echo shared > /dev/shm/f; exec sleep 888")
	m.until("the file", func() bool { return m.exec("first", "test", "-s", "/dev/shm/f") == 0 })
	require.Contains(t, m.output("pid", func(r *request) { r.HostConfig.PidMode = "container:first" }, "ps"), "sleep 888")
	require.Equal(t, "shared\n", m.output("ipc", func(r *request) { r.HostConfig.IpcMode = "container:first" }, "cat", "/dev/shm/f"))
	require.Equal(t, "1024\n", m.output("size", func(r *request) { r.HostConfig.IpcMode = "container:first" }, "sh", "-c", "df -k /dev/shm | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2"))
	m.start("web", func(r *request) { r.HostConfig.NetworkMode = "container:first" }, "httpd", "-f", "-p", "127.0.0.1:80", "-h", "/etc")
	m.until("the server", func() bool { return m.exec("first", "wget", "-q", "-O", "/dev/null", "http://127.0.0.1/plain") == 0 })
	require.Equal(t, "container:"+m.inspect("first").ID, string(m.inspect("web").HostConfig.NetworkMode))
	require.Contains(t, m.left(), "mount "+m.run()+"/c/"+m.inspect("first").ID+"/shm")

	status, text := m.call("POST", "/containers/create?name=bad", request{container.Config{Image: "box", Cmd: []string{"true"}}, container.HostConfig{PidMode: "container:nobody"}})
	require.Equal(t, 404, status, text)
	m.start("private", nil, "sleep", "1000")
	m.create("refused", func(r *request) { r.HostConfig.IpcMode = "container:private" }, "true")
	status, text = m.call("POST", "/containers/refused/start", nil)
	require.Equal(t, 409, status)
	require.Contains(t, text, "--ipc shareable")

	m.awaitEngine(m.killEngine())
	require.Equal(t, 0, m.exec("first", "true"), "those who share the process namespace stand still and go on")
	for _, name := range []string{"web", "first", "private"} {
		m.do("DELETE", "/containers/"+name+"?force=1", nil)
	}
	require.Empty(t, m.left())
}

// TestDevicesAndPrivilege: nodes of the host are there for whom they are given to, with the access that was asked for.
func TestDevicesAndPrivilege(t *testing.T) {
	m := newMachine(t, "")
	m.loadBox()
	const probe = "ls /dev | tr '\\n' ' '; head -c 1 /dev/kk >/dev/null 2>&1; (echo x > /dev/kk) 2>/dev/null && echo written"
	given := m.output("given", func(r *request) {
		r.HostConfig.Devices = []container.DeviceMapping{{PathOnHost: "/dev/zero", PathInContainer: "/dev/kk", CgroupPermissions: "rm"}}
		r.HostConfig.DeviceCgroupRules = []string{"c 10:229 r"}
	}, "sh", "-c", probe)
	require.Contains(t, given, " kk ")
	require.NotContains(t, m.output("plain", nil, "ls", "/dev"), "kk")
	m.create("missing", func(r *request) { r.HostConfig.Devices = []container.DeviceMapping{{PathOnHost: "/dev/nosuch"}} }, "true")
	status, text := m.call("POST", "/containers/missing/start", nil)
	require.Equal(t, 400, status)
	require.Contains(t, text, "/dev/nosuch")

	privileged := m.output("privileged", func(r *request) { r.HostConfig.Privileged = true }, "sh", "-c", "mount -t tmpfs x /tmp && echo mounted; grep -c Seccomp:.0 /proc/self/status; echo 1 > /proc/sys/net/ipv4/ip_forward && echo set")
	require.Equal(t, "mounted\n1\nset\n", privileged)
	yes := true
	reaped := m.output("init", func(r *request) { r.HostConfig.Init = &yes }, "sh", "-c", "echo $$; cat /proc/1/comm; kill -TERM $$")
	require.Equal(t, "2\ndocker-init\n", reaped)
	require.Equal(t, 143, m.inspect("init").State.ExitCode)
	profile := `seccomp={"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}`
	require.Contains(t, strings.ToLower(m.output("profile", func(r *request) { r.HostConfig.SecurityOpt = []string{profile} }, "mkdir", "/x")), "not permitted")
}
