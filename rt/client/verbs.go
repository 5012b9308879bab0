package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"

	"github.com/spf13/pflag"

	"github.com/coble-os/coble/rt/client/command"
	"github.com/coble-os/coble/rt/client/containers"
	"github.com/coble-os/coble/rt/client/images"
	"github.com/coble-os/coble/rt/client/networks"
)

// commands is the table of verbs, in the order of the help text.
func commands() []verb {
	return []verb{
		{"run", "run [flags] IMAGE [COMMAND ARG...]", "make a container and start it", containers.RunVerb},
		{"create", "create [flags] IMAGE [COMMAND ARG...]", "make a container", containers.CreateVerb},
		{"start", "start [-a] [-i] CONTAINER...", "start containers", containers.StartVerb},
		{"stop", "stop [-t SECONDS] [-s SIGNAL] CONTAINER...", "stop containers", containers.StopVerb("stop")},
		{"restart", "restart [-t SECONDS] [-s SIGNAL] CONTAINER...", "stop and start containers", containers.StopVerb("restart")},
		{"exec", "exec [flags] CONTAINER COMMAND [ARG...]", "run another command in a running container", containers.ExecVerb},
		{"kill", "kill [-s SIGNAL] CONTAINER...", "send a signal to containers", containers.KillVerb},
		{"pause", "pause CONTAINER...", "freeze every process of containers", containers.PlainVerb("pause")},
		{"unpause", "unpause CONTAINER...", "let frozen containers go on", containers.PlainVerb("unpause")},
		{"rm", "rm [-f] [-v] CONTAINER...", "remove containers", containers.RemoveVerb},
		{"rename", "rename CONTAINER NAME", "give a container another name", containers.RenameVerb},
		{"wait", "wait CONTAINER...", "wait for containers' ends and print their exit codes", containers.WaitVerb},
		{"attach", "attach [--no-stdin] CONTAINER", "connect to a running container", containers.AttachVerb},
		{"logs", "logs [-f] [-t] [-n LINES] CONTAINER", "show what a container printed", containers.LogsVerb},
		{"ps", "ps [-a] [-q] [--no-trunc]", "list containers", containers.ListVerb},
		{"top", "top CONTAINER [OPTIONS OF PS]", "list the processes of a container", containers.TopVerb},
		{"stats", "stats [--no-stream] [CONTAINER...]", "show what containers use", containers.StatsVerb},
		{"update", "update [flags] CONTAINER...", "change limits or restart policy, live", containers.UpdateVerb},
		{"events", "events [--since TIME] [--until TIME]", "show what happens", eventsVerb},
		{"inspect", "inspect NAME...", "show all that is known of containers or images", inspectVerb},
		{"commit", "commit [-a AUTHOR] [-c CHANGE]… [-m MESSAGE] [-p=false] CONTAINER [NAME]", "make an image of a container's changes", containers.CommitVerb},
		{"cp", "cp [-a] [-L] CONTAINER:PATH PATH|- or cp [-a] [-L] PATH|- CONTAINER:PATH", "copy files out of a container or into it", containers.CopyVerb},
		{"diff", "diff CONTAINER", "show what a container has otherwise than its image (A added, C changed, D deleted)", containers.DiffVerb},
		{"export", "export [-o FILE] CONTAINER", "write a container's file system as a tar archive", containers.ExportVerb},
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

// inspectVerb looks for a container first, then for an image.
func inspectVerb(*pflag.FlagSet) command.Run {
	return func(ctx context.Context, a *command.App, args []string) error {
		if err := command.Need(args, 1, -1, "names"); err != nil {
			return err
		}
		all := []json.RawMessage{}
		for _, n := range args {
			var v json.RawMessage
			err := a.Call(ctx, "GET", "/containers/"+url.PathEscape(n)+"/json", nil, nil, &v)
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
