package compiler

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestBoundOptions: a bind mount may be given what the file system was mounted with, as long as that is a tmpfs's.
func TestBoundOptions(t *testing.T) {
	for opt, bad := range map[string]string{
		"": "", "mode=755": "", "size=1k": "", "mode=755,size=1k,uid=0,gid=5": "", "z": "z", "size=1k,Z": "Z", "upperdir=/x": "upperdir=/x",
	} {
		require.Equal(t, bad, boundOption(opt), opt)
	}
	in := full()
	before, err := Compile(in)
	require.NoError(t, err)
	for i, m := range in.Spec.Mounts {
		if m.Type == "bind" || len(m.Options) > 0 && m.Options[0] == "bind" {
			in.Spec.Mounts[i].Options = append([]string{"mode=755", "size=1k"}, m.Options...)
		}
	}
	after, err := Compile(in)
	require.NoError(t, err)
	require.Equal(t, before.String(), after.String())
}
