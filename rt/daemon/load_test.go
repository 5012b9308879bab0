package daemon_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestLoadTellsWhileReading: progress comes while the archive is still being sent, and takes nothing from it.
func TestLoadTellsWhileReading(t *testing.T) {
	m := newMachine(t, "")
	noise := make([]byte, 20<<20)
	_, _ = rand.Read(noise)
	layer, err := io.ReadAll(tarOf(t, "noise", string(noise)))
	require.NoError(t, err)
	sum := sha256.Sum256(layer)
	config := fmt.Sprintf(`{"architecture":%q,"os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}`, runtime.GOARCH, hex.EncodeToString(sum[:]))
	raw, err := io.ReadAll(tarOf(t, "x/layer.tar", string(layer), "config.json", config,
		"manifest.json", `[{"Config":"config.json","RepoTags":["noise:1"],"Layers":["x/layer.tar"]}]`))
	require.NoError(t, err)

	body, send := io.Pipe()
	req, err := http.NewRequest("POST", "http://coble/v1.43/images/load", body)
	require.NoError(t, err)
	begun, sent := make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := io.Copy(send, bytes.NewReader(raw[:16<<20]))
		<-begun
		if err == nil {
			_, err = io.Copy(send, bytes.NewReader(raw[16<<20:]))
		}
		send.Close()
		sent <- err
	}()
	// A connection that is kept, as Docker's clients do.
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", m.sock())
	}}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Do(req) // as soon as the answer begins
	require.NoError(t, err)
	defer resp.Body.Close()
	answer := bufio.NewReader(resp.Body)
	line, err := answer.ReadString('\n')
	require.NoError(t, err)
	require.Contains(t, line, `"status":"unpacking"`)
	require.Contains(t, line, `"id":"layer"`)
	close(begun)
	rest, err := io.ReadAll(answer)
	require.NoError(t, err)
	require.NoError(t, <-sent)
	require.Contains(t, string(rest), `"status":"done"`)
	require.Contains(t, string(rest), "Loaded image: noise:1")
	require.EqualValues(t, len(noise), m.image("noise:1").Size)

	m.do("DELETE", "/images/noise:1", nil) // or its layer would not be looked at
	bad := bytes.Replace(raw, []byte("noise:1"), []byte("bad:one"), 1)
	bad[len(noise)] ^= 1
	status, text := m.call("POST", "/images/load", bytes.NewReader(bad))
	require.Equal(t, 200, status, "the answer had begun")
	last := text[strings.LastIndex(strings.TrimSpace(text), "\n")+1:]
	require.Contains(t, last, `"error":"load image: layer 1 of 1`)
	require.Contains(t, last, `"errorDetail":{"message":"load image: layer 1 of 1`)
	status, _ = m.call("POST", "/images/load?quiet=1", bytes.NewReader(bad))
	require.Equal(t, 400, status)
}
