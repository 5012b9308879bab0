package compiler

import (
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/sandbox/plan"
)

// gated is a small container that waits for its start, with a hook of each kind that runs in the child.
func gated() Input {
	in := Input{Spec: base("sh"), Root: "/srv/root", Facts: facts(), Barrier: true, Gate: true, Keep: 2}
	limit := 5
	in.Spec.Hooks = &specs.Hooks{
		CreateContainer: []specs.Hook{{Path: "/usr/bin/made", Args: []string{"made", "x"}, Env: []string{"A=1"}, Timeout: &limit}},
		StartContainer:  []specs.Hook{{Path: "/bin/started"}},
	}
	return in
}

func TestGate(t *testing.T) {
	p, err := Compile(gated())
	require.NoError(t, err)
	golden(t, "gate.plan", p.String())
	require.Equal(t, 2, p.Barriers)
	require.Equal(t, "read", p.Calls[p.Gate].Name)
	require.Equal(t, "wait for the start", p.Calls[p.Gate].Doc)
	require.Subset(t, p.Inputs, []string{Gate, StateCreating, StateCreated, "sync", "sync.parent"})
	golden(t, "placeholder.plan", Placeholder().String())

	in := gated()
	in.Barrier, in.Spec.Hooks = false, nil
	_, err = Compile(in)
	require.EqualError(t, err, "a gate needs a barrier")
	in = gated()
	in.Barrier, in.Gate = false, false
	_, err = Compile(in)
	require.EqualError(t, err, "hooks: need a barrier, at which they are given their state")
}

// TestForkEndsInExec: what a child of the child does ends in execve, and the next call waits for it.
func TestForkEndsInExec(t *testing.T) {
	p, err := Compile(gated())
	require.NoError(t, err)
	forks := 0
	for i, c := range p.Calls {
		if c.Name != plan.Fork {
			continue
		}
		forks++
		last := i + c.SkipOK
		require.Equal(t, "execve", p.Calls[last].Name)
		require.Contains(t, []string{"ppoll", "waitid"}, p.Calls[last+1].Name)
	}
	require.Equal(t, 2, forks)
}

func TestRefusedHooks(t *testing.T) {
	zero := 0
	for want, h := range map[string]*specs.Hooks{
		`hooks.createRuntime[0].path: "x" is not absolute`: {CreateRuntime: []specs.Hook{{Path: "x"}}},
		"hooks.poststart[0].timeout: 0 is not above 0":     {Poststart: []specs.Hook{{Path: "/x", Timeout: &zero}}},
	} {
		in := gated()
		in.Spec.Hooks = h
		_, err := Compile(in)
		require.EqualError(t, err, want)
	}
}
