package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"

	"github.com/spf13/pflag"

	"github.com/coble-os/coble/rt/client/command"
	"github.com/coble-os/coble/rt/client/images"
	"github.com/coble-os/coble/rt/client/networks"
)

// commands is the table of verbs, in the order of the help text.
func commands() []verb {
	return []verb{
		{"run", "run [flags] IMAGE [COMMAND ARG...]", "make a container and start it", runVerb},
		{"create", "create [flags] IMAGE [COMMAND ARG...]", "make a container", createVerb},
		{"start", "start [-a] [-i] CONTAINER...", "start containers", startVerb},
		{"stop", "stop [-t SECONDS] [-s SIGNAL] CONTAINER...", "stop containers", stopVerb("stop")},
		{"restart", "restart [-t SECONDS] [-s SIGNAL] CONTAINER...", "stop and start containers", stopVerb("restart")},
		{"exec", "exec [flags] CONTAINER COMMAND [ARG...]", "run another command in a running container", execVerb},
		{"kill", "kill [-s SIGNAL] CONTAINER...", "send a signal to containers", killVerb},
		{"pause", "pause CONTAINER...", "freeze every process of containers", plainVerb("pause")},
		{"unpause", "unpause CONTAINER...", "let frozen containers go on", plainVerb("unpause")},
		{"rm", "rm [-f] [-v] CONTAINER...", "remove containers", rmVerb},
		{"rename", "rename CONTAINER NAME", "give a container another name", renameVerb},
		{"wait", "wait CONTAINER...", "wait for containers' ends and print their exit codes", waitVerb},
		{"attach", "attach [--no-stdin] CONTAINER", "connect to a running container", attachVerb},
		{"logs", "logs [-f] [-t] [-n LINES] CONTAINER", "show what a container printed", logsVerb},
		{"ps", "ps [-a] [-q] [--no-trunc]", "list containers", psVerb},
		{"top", "top CONTAINER [OPTIONS OF PS]", "list the processes of a container", topVerb},
		{"stats", "stats [--no-stream] [CONTAINER...]", "show what containers use", statsVerb},
		{"update", "update [flags] CONTAINER...", "change limits or restart policy, live", updateVerb},
		{"events", "events [--since TIME] [--until TIME]", "show what happens", eventsVerb},
		{"inspect", "inspect NAME...", "show all that is known of containers or images", inspectVerb},
		{"commit", "commit [-a AUTHOR] [-c CHANGE]… [-m MESSAGE] [-p=false] CONTAINER [NAME]", "make an image of a container's changes", commitVerb},
		{"cp", "cp [-a] [-L] CONTAINER:PATH PATH|- or cp [-a] [-L] PATH|- CONTAINER:PATH", "copy files out of a container or into it", cpVerb},
		{"diff", "diff CONTAINER", "show what a container has otherwise than its image (A added, C changed, D deleted)", diffVerb},
		{"export", "export [-o FILE] CONTAINER", "write a container's file system as a tar archive", exportVerb},
		{"images", "images [-q] [--no-trunc] [--filter NAME=VALUE]… [REPOSITORY[:TAG]]", "list images", images.ListVerb},
		{"history", "history [-q] [--no-trunc] IMAGE", "show how an image was made", images.HistoryVerb},
		{"save", "save [-o FILE] [--platform P] IMAGE...", "write images as an archive (docker-archive and OCI layout in one)", images.SaveVerb},
		{"import", "import [-c CHANGE]… [-m MESSAGE] FILE|URL|- [NAME]", "make an image of a tar archive of a file system", images.ImportVerb},
		{"image prune", "image prune [-a] [--filter NAME=VALUE]…", "remove images that nobody uses", images.PruneVerb},
		{"system df", "system df [-v]", "show what images and containers take on storage", dfVerb},
		{"pull", "pull [-a] [-q] [--platform P] NAME[:TAG|@DIGEST]", "bring an image from a registry", images.PullVerb},
		{"push", "push [-a] [-q] NAME[:TAG]", "send an image to a registry", images.PushVerb},
		{"registry", "registry serve [flags]", "offer this machine's images to others, and take what they push", images.ServeVerb},
		{"search", "search [--limit N] [-f FILTER] [HOST/]TERM", "look for images in a registry", images.SearchVerb},
		{"login", "login [-u NAME] [-p PASSWORD] [--password-stdin] [REGISTRY]", "check credentials for a registry and keep them", images.LoginVerb},
		{"logout", "logout [REGISTRY]", "forget the credentials for a registry", images.LogoutVerb},
		{"load", "load [-i FILE] [-q] [--platform P]", "unpack images from an archive (docker-archive or OCI layout)", images.LoadVerb},
		{"tag", "tag IMAGE NAME", "give an image another name", images.TagVerb},
		{"rmi", "rmi [-f] IMAGE...", "remove images", images.RemoveVerb},
		{"fsck", "fsck [--quick] [--repair ARCHIVE|STORE|registry|registry://HOST] [IMAGE...]", "check stored images down to each file, and repair them", images.FsckVerb},
		{"network ls", "network ls [-q] [--filter NAME=VALUE]…", "list networks", networks.ListVerb},
		{"network create", "network create [--subnet PREFIX]… [--internal] [--ipv6] [-o OPTION=VALUE]… NAME", "make a network", networks.CreateVerb},
		{"network inspect", "network inspect NETWORK...", "show all that is known of networks", networks.InspectVerb},
		{"network rm", "network rm [-f] NETWORK...", "remove networks", networks.RemoveVerb},
		{"network connect", "network connect [--ip ADDRESS] [--alias NAME]… NETWORK CONTAINER", "put a container into one more network", networks.ConnectVerb},
		{"network disconnect", "network disconnect NETWORK CONTAINER", "take a container out of a network", networks.DisconnectVerb},
		{"network prune", "network prune [--filter NAME=VALUE]…", "remove networks that no container is in", networks.PruneVerb},
		{"net", "net [--format json | --dot | --svg FILE]", "show who is in which network, with addresses, published ports and what went through them", netVerb},
		{"graph", "graph [--dot | --svg FILE] [NAME]", "show what uses what: containers, images, layers", graphVerb},
		{"version", "version", "show the versions of client and engine", versionVerb},
		{"info", "info", "show what the engine works with", infoVerb},
		{"status", "status", "show how the machine does: problems first", statusVerb},
		{"jobs", "jobs [kill ID]", "show what the engine does and did lately", jobsVerb},
		{"plan", "plan [--json] CONTAINER|BUNDLE", "print the system calls that start a container, or an OCI bundle's folder", planVerb},
		{"boot", "boot [--svg FILE]", "show what the boot spent its time on", bootVerb},
		{"poweroff", "poweroff", "stop everything and switch the machine off", shutdownVerb("poweroff")},
		{"reboot", "reboot", "stop everything and start the machine again", shutdownVerb("reboot")},
	}
}

