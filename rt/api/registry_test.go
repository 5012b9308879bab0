package api

import (
	"encoding/base64"
	"errors"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/layers/distribution"
	"github.com/coble-os/coble/layers/registry"
	"github.com/coble-os/coble/rt/fault"
)

func TestCredentials(t *testing.T) {
	// ?? and >> become / and + in the one alphabet, _ and - in the other.
	one := []byte(`{"username":"me??","password":"pw>>"}`)
	for _, enc := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding, base64.RawURLEncoding, base64.RawStdEncoding} {
		r := httptest.NewRequest("POST", "/images/create", nil)
		r.Header.Set("X-Registry-Auth", enc.EncodeToString(one))
		c, err := credentials(r, "x")
		require.NoError(t, err)
		require.Equal(t, registry.Credentials{Username: "me??", Password: "pw>>"}, c)
	}
	all := base64.URLEncoding.EncodeToString([]byte(`{"reg.example":{"auth":"` + base64.StdEncoding.EncodeToString([]byte("you:a:b")) + `"},"https://index.docker.io/v1/":{"identitytoken":"t"}}`))
	for name, want := range map[string]registry.Credentials{
		"reg.example/x:1": {Username: "you", Password: "a:b"}, "busybox": {IdentityToken: "t"}, "other.example/x": {},
	} {
		r := httptest.NewRequest("POST", "/images/create", nil)
		r.Header.Set("X-Registry-Config", all)
		c, err := credentials(r, name)
		require.NoError(t, err)
		require.Equal(t, want, c, name)
	}
	for _, bad := range []string{"%", base64.URLEncoding.EncodeToString([]byte("nonsense"))} {
		r := httptest.NewRequest("POST", "/images/create", nil)
		r.Header.Set("X-Registry-Auth", bad)
		_, err := credentials(r, "x")
		require.Equal(t, fault.Invalid, fault.KindOf(err))
	}
}

// An error before the first line has a status of its own; one after it comes
// in the stream.
func TestLines(t *testing.T) {
	w := httptest.NewRecorder()
	l := &lines{w: w}
	bad := errors.New("broke")
	require.Equal(t, bad, l.end(bad))
	require.Empty(t, w.Body.String())
	l.event(distribution.Event{ID: "abc", Status: "Downloading", Current: 1, Total: 2})
	l.event(distribution.Event{Status: "Digest: x"})
	require.NoError(t, l.end(bad))
	require.Equal(t, `{"status":"Downloading","progressDetail":{"current":1,"total":2},"id":"abc"}
{"status":"Digest: x"}
{"error":"broke","errorDetail":{"message":"broke"}}
`, w.Body.String())
	require.Equal(t, "application/json", w.Header().Get("Content-Type"))
}
