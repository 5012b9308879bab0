// Package dockerconfig is the part of Docker's config.json that is about registries' credentials, which docker, podman and
// coble share: read and written as docker does, or by a credential helper where one is set. It asks nobody for a password,
// and sends nothing: what the engine needs is returned as a header.
package dockerconfig

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/coble-os/coble/layers/reference"
)

// Config is Docker's config.json, as far as it is about credentials. All that is not understood stays in it.
type Config struct {
	Path string // of the file

	all map[string]json.RawMessage

	auths       map[string]authEntry
	credsStore  string            // helper for every registry
	credHelpers map[string]string // helper by registry
}

// authEntry is one registry's in "auths".
type authEntry struct {
	Auth          string `json:"auth,omitempty"` // base64 of username:password
	IdentityToken string `json:"identitytoken,omitempty"`
	RegistryToken string `json:"registrytoken,omitempty"`
}

// Credentials as the API takes them (X-Registry-Auth).
type Credentials struct {
	Username      string `json:"username,omitempty"`
	Password      string `json:"password,omitempty"`
	IdentityToken string `json:"identitytoken,omitempty"`
	RegistryToken string `json:"registrytoken,omitempty"`
	ServerAddress string `json:"serveraddress,omitempty"`
}

// HubServer is what docker.io is called in config.json.
const HubServer = "https://index.docker.io/v1/"

// ServerKey is a registry's name in config.json.
func ServerKey(host string) string {
	if _, rest, ok := strings.Cut(host, "://"); ok {
		host = rest
	}
	host, _, _ = strings.Cut(host, "/")
	switch host {
	case "", "docker.io", "index.docker.io", "registry-1.docker.io":
		return HubServer
	}
	return host
}

// RegistryOf is the registry of an image's name, as config.json calls it.
func RegistryOf(name string) (string, error) {
	named, err := reference.Parse(name)
	if err != nil {
		return "", fmt.Errorf("image name %q: %w", name, err)
	}
	return ServerKey(named.Domain), nil
}

// Load reads $DOCKER_CONFIG/config.json or ~/.docker/config.json; one that is not there is empty.
func Load() (*Config, error) {
	dir := os.Getenv("DOCKER_CONFIG")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			home = "/root"
		}
		dir = filepath.Join(home, ".docker")
	}
	c := &Config{Path: filepath.Join(dir, "config.json"), all: map[string]json.RawMessage{}, auths: map[string]authEntry{}}
	raw, err := os.ReadFile(c.Path)
	if errors.Is(err, os.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read credentials: %w", err)
	}
	if err := json.Unmarshal(raw, &c.all); err != nil {
		return nil, fmt.Errorf("parse %s: %w", c.Path, err)
	}
	for key, v := range map[string]any{"auths": &c.auths, "credsStore": &c.credsStore, "credHelpers": &c.credHelpers} {
		if part := c.all[key]; part != nil {
			if err := json.Unmarshal(part, v); err != nil {
				return nil, fmt.Errorf("parse %q of %s: %w", key, c.Path, err)
			}
		}
	}
	return c, nil
}

// Helper is the credential helper for a registry; empty: none.
func (c *Config) Helper(server string) string {
	if h, ok := c.credHelpers[server]; ok {
		return h
	}
	return c.credsStore
}

// get finds the credentials for a registry; none are no error.
func (c *Config) get(ctx context.Context, server string) (Credentials, error) {
	if h := c.Helper(server); h != "" {
		return helperGet(ctx, h, server)
	}
	for key, e := range c.auths {
		if ServerKey(key) != server {
			continue
		}
		out := Credentials{IdentityToken: e.IdentityToken, RegistryToken: e.RegistryToken, ServerAddress: server}
		if e.Auth == "" {
			return out, nil
		}
		raw, err := base64.StdEncoding.DecodeString(e.Auth)
		if err != nil {
			return out, fmt.Errorf("credentials for %s in %s: %w", server, c.Path, err)
		}
		out.Username, out.Password, _ = strings.Cut(strings.TrimRight(string(raw), "\x00"), ":")
		return out, nil
	}
	return Credentials{}, nil
}

// Put keeps credentials, with the helper if there is one.
func (c *Config) Put(ctx context.Context, server string, cr Credentials) error {
	if h := c.Helper(server); h != "" {
		secret := map[string]string{"ServerURL": server, "Username": cr.Username, "Secret": cr.Password}
		if cr.IdentityToken != "" {
			secret["Username"], secret["Secret"] = "<token>", cr.IdentityToken
		}
		in, err := json.Marshal(secret)
		if err != nil {
			return err
		}
		_, err = runHelper(ctx, h, "store", in)
		return err
	}
	e := authEntry{Auth: base64.StdEncoding.EncodeToString([]byte(cr.Username + ":" + cr.Password)), IdentityToken: cr.IdentityToken}
	if e.IdentityToken != "" {
		e.Auth = base64.StdEncoding.EncodeToString([]byte(cr.Username + ":"))
	}
	c.auths[server] = e
	return c.save()
}

