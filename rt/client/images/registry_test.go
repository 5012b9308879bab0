package images

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/rt/client/command"
	"github.com/coble-os/coble/rt/client/dockerconfig"
)

func TestShowTransfer(t *testing.T) {
	var out bytes.Buffer
	in := `{"status":"Pulling from a","id":"1"}
{"status":"Downloading","progressDetail":{"current":5,"total":9},"id":"abc"}
{"status":"Pull complete","progressDetail":{},"id":"abc"}
{"aux":{"Tag":"1"}}
{"status":"Digest: sha256:x"}
`
	require.NoError(t, showTransfer(strings.NewReader(in), &out))
	require.Equal(t, "1: Pulling from a\nabc: Pull complete\nDigest: sha256:x\n", out.String())
	require.EqualError(t, showTransfer(strings.NewReader(`{"error":"broke","errorDetail":{"message":"broke"}}`), &out), "broke")
	require.Error(t, showTransfer(strings.NewReader(`{"status":`), &out), "a stream that breaks off")
}

func TestAskCredentials(t *testing.T) {
	for _, c := range []struct {
		user, pass string
		stdin      bool
		want       string
	}{
		{"me", "", true, ""}, {"", "", true, "needs --username"}, {"me", "x", true, "want one"}, {"me", "x", false, ""}, {"me", "", false, "no terminal"},
	} {
		a := &command.App{In: strings.NewReader("pw\n"), Err: &bytes.Buffer{}}
		cr := dockerconfig.Credentials{Username: c.user, Password: c.pass}
		err := askCredentials(a, &cr, c.stdin)
		if c.want != "" {
			require.ErrorContains(t, err, c.want)
			continue
		}
		require.NoError(t, err)
		require.NotEmpty(t, cr.Password)
		require.NotContains(t, cr.Password, "\n")
	}
}
