package dockerconfig

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestServerKey(t *testing.T) {
	for in, want := range map[string]string{
		"": HubServer, "docker.io": HubServer, "https://index.docker.io/v1/": HubServer, "registry-1.docker.io": HubServer,
		"reg.example": "reg.example", "https://reg.example:5000/v2/": "reg.example:5000",
	} {
		require.Equal(t, want, ServerKey(in), in)
	}
	for in, want := range map[string]string{"busybox": HubServer, "me/x:1": HubServer, "127.0.0.1:5000/a:1": "127.0.0.1:5000", "localhost/x": "localhost"} {
		got, err := RegistryOf(in)
		require.NoError(t, err)
		require.Equal(t, want, got, in)
	}
	_, err := RegistryOf("Bad Name")
	require.Error(t, err)
}

func TestDockerConfig(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	file := filepath.Join(dir, "config.json")
	old := `{"psFormat":"x","auths":{"https://reg.example/v1/":{"auth":"` + base64.StdEncoding.EncodeToString([]byte("me:pass:word")) + `"},"tok.example":{"identitytoken":"t"}}}`
	require.NoError(t, os.WriteFile(file, []byte(old), 0o600))

	c, err := Load()
	require.NoError(t, err)
	got, err := c.get(ctx, "reg.example")
	require.NoError(t, err)
	require.Equal(t, Credentials{Username: "me", Password: "pass:word", ServerAddress: "reg.example"}, got)
	got, err = c.get(ctx, "tok.example")
	require.NoError(t, err)
	require.Equal(t, "t", got.IdentityToken)
	got, err = c.get(ctx, "other.example")
	require.NoError(t, err)
	require.Zero(t, got)

	require.NoError(t, c.Put(ctx, HubServer, Credentials{Username: "u", Password: "p"}))
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
	require.Equal(t, "dTpw", all.Auths[HubServer].Auth)

	header, err := Header(ctx, "busybox")
	require.NoError(t, err)
	text, err := base64.URLEncoding.DecodeString(header[1])
	require.NoError(t, err)
	require.JSONEq(t, `{"username":"u","password":"p","serveraddress":"`+HubServer+`"}`, string(text))
	header, err = Header(ctx, "other.example/x")
	require.NoError(t, err)
	require.Empty(t, header)

	found, err := c.Erase(ctx, "reg.example")
	require.NoError(t, err)
	require.True(t, found)
	found, err = c.Erase(ctx, "reg.example")
	require.NoError(t, err)
	require.False(t, found)
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, left, 1)

	require.NoError(t, os.WriteFile(file, []byte("nonsense"), 0o600))
	_, err = Load()
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
	c, err := Load()
	require.NoError(t, err)
	got, err := c.get(ctx, "reg.example")
	require.NoError(t, err)
	require.Zero(t, got)
	require.NoError(t, c.Put(ctx, "reg.example", Credentials{Username: "me", Password: "pw"}))
	got, err = c.get(ctx, "reg.example")
	require.NoError(t, err)
	require.Equal(t, Credentials{Username: "me", Password: "pw", ServerAddress: "reg.example"}, got)
	require.NoError(t, c.Put(ctx, "reg.example", Credentials{Username: "me", IdentityToken: "token"}))
	got, err = c.get(ctx, "reg.example")
	require.NoError(t, err)
	require.Equal(t, Credentials{IdentityToken: "token", ServerAddress: "reg.example"}, got)
	raw, err := os.ReadFile(filepath.Join(dir, "config.json"))
	require.NoError(t, err)
	require.NotContains(t, string(raw), "auths")
	found, err := c.Erase(ctx, "reg.example")
	require.NoError(t, err)
	require.True(t, found)
	found, err = c.Erase(ctx, "reg.example")
	require.NoError(t, err)
	require.False(t, found)
	for server, want := range map[string]string{"bad.example": "broken", "gone.example": "docker-credential-none", "evil.example": "without a path"} {
		_, err = c.get(ctx, server)
		require.ErrorContains(t, err, want)
	}
}
