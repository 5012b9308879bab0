package daemon_test

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/rt/client/command"
	"github.com/coble-os/coble/rt/client/conn"
	"github.com/coble-os/coble/rt/client/containers"
)

// TestStartInFront: the input of a container that was created to be started later ends with that of who starts it, each time.
func TestStartInFront(t *testing.T) {
	m := newMachine(t, "")
	m.loadBox()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	coble := func(verb func(*pflag.FlagSet) command.Run, in, words string) string {
		t.Helper()
		f := pflag.NewFlagSet("coble", pflag.ContinueOnError)
		run := verb(f)
		require.NoError(t, f.Parse(strings.Fields(words)))
		c, err := conn.Dial("unix://" + m.sock())
		require.NoError(t, err)
		var out bytes.Buffer
		require.NoError(t, run(ctx, &command.App{Conn: c, In: strings.NewReader(in), Out: &out, Err: &out}, f.Args()))
		return out.String()
	}
	coble(containers.CreateVerb, "", "-i --name later box cat")
	for range 3 {
		require.Equal(t, "hello", coble(containers.StartVerb, "hello", "-a -i later"))
	}
}