func path(name, what string) string { return "/containers/" + url.PathEscape(name) + "/" + what }

// plainVerb is a POST to each container.
func plainVerb(what string) func(*pflag.FlagSet) command.Run {
	return func(*pflag.FlagSet) command.Run {
		return func(ctx context.Context, a *command.App, args []string) error {
			if err := command.Need(args, 1, -1, "containers"); err != nil {
				return err
			}
			return a.EachOf(args, func(n string) error { return a.Call(ctx, "POST", path(n, what), nil, nil, nil) })
		}
	}
}

func stopVerb(what string) func(*pflag.FlagSet) command.Run {
	return func(f *pflag.FlagSet) command.Run {
		seconds := f.IntP("time", "t", 0, "seconds to wait before killing; -1: for ever (default: the container's own, or 10)")
		signal := f.StringP("signal", "s", "", "signal to send (default: the container's own, or TERM)")
		return func(ctx context.Context, a *command.App, args []string) error {
			if err := command.Need(args, 1, -1, "containers"); err != nil {
				return err
			}
			q := url.Values{}
			if f.Changed("time") {
				q.Set("t", strconv.Itoa(*seconds))
			}
			if *signal != "" {
				q.Set("signal", *signal)
			}
			return a.EachOf(args, func(n string) error { return a.Call(ctx, "POST", path(n, what), q, nil, nil) })
		}
	}
}

func killVerb(f *pflag.FlagSet) command.Run {
	signal := f.StringP("signal", "s", "KILL", "signal to send")
	return func(ctx context.Context, a *command.App, args []string) error {
		if err := command.Need(args, 1, -1, "containers"); err != nil {
			return err
		}
		return a.EachOf(args, func(n string) error {
			return a.Call(ctx, "POST", path(n, "kill"), url.Values{"signal": {*signal}}, nil, nil)
		})
	}
}

func rmVerb(f *pflag.FlagSet) command.Run {
	force := f.BoolP("force", "f", false, "kill a running container first")
	volumes := f.BoolP("volumes", "v", false, "remove its anonymous volumes too")
	return func(ctx context.Context, a *command.App, args []string) error {
		if err := command.Need(args, 1, -1, "containers"); err != nil {
			return err
		}
		q := url.Values{"force": {strconv.FormatBool(*force)}, "v": {strconv.FormatBool(*volumes)}}
		return a.EachOf(args, func(n string) error { return a.Call(ctx, "DELETE", "/containers/"+url.PathEscape(n), q, nil, nil) })
	}
}

func renameVerb(*pflag.FlagSet) command.Run {
	return func(ctx context.Context, a *command.App, args []string) error {
		if err := command.Need(args, 2, 2, "a container and a name"); err != nil {
			return err
		}
		return a.Call(ctx, "POST", path(args[0], "rename"), url.Values{"name": {args[1]}}, nil, nil)
	}
}

func waitVerb(*pflag.FlagSet) command.Run {
	return func(ctx context.Context, a *command.App, args []string) error {
		if err := command.Need(args, 1, -1, "containers"); err != nil {
			return err
		}
		for _, n := range args {
			var out struct{ StatusCode int }
			if err := a.Call(ctx, "POST", path(n, "wait"), nil, nil, &out); err != nil {
				return err
			}
			fmt.Fprintln(a.Out, out.StatusCode)
		}
		return nil
	}
}

// inspectVerb looks for a container first, then for an image.
func inspectVerb(*pflag.FlagSet) command.Run {
	return func(ctx context.Context, a *command.App, args []string) error {
		if err := command.Need(args, 1, -1, "names"); err != nil {
			return err
		}
		all := []json.RawMessage{}
		for _, n := range args {
			var v json.RawMessage
			err := a.Call(ctx, "GET", path(n, "json"), nil, nil, &v)
			if err != nil {
				if ierr := a.Call(ctx, "GET", "/images/"+n+"/json", nil, nil, &v); ierr != nil {
					return fmt.Errorf("no such object: %s", n)
				}
			}
			all = append(all, v)
		}
		b, err := json.MarshalIndent(all, "", "    ")
		fmt.Fprintf(a.Out, "%s\n", b)
		return err
	}
}

func shutdownVerb(how string) func(*pflag.FlagSet) command.Run {
	return func(*pflag.FlagSet) command.Run {
		return func(ctx context.Context, a *command.App, args []string) error {
			return a.Call(ctx, "POST", "/coble/shutdown", url.Values{"how": {how}}, nil, nil)
		}
	}
}
