package client

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestServerKey(t *testing.T) {
	for in, want := range map[string]string{
		"": hubServer, "docker.io": hubServer, "https://index.docker.io/v1/": hubServer, "registry-1.docker.io": hubServer,
		"reg.example": "reg.example", "https://reg.example:5000/v2/": "reg.example:5000",
	} {
		require.Equal(t, want, serverKey(in), in)
	}
	for in, want := range map[string]string{"busybox": hubServer, "me/x:1": hubServer, "127.0.0.1:5000/a:1": "127.0.0.1:5000", "localhost/x": "localhost"} {
		got, err := registryOf(in)
		require.NoError(t, err)
		require.Equal(t, want, got, in)
	}
	_, err := registryOf("Bad Name")
	require.Error(t, err)
}

func TestDockerConfig(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	file := filepath.Join(dir, "config.json")
	old := `{"psFormat":"x","auths":{"https://reg.example/v1/":{"auth":"` + base64.StdEncoding.EncodeToString([]byte("me:pass:word")) + `"},"tok.example":{"identitytoken":"t"}}}`
	require.NoError(t, os.WriteFile(file, []byte(old), 0o600))

	c, err := loadDockerConfig()
	require.NoError(t, err)
	got, err := c.get(ctx, "reg.example")
	require.NoError(t, err)
	require.Equal(t, credentials{Username: "me", Password: "pass:word", ServerAddress: "reg.example"}, got)
	got, err = c.get(ctx, "tok.example")
	require.NoError(t, err)
	require.Equal(t, "t", got.IdentityToken)
	got, err = c.get(ctx, "other.example")
	require.NoError(t, err)
	require.Zero(t, got)

	require.NoError(t, c.put(ctx, hubServer, credentials{Username: "u", Password: "p"}))
	st, err := os.Stat(file)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), st.Mode().Perm(), "its owner only")
	raw, err := os.ReadFile(file)
	require.NoError(t, err)
	var all struct {
		PsFormat string `json:"psFormat"`
		Auths    map[string]authEntry
	}
	require.NoError(t, json.Unmarshal(raw, &all))
	require.Equal(t, "x", all.PsFormat, "what is not understood stays")
	require.Equal(t, "dTpw", all.Auths[hubServer].Auth)

	header, err := registryAuth(ctx, "busybox")
	require.NoError(t, err)
	text, err := base64.URLEncoding.DecodeString(header[1])
	require.NoError(t, err)
	require.JSONEq(t, `{"username":"u","password":"p","serveraddress":"`+hubServer+`"}`, string(text))
	header, err = registryAuth(ctx, "other.example/x")
	require.NoError(t, err)
	require.Empty(t, header)

	found, err := c.erase(ctx, "reg.example")
	require.NoError(t, err)
	require.True(t, found)
	found, err = c.erase(ctx, "reg.example")
	require.NoError(t, err)
	require.False(t, found)
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, left, 1)

	require.NoError(t, os.WriteFile(file, []byte("nonsense"), 0o600))
	_, err = loadDockerConfig()
	require.ErrorContains(t, err, file)
}

// A helper keeps what the file then does not.
func TestCredentialHelper(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	t.Setenv("KEEP", filepath.Join(dir, "kept"))
	script := `#!/bin/sh
case $1 in
store) cat > "$KEEP" ;;
get) read s; [ "$s" = bad.example ] && { echo broken; exit 1; }; [ -s "$KEEP" ] && cat "$KEEP" || { echo "credentials not found in native keychain"; exit 1; } ;;
erase) rm "$KEEP" ;;
esac`
	require.NoError(t, os.WriteFile(filepath.Join(dir, "docker-credential-tester"), []byte(script), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{"credHelpers":{"reg.example":"tester","bad.example":"tester","gone.example":"none","evil.example":"../x"}}`), 0o600))
	c, err := loadDockerConfig()
	require.NoError(t, err)
	got, err := c.get(ctx, "reg.example")
	require.NoError(t, err)
	require.Zero(t, got)
	require.NoError(t, c.put(ctx, "reg.example", credentials{Username: "me", Password: "pw"}))
	got, err = c.get(ctx, "reg.example")
	require.NoError(t, err)
	require.Equal(t, credentials{Username: "me", Password: "pw", ServerAddress: "reg.example"}, got)
	require.NoError(t, c.put(ctx, "reg.example", credentials{Username: "me", IdentityToken: "token"}))
	got, err = c.get(ctx, "reg.example")
	require.NoError(t, err)
	require.Equal(t, credentials{IdentityToken: "token", ServerAddress: "reg.example"}, got)
	raw, err := os.ReadFile(filepath.Join(dir, "config.json"))
	require.NoError(t, err)
	require.NotContains(t, string(raw), "auths")
	found, err := c.erase(ctx, "reg.example")
	require.NoError(t, err)
	require.True(t, found)
	found, err = c.erase(ctx, "reg.example")
	require.NoError(t, err)
	require.False(t, found)
	for server, want := range map[string]string{"bad.example": "broken", "gone.example": "docker-credential-none", "evil.example": "without a path"} {
		_, err = c.get(ctx, server)
		require.ErrorContains(t, err, want)
	}
}

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
		a := &app{in: strings.NewReader("pw\n"), err: &bytes.Buffer{}}
		cr := credentials{Username: c.user, Password: c.pass}
		err := a.askCredentials(&cr, c.stdin)
		if c.want != "" {
			require.ErrorContains(t, err, c.want)
			continue
		}
		require.NoError(t, err)
		require.NotEmpty(t, cr.Password)
		require.NotContains(t, cr.Password, "\n")
	}
}
