package registry_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/layers/registry"
	"github.com/coble-os/coble/layers/registry/registrytest"
)

func TestGet(t *testing.T) {
	mux := http.NewServeMux()
	plain := httptest.NewServer(mux)
	t.Cleanup(plain.Close)
	secure := httptest.NewTLSServer(mux)
	t.Cleanup(secure.Close)
	mux.HandleFunc("/f", func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		_, _ = io.WriteString(w, r.UserAgent()+user+password)
	})
	mux.HandleFunc("/short", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "short")
	})
	mux.Handle("/there", http.RedirectHandler("/f", http.StatusFound))
	mux.Handle("/astray", http.RedirectHandler(plain.URL+"/f", http.StatusFound))
	mux.Handle("/round", http.RedirectHandler("/round", http.StatusFound))
	c := registrytest.Client()
	for url, want := range map[string]string{
		plain.URL + "/f": "coble", plain.URL + "/there": "coble", secure.URL + "/there": "coble", plain.URL + "/astray": "coble",
		"http://me:secret@" + plain.Listener.Addr().String() + "/f": "coblemesecret",
	} {
		rc, err := c.Get(ctx, url)
		require.NoError(t, err, url)
		b, err := io.ReadAll(rc)
		require.NoError(t, err, url)
		require.Equal(t, want, string(b), url)
		require.NoError(t, rc.Close())
	}
	for url, want := range map[string]string{
		plain.URL + "/none": "unexpected status 404 Not Found", secure.URL + "/astray": "redirected from TLS", plain.URL + "/round": "more than 10 redirections",
		"ftp://" + plain.Listener.Addr().String() + "/f": "want an http or https URL", "http:///f": "want an http or https URL", "http://127.0.0.1:1/": "refused",
		"http://me:secret@" + plain.Listener.Addr().String() + "/none": "me:xxxxx@",
	} {
		_, err := c.Get(ctx, url)
		require.ErrorContains(t, err, want, url)
		require.NotContains(t, err.Error(), "secret")
	}
	_, err := c.Get(ctx, plain.URL+"/none")
	require.ErrorIs(t, err, registry.ErrNotFound)
	rc, err := c.Get(ctx, plain.URL+"/short")
	require.NoError(t, err)
	_, err = io.ReadAll(rc)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.NoError(t, rc.Close())
}
