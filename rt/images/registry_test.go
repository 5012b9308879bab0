package images

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/layers/registry"
	"github.com/coble-os/coble/rt/fault"
	"github.com/coble-os/coble/rt/request"
)

func TestRegistryErrors(t *testing.T) {
	n := image.Name{Repo: "docker.io/library/x", Tag: "1"}
	for _, c := range []struct {
		err  error
		verb string
		kind fault.Kind
		want string
	}{
		{&registry.Error{Status: 404, Codes: []registry.Code{{Code: "MANIFEST_UNKNOWN", Message: "manifest unknown"}}}, "pull", fault.NotFound, "manifest for x:1 not found: manifest unknown: manifest unknown"},
		{&registry.Error{Status: 401, Codes: []registry.Code{{Code: "DENIED"}}}, "pull", fault.NotFound, "pull access denied for x:1"},
		{&registry.Error{Status: 403}, "push", fault.Unauthorized, "push of x:1 refused"},
		{fmt.Errorf("Head: %w", registry.ErrNoCredentials), "push", fault.Internal, "Head: no basic auth credentials"},
		{fmt.Errorf("%w for linux/s390x", image.ErrPlatform), "pull", fault.NotFound, "no matching manifest"},
		{fmt.Errorf("x: %w", image.ErrInvalid), "pull", fault.Invalid, "invalid image"},
		{fmt.Errorf("x: %w", registry.ErrUnsupported), "pull", fault.Invalid, "not supported"},
		{errors.New("connection refused"), "pull", fault.Internal, "pull x:1: connection refused"},
	} {
		err := registryError(c.err, c.verb, n)
		require.ErrorContains(t, err, c.want)
		require.Equal(t, c.kind, fault.KindOf(err), c.want)
	}
}

func TestCheckPlatform(t *testing.T) {
	img := image.Image{OS: "linux", Architecture: "arm64"}
	for platform, kind := range map[string]fault.Kind{"linux/s390x": fault.NotFound, "linux/": fault.Invalid, "a/b/c/d": fault.Invalid} {
		err := CheckPlatform(img, request.Create{Platform: platform})
		require.Error(t, err, platform)
		require.Equal(t, kind, fault.KindOf(err), platform)
	}
	for _, platform := range []string{"", "linux/arm64", "arm64", "linux/aarch64", "linux/arm64/v8"} {
		require.NoError(t, CheckPlatform(img, request.Create{Platform: platform}), platform)
	}
}

// Nobody else on the network gets to write, or to read passwords.
func TestMayListen(t *testing.T) {
	inside, outside := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}, &net.TCPAddr{IP: net.IPv4zero}
	for _, c := range []struct {
		in   RegistryServeIn
		want string
	}{
		{RegistryServeIn{}, "anybody who reaches it could push"},
		{RegistryServeIn{ReadOnly: true}, ""},
		{RegistryServeIn{AnyoneMayPush: true}, ""},
		{RegistryServeIn{Htpasswd: "x"}, "passwords would cross the network in clear"},
		{RegistryServeIn{Htpasswd: "x", TLSCert: "x"}, ""},
		{RegistryServeIn{Htpasswd: "x", ReadOnly: true}, "passwords would cross"},
	} {
		require.NoError(t, mayListen(c.in, inside))
		if c.want == "" {
			require.NoError(t, mayListen(c.in, outside))
			continue
		}
		require.ErrorContains(t, mayListen(c.in, outside), c.want)
	}
}

func TestRegistryAccess(t *testing.T) {
	cert, key := pair(t)
	for _, c := range []struct {
		in   RegistryServeIn
		want string
	}{
		{RegistryServeIn{}, ""},
		{RegistryServeIn{TLSCert: cert, TLSKey: key}, ""},
		{RegistryServeIn{TLSCert: cert}, "certificate and key"},
		{RegistryServeIn{TLSKey: key}, "certificate and key"},
		{RegistryServeIn{TLSCert: key, TLSKey: cert}, "certificate and key"},
		{RegistryServeIn{Htpasswd: "me:plain"}, "not bcrypt's"},
	} {
		_, conf, err := registryAccess(c.in)
		if c.want != "" {
			require.ErrorContains(t, err, c.want)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, c.in.TLSCert != "", conf != nil)
	}
}

func pair(t testing.TB) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &k.PublicKey, k)
	require.NoError(t, err)
	raw, err := x509.MarshalECPrivateKey(k)
	require.NoError(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw}))
}

// Questions that can't be answered are not asked of anybody.
func TestSearchChecks(t *testing.T) {
	im := &Store{}
	for _, in := range []SearchIn{{}, {Term: "x", Limit: 101}, {Term: "x", Limit: -1}} {
		_, err := im.search(nil, in)
		require.Equal(t, fault.Invalid, fault.KindOf(err))
	}
}