// Erase forgets credentials, and says whether there were any.
func (c *Config) Erase(ctx context.Context, server string) (bool, error) {
	if h := c.Helper(server); h != "" {
		cr, err := helperGet(ctx, h, server)
		if err != nil || cr == (Credentials{}) {
			return false, err
		}
		_, err = runHelper(ctx, h, "erase", []byte(server))
		return true, err
	}
	found := false
	for key := range c.auths {
		if ServerKey(key) == server {
			delete(c.auths, key)
			found = true
		}
	}
	if !found {
		return false, nil
	}
	return true, c.save()
}

// save writes the file whole or not at all, for its owner only.
func (c *Config) save() error {
	raw, err := json.Marshal(c.auths)
	if err != nil {
		return err
	}
	c.all["auths"] = raw
	text, err := json.MarshalIndent(c.all, "", "\t")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(c.Path), 0o700); err != nil {
		return fmt.Errorf("store credentials: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(c.Path), ".config-*")
	if err != nil {
		return fmt.Errorf("store credentials: %w", err)
	}
	defer os.Remove(f.Name())
	_, werr := f.Write(append(text, '\n'))
	if err := errors.Join(werr, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("store credentials: %w", err)
	}
	if err := os.Rename(f.Name(), c.Path); err != nil {
		return fmt.Errorf("store credentials: %w", err)
	}
	return nil
}

// helperGet asks docker-credential-NAME (the protocol of docker-credential-helpers).
func helperGet(ctx context.Context, helper, server string) (Credentials, error) {
	out, err := runHelper(ctx, helper, "get", []byte(server))
	if errors.Is(err, errNoCredentials) {
		return Credentials{}, nil
	}
	if err != nil {
		return Credentials{}, err
	}
	var v struct{ Username, Secret string }
	if err := json.Unmarshal(out, &v); err != nil {
		return Credentials{}, fmt.Errorf("answer of docker-credential-%s: %w", helper, err)
	}
	if v.Username == "<token>" {
		return Credentials{IdentityToken: v.Secret, ServerAddress: server}, nil
	}
	return Credentials{Username: v.Username, Password: v.Secret, ServerAddress: server}, nil
}

var errNoCredentials = errors.New("credentials not found in native keychain")

func runHelper(ctx context.Context, helper, verb string, in []byte) ([]byte, error) {
	if strings.ContainsRune(helper, '/') {
		return nil, fmt.Errorf("credential helper %q: want a name without a path", helper)
	}
	cmd := exec.CommandContext(ctx, "docker-credential-"+helper, verb)
	cmd.Stdin = bytes.NewReader(in)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err == nil {
		return out, nil
	}
	if text := strings.TrimSpace(string(out)); text == errNoCredentials.Error() {
		return nil, errNoCredentials
	} else if text != "" {
		return nil, fmt.Errorf("docker-credential-%s %s: %s", helper, verb, text)
	}
	return nil, fmt.Errorf("docker-credential-%s %s: %w", helper, verb, err)
}

// Header is the header, as its name and value, that lets the engine in at the registry of an image. Without credentials
// there is none.
func Header(ctx context.Context, name string) ([]string, error) {
	server, err := RegistryOf(name)
	if err != nil {
		return nil, err
	}
	conf, err := Load()
	if err != nil {
		return nil, err
	}
	cr, err := conf.get(ctx, server)
	if err != nil || cr == (Credentials{}) {
		return nil, err
	}
	return encode("X-Registry-Auth", cr)
}

// HeaderOfAll is the header that lets the engine in at each of these registries, as ServerKey calls them.
func HeaderOfAll(ctx context.Context, servers map[string]bool) ([]string, error) {
	conf, err := Load()
	if err != nil {
		return nil, err
	}
	all := map[string]Credentials{}
	for server := range servers {
		cr, err := conf.get(ctx, server)
		if err != nil {
			return nil, err
		}
		if cr != (Credentials{}) {
			all[server] = cr
		}
	}
	if len(all) == 0 {
		return nil, nil
	}
	return encode("X-Registry-Config", all)
}

func encode(name string, v any) ([]string, error) {
	raw, err := json.Marshal(v)
	return []string{name, base64.URLEncoding.EncodeToString(raw)}, err
}
