package compiler

import (
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
)

// TestFilterPlace: a filter comes last, but where it has a listener, or needs privilege that is lost when the user
// changes: then right before that, and the listener is sent at once.
func TestFilterPlace(t *testing.T) {
	place := func(change func(*specs.Spec)) (filter, user, exec int, lines []string) {
		in := full()
		change(in.Spec)
		p, err := Compile(in)
		require.NoError(t, err)
		lines = strings.Split(p.String(), "\n")
		at := func(s string) int {
			return slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, s) || strings.Contains(l, "= "+s) })
		}
		return at("seccomp("), at("prctl(PR_SET_KEEPCAPS"), at("execve("), lines
	}
	filter, _, exec, _ := place(func(*specs.Spec) {})
	require.Equal(t, exec-1, filter)

	filter, _, exec, lines := place(func(s *specs.Spec) { s.Process.NoNewPrivileges = false })
	require.Equal(t, exec-1, filter)
	require.Contains(t, strings.Join(lines, "\n"), "effective 0xa82425fb, permitted 0xa82425fb,", "with CAP_SYS_ADMIN")

	filter, user, _, _ := place(func(s *specs.Spec) { s.Process.NoNewPrivileges, s.Process.Capabilities = false, nil })
	require.Equal(t, user-1, filter)

	filter, user, _, lines = place(func(s *specs.Spec) {
		s.Linux.Seccomp = &specs.LinuxSeccomp{
			DefaultAction: specs.ActAllow, ListenerPath: "/run/agent", Flags: []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagWaitKillableRecv},
			Syscalls: []specs.LinuxSyscall{{Names: []string{"mount"}, Action: specs.ActNotify}},
		}
	})
	require.Equal(t, user-2, filter)
	require.Regexp(t, `^\$notify = seccomp\(SECCOMP_SET_MODE_FILTER, 0x28, <filter of \d+ instructions>\)$`, lines[filter])
	require.Equal(t, "sendmsg($listener, {SCM_RIGHTS [$notify]}, 0) want 1", lines[filter+1])
}
