package images

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/coble-os/coble/rt/client/command"
	"github.com/coble-os/coble/rt/client/dockerconfig"
)

// LoginVerb is `coble login`.
func LoginVerb(f *pflag.FlagSet) command.Run {
	user := f.StringP("username", "u", "", "user name (default: asked for)")
	pass := f.StringP("password", "p", "", "password (default: asked for)")
	stdin := f.Bool("password-stdin", false, "read the password from standard input")
	return func(ctx context.Context, a *command.App, args []string) error {
		if err := command.Need(args, 0, 1, "a registry"); err != nil {
			return err
		}
		server := dockerconfig.ServerKey(strings.Join(args, ""))
		cr := dockerconfig.Credentials{Username: *user, Password: *pass, ServerAddress: server}
		if err := askCredentials(a, &cr, *stdin); err != nil {
			return err
		}
		var out struct{ Status, IdentityToken string }
		if err := a.Call(ctx, "POST", "/auth", nil, cr, &out); err != nil {
			return err
		}
		conf, err := dockerconfig.Load()
		if err != nil {
			return err
		}
		if cr.IdentityToken = out.IdentityToken; conf.Helper(server) == "" {
			fmt.Fprintf(a.Err, "The credentials are stored unencrypted in %s.\n", conf.Path)
		}
		if err := conf.Put(ctx, server, cr); err != nil {
			return err
		}
		fmt.Fprintln(a.Out, out.Status)
		return nil
	}
}

const maxSecret = 64 << 10 // bytes

// askCredentials completes what flags left open.
func askCredentials(a *command.App, cr *dockerconfig.Credentials, stdin bool) error {
	isTerm := term.IsTerminal(int(os.Stdin.Fd()))
	switch {
	case stdin && cr.Password != "":
		return errors.New("--password and --password-stdin are given: want one")
	case stdin && cr.Username == "":
		return errors.New("--password-stdin needs --username")
	case stdin:
		raw, err := io.ReadAll(io.LimitReader(a.In, maxSecret))
		cr.Password = strings.TrimRight(string(raw), "\r\n")
		return err
	case cr.Username != "" && cr.Password != "":
		return nil
	case !isTerm:
		return errors.New("cannot ask for name and password: this is no terminal; use --username and --password-stdin")
	}
	if cr.Username == "" {
		fmt.Fprint(a.Err, "Username: ")
		line, err := bufio.NewReader(a.In).ReadString('\n')
		if err != nil {
			return fmt.Errorf("read user name: %w", err)
		}
		cr.Username = strings.TrimSpace(line)
	}
	if cr.Password == "" {
		fmt.Fprint(a.Err, "Password: ")
		raw, err := term.ReadPassword(int(os.Stdin.Fd()))
		fmt.Fprintln(a.Err)
		if err != nil {
			return fmt.Errorf("read password: %w", err)
		}
		cr.Password = string(raw)
	}
	return nil
}

// LogoutVerb is `coble logout`.
func LogoutVerb(*pflag.FlagSet) command.Run {
	return func(ctx context.Context, a *command.App, args []string) error {
		if err := command.Need(args, 0, 1, "a registry"); err != nil {
			return err
		}
		server := dockerconfig.ServerKey(strings.Join(args, ""))
		conf, err := dockerconfig.Load()
		if err != nil {
			return err
		}
		found, err := conf.Erase(ctx, server)
		if err != nil {
			return err
		}
		if !found {
			fmt.Fprintln(a.Out, "Not logged in to", server)
			return nil
		}
		fmt.Fprintln(a.Out, "Removing login credentials for", server)
		return nil
	}
}
