package daemon_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

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
	coble := func(verb func(*pflag.FlagSet) command.Run, in, words string) string {
		t.Helper()
		f := pflag.NewFlagSet("coble", pflag.ContinueOnError)
		run := verb(f)
		require.NoError(t, f.Parse(strings.Fields(words)))
		c, err := conn.Dial("unix://" + m.sock())
		require.NoError(t, err)
		var out bytes.Buffer
		done := make(chan error, 1)
		go func() {
			done <- run(t.Context(), &command.App{Conn: c, In: strings.NewReader(in), Out: &out, Err: &out}, f.Args())
		}()
		select {
		case err := <-done:
			require.NoError(t, err)
		case <-time.After(patience):
			require.FailNow(t, "it does not end", words)
		}
		return out.String()
	}
	coble(containers.CreateVerb, "", "-i --name later box cat")
	for range 3 {
		require.Equal(t, "hello", coble(containers.StartVerb, "hello", "-a -i later"))
	}
}
