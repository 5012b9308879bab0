// Command coble is a whole container system for small Linux machines in one file: process 1, engine and client. This
// file only picks the face by the name it is called by, or by the first word.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/coble-os/coble/rt/client"
	"github.com/coble-os/coble/rt/client/command"
	"github.com/coble-os/coble/rt/daemon"
	"github.com/coble-os/coble/rt/oci"
)

// version is set by the Makefile.
var version = "dev"

func main() {
	client.Version = version
	args := os.Args[1:]
	name := filepath.Base(os.Args[0])
	// A container whose first process coble is as a command is no machine to boot.
	if name == "init" || os.Getpid() == 1 && !isVerb(args) {
		os.Exit(daemon.Init(version))
	}
	if name == "runc" {
		os.Exit(oci.Main(version, args))
	}
	err := face(args)
	var exit *command.ExitError
	switch {
	case err == nil:
	case errors.As(err, &exit):
		if exit.Err != nil {
			fmt.Fprintln(os.Stderr, "coble:", exit.Err)
		}
		os.Exit(exit.Status)
	default:
		fmt.Fprintln(os.Stderr, "coble:", err)
		os.Exit(1)
	}
}

func face(args []string) error {
	host := hostOf()
	if len(args) > 1 && (args[0] == "-H" || args[0] == "--host") {
		host, args = args[1], args[2:]
	}
	if len(args) == 0 {
		help(os.Stderr)
		return &command.ExitError{Status: 125}
	}
	switch args[0] {
	case "init":
		os.Exit(daemon.Init(version))
	case "daemon":
		status, err := daemon.Main(version, args[1:])
		if err == nil {
			os.Exit(status)
		}
		return err
	case "engine":
		return daemon.EngineMain(version, args[1:])
	case "runc":
		os.Exit(oci.Main(version, args[1:]))
	case "plan":
		if last := args[len(args)-1]; len(args) > 1 && oci.IsBundle(last) {
			return oci.Plan(os.Stdout, last, slices.Contains(args, "--json"))
		}
	case "check":
		return daemon.Check(os.Stdout, args[1:])
	case "pack":
		return daemon.Pack(context.Background(), os.Stdout, args[1:])
	case "help", "--help", "-h":
		help(os.Stdout)
		return nil
	case "--version", "-v":
		fmt.Println("coble", version)
		return nil
	}
	return client.Run(context.Background(), host, args)
}

// isVerb tells whether the first word is one of coble's, and not one of a kernel's command line.
func isVerb(args []string) bool {
	own := []string{"daemon", "engine", "runc", "check", "pack", "help", "--help", "--version"}
	return len(args) > 0 && slices.Contains(append(own, client.Names()...), args[0])
}

func hostOf() string {
	for _, v := range []string{"COBLE_HOST", "DOCKER_HOST"} {
		if h := os.Getenv(v); h != "" {
			return h
		}
	}
	return client.DefaultHost
}

func help(w io.Writer) {
	fmt.Fprint(w, `coble: containers for small Linux machines, from power-on to a working service

Usage: coble [-H unix://PATH | tcp://HOST:PORT | fd://NUMBER] VERB [flags] [arguments]

  daemon     run the engine here (coble daemon --help)
  runc       run OCI bundles, as the runtime of podman, containerd or Docker (coble runc --help)
  check      say what is wrong with a TOML file, without booting
  pack       pack an image's layers, to be run from where they lie
`)
	client.Help(w)
	fmt.Fprintln(w, "\nEach verb explains itself: coble VERB --help")
}
