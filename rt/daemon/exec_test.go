package daemon_test

import (
	"encoding/json"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/stretchr/testify/require"
)

// exec runs a command in a container, detached, and returns its exit code.
func (m *machine) exec(ref string, cmd ...string) int {
	m.t.Helper()
	var created struct{ Id string }
	require.NoError(m.t, json.Unmarshal([]byte(m.do("POST", "/containers/"+ref+"/exec", container.ExecCreateRequest{Cmd: cmd})), &created))
	m.call("POST", "/exec/"+created.Id+"/start", container.ExecStartRequest{Detach: true})
	var x container.ExecInspectResponse
	m.until("the exec's end", func() bool {
		require.NoError(m.t, json.Unmarshal([]byte(m.do("GET", "/exec/"+created.Id+"/json", nil)), &x))
		return x.ExitCode != nil
	})
	require.False(m.t, x.Running)
	return *x.ExitCode
}

// TestExec: other commands run beside the container's own, also in one that an engine took over.
func TestExec(t *testing.T) {
	m := newMachine(t, "")
	m.loadBox()
	m.start("host", nil, "sleep", "1000")
	require.Equal(t, 5, m.exec("host", "sh", "-c", "echo kept > /tmp/f; exit 5"))
	require.Equal(t, 0, m.exec("host", "grep", "kept", "/tmp/f"))
	require.Equal(t, 127, m.exec("host", "no-such-command"))
	require.Equal(t, 126, m.exec("host", "/etc/plain"))

	m.awaitEngine(m.killEngine())
	require.Equal(t, 0, m.exec("host", "grep", "kept", "/tmp/f"))

	m.do("POST", "/containers/host/pause", nil)
	status, text := m.call("POST", "/containers/host/exec", container.ExecCreateRequest{Cmd: []string{"true"}})
	require.Equal(t, 409, status)
	require.Contains(t, text, "paused")
	m.do("POST", "/containers/host/unpause", nil)
	require.Equal(t, 0, m.exec("host", "true"))
}
