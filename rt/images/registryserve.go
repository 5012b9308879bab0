package images

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/coble-os/coble/layers/registry/server"
	"github.com/coble-os/coble/rt/fault"
	"github.com/coble-os/coble/rt/job"
)

// RegistryServeIn asks for the images of this machine to be offered to others.
type RegistryServeIn struct {
	Listen        string // host:port; port 0: a free one
	TLSCert       string // PEM, with TLSKey; empty: plain HTTP
	TLSKey        string
	Htpasswd      string // text of an htpasswd file; empty: nobody has to say who they are
	ReadOnly      bool
	AnyoneMayPush bool                // on other addresses than loopback too
	Began         func(addr net.Addr) // may be nil
}

const (
	registryIdle = 2 * time.Minute
	registryEnd  = 5 * time.Second // for requests that are under way
)

// serveRegistry serves until the job is cancelled.
func (im *Store) serveRegistry(j *job.Job, in RegistryServeIn) (any, error) {
	access, conf, err := registryAccess(in)
	if err != nil {
		return nil, fault.As(fault.Invalid, err)
	}
	store, err := im.openRegistry()
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", in.Listen)
	if err != nil {
		return nil, fault.New(fault.Invalid, "serve registry: %w", err)
	}
	if err := mayListen(in, l.Addr()); err != nil {
		l.Close()
		return nil, fault.As(fault.Invalid, err)
	}
	if in.Began != nil {
		in.Began(l.Addr())
	}
	if conf != nil {
		l = tls.NewListener(l, conf)
	}
	srv := &http.Server{
		Handler: store.Handler(access), ReadHeaderTimeout: registryIdle / 4, IdleTimeout: registryIdle,
		ErrorLog: slog.NewLogLogger(im.o.Log.Handler(), slog.LevelDebug), BaseContext: func(net.Listener) context.Context { return j.Counting(im.ctx) },
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	select {
	case err := <-ended:
		return nil, fmt.Errorf("serve registry on %s: %w", in.Listen, err)
	case <-j.Context().Done():
	case <-im.ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.Background(), registryEnd)
	defer cancel()
	if err := srv.Shutdown(ctx); errors.Is(err, context.DeadlineExceeded) {
		return nil, srv.Close()
	} else if err != nil {
		return nil, fmt.Errorf("end registry: %w", err)
	}
	return nil, nil
}

// registryAccess reads certificates and users.
func registryAccess(in RegistryServeIn) (server.Access, *tls.Config, error) {
	a := server.Access{ReadOnly: in.ReadOnly}
	if in.Htpasswd != "" {
		var err error
		if a.Users, err = server.ParseUsers(in.Htpasswd); err != nil {
			return a, nil, err
		}
	}
	if in.TLSCert == "" && in.TLSKey == "" {
		return a, nil, nil
	}
	pair, err := tls.X509KeyPair([]byte(in.TLSCert), []byte(in.TLSKey))
	if err != nil {
		return a, nil, fmt.Errorf("read the registry's certificate and key: %w", err)
	}
	return a, &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}}, nil
}

// mayListen refuses what somebody else than this machine's users could misuse.
func mayListen(in RegistryServeIn, addr net.Addr) error {
	tcp, ok := addr.(*net.TCPAddr)
	if ok && tcp.IP.IsLoopback() {
		return nil
	}
	switch {
	case in.Htpasswd != "" && in.TLSCert == "":
		return fmt.Errorf("serve registry on %s: passwords would cross the network in clear: give a certificate and its key", addr)
	case in.Htpasswd == "" && !in.ReadOnly && !in.AnyoneMayPush:
		return fmt.Errorf("serve registry on %s: anybody who reaches it could push and delete: give an htpasswd file, make it read-only, or allow that", addr)
	}
	return nil
}

// openRegistry opens the folder of what was pushed, once.
func (im *Store) openRegistry() (*server.Store, error) {
	im.mu.Lock()
	defer im.mu.Unlock()
	if im.pushed != nil {
		return im.pushed, nil
	}
	s, err := server.Open(server.Options{Root: filepath.Join(im.o.Root, "registry"), DB: im.o.DB, Images: im.Distribution().Offer(), Log: im.o.Log})
	if err != nil {
		return nil, fmt.Errorf("open registry: %w", err)
	}
	im.pushed = s
	return s, nil
}
