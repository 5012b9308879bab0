package registry

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	dialTime   = 30 * time.Second
	headerTime = 3 * time.Minute // a registry hashes what was uploaded before it answers
	maxHops    = 10
)

// RoundTrip implements http.RoundTripper: each host, also the target of a
// redirection and a token server, is spoken to with its own certificates.
func (c *Client) RoundTrip(req *http.Request) (*http.Response, error) {
	t, err := c.transport(req.URL.Host)
	if err != nil {
		return nil, err
	}
	return t.RoundTrip(req)
}

func (c *Client) transport(host string) (*http.Transport, error) {
	c.mu.Lock()
	t := c.transports[host]
	c.mu.Unlock()
	if t != nil {
		return t, nil
	}
	conf, err := c.tlsConfig(host)
	if err != nil {
		return nil, err
	}
	// Layers come over connections of their own (HTTP/1.1), so that one that
	// breaks or stalls holds up no other; and what is packed stays so.
	t = &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: dialTime}).DialContext,
		TLSClientConfig: conf, TLSHandshakeTimeout: dialTime, ResponseHeaderTimeout: headerTime,
		DisableCompression: true, MaxIdleConnsPerHost: 4, IdleConnTimeout: dialTime,
		MaxResponseHeaderBytes: 256 << 10, ExpectContinueTimeout: time.Second,
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if other := c.transports[host]; other != nil {
		return other, nil
	}
	c.transports[host] = t
	return t, nil
}

// tlsConfig reads the certificates that certs.d has for a host.
func (c *Client) tlsConfig(host string) (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: c.insecure(host)}
	for _, dir := range c.conf.CertDirs {
		if err := addCertificates(conf, filepath.Join(dir, host)); err != nil {
			return nil, err
		}
	}
	return conf, nil
}

// addCertificates reads a folder as dockerd-certs.d describes it: *.crt are
// authorities, NAME.cert and NAME.key a client's certificate.
func addCertificates(conf *tls.Config, dir string) error {
	list, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read certificates: %w", err)
	}
	for _, f := range list {
		path := filepath.Join(dir, f.Name())
		switch filepath.Ext(f.Name()) {
		case ".crt":
			if err := addAuthority(conf, path); err != nil {
				return err
			}
		case ".cert":
			key := strings.TrimSuffix(path, ".cert") + ".key"
			pair, err := tls.LoadX509KeyPair(path, key)
			if err != nil {
				return fmt.Errorf("read client certificate %s and its key %s: %w", path, key, err)
			}
			conf.Certificates = append(conf.Certificates, pair)
		}
	}
	return nil
}

func addAuthority(conf *tls.Config, path string) error {
	pem, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read certificate: %w", err)
	}
	if conf.RootCAs == nil {
		if conf.RootCAs, err = x509.SystemCertPool(); err != nil {
			conf.RootCAs = x509.NewCertPool()
		}
	}
	if !conf.RootCAs.AppendCertsFromPEM(pem) {
		return fmt.Errorf("read certificate %s: it has no certificate in PEM form", path)
	}
	return nil
}

// follow says which redirections are followed. net/http takes Authorization
// off for other hosts.
func follow(e endpoint) func(*http.Request, []*http.Request) error {
	return func(req *http.Request, via []*http.Request) error {
		if len(via) >= maxHops {
			return fmt.Errorf("more than %d redirections", maxHops)
		}
		if req.URL.Scheme != "https" && !e.insecure {
			return fmt.Errorf("redirected from TLS to %s://%s, which is refused", req.URL.Scheme, req.URL.Host)
		}
		return nil
	}
}
