// Package rt_test holds what is true of the whole tree: which package may import which.
package rt_test

import (
	"os"
	"os/exec"
	"path"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/coble-os/coble/"

// deps lists everything that a package of coble's links, itself left out. Packages below vendor/ are the standard
// library's own.
func deps(t *testing.T, pattern string) map[string][]string {
	t.Helper()
	cmd := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Deps " "}}`, pattern)
	cmd.Dir = ".."
	out, err := cmd.Output()
	require.NoError(t, err)
	all := map[string][]string{}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		all[strings.TrimPrefix(f[0], module)] = f[1:]
	}
	require.NotEmpty(t, all, pattern)
	return all
}

func below(pkg string, folders ...string) bool {
	for _, f := range folders {
		if pkg == module+f || strings.HasPrefix(pkg, module+f+"/") {
			return true
		}
	}
	return false
}

func TestArrows(t *testing.T) {
	for _, c := range []struct {
		from   string
		never  []string
		reason string
	}{
		{"./layers/...", []string{"netcfg", "sandbox", "rt", "init", "configs", "cmd"}, "images know nothing of networks, processes or the engine: they meet in rt/engine as plain values"},
		{"./layers/source", []string{"layers/repo", "layers/catalog", "layers/distribution", "layers/graph", "layers/registry"}, "what an archive has is read before anything is stored"},
		{"./layers/blobinfo", []string{"layers"}, "what registries know is digests: it needs nothing else of coble"},
		{"./layers/distribution", []string{"layers/repo", "layers/catalog", "layers/graph", "layers/record", "layers/unpacked", "layers/driver/overlay", "layers/driver/btrfs", "layers/driver/devmapper", "layers/driver/vfs"}, "of what keeps images, it knows the interface"},
		{"./layers/retention", []string{"layers/archive", "layers/blob", "layers/catalog", "layers/distribution", "layers/driver", "layers/graph", "layers/registry", "layers/repo", "layers/source"}, "which images go is decided on plain data"},
		{"./layers/export", []string{"layers/repo", "layers/catalog", "layers/distribution", "layers/driver", "layers/graph", "layers/record", "layers/registry"}, "what is written is handed in"},
		{"./layers/catalog", []string{"layers/archive", "layers/blob", "layers/blobinfo", "layers/distribution", "layers/driver", "layers/record", "layers/registry", "layers/repo", "layers/unpacked", "layers/source"}, "what the store says is read and written within a transaction, and no file is touched"},
		{"./layers/driver/...", []string{"layers/repo", "layers/unpacked", "layers/catalog", "layers/distribution", "layers/graph", "layers/image", "layers/record", "layers/registry", "layers/source"}, "drivers keep folders, and what these mean is for others to know"},
		{"./layers/unpacked", []string{"layers/repo", "layers/catalog", "layers/distribution", "layers/graph", "layers/registry", "layers/source", "layers/driver/overlay", "layers/driver/btrfs", "layers/driver/devmapper", "layers/driver/vfs"}, "layers on disk are folders and records: what stands on them, and whether they are wanted, the store says"},
		{"./layers/origin", []string{"layers/repo", "layers/distribution", "layers/registry", "layers/driver/overlay", "layers/driver/btrfs", "layers/driver/devmapper", "layers/driver/vfs"}, "what is repaired from is only read, and no driver is opened for it"},
		{"./layers/fsck", []string{"layers/repo", "layers/distribution", "layers/registry", "layers/driver/overlay", "layers/driver/btrfs", "layers/driver/devmapper", "layers/driver/vfs"}, "of the repository that it checks it knows an interface, and of registries that they are an origin"},
		{"./layers/layout", []string{"layers/repo", "layers/catalog", "layers/distribution", "layers/graph", "layers/registry"}, "packing needs no repository"},
		{"./netcfg/...", []string{"layers", "sandbox", "rt", "init", "configs", "cmd"}, "networks are desired state, set by whoever computes it"},
		{"./sandbox/...", []string{"layers", "netcfg", "rt", "init", "configs", "cmd"}, "others can use the sandbox without the rest of coble"},
		{"./sandbox/plan", []string{"sandbox"}, "who runs a plan needs nothing of who makes it"},
		{"./sandbox/spawn", []string{"sandbox/compiler", "sandbox/spec", "sandbox/seccomp", "sandbox/caps", "sandbox/mountopt"}, "it runs any list of calls"},
		{"./sandbox/spec", []string{"sandbox/compiler", "sandbox/spawn", "sandbox/seccomp", "sandbox/caps", "sandbox/cgroup", "sandbox/rootfs", "sandbox/reaper"}, "what a spec asks for is known before anything is made of it"},
		{"./sandbox/compiler", []string{"sandbox/spawn", "sandbox/cgroup", "sandbox/rootfs", "sandbox/reaper"}, "it is pure: what it must know of the machine is handed in"},
		{"./sandbox/seccomp/...", []string{"sandbox/caps", "sandbox/cgroup", "sandbox/compiler", "sandbox/mountopt", "sandbox/plan", "sandbox/reaper", "sandbox/rootfs", "sandbox/spawn", "sandbox/spec"}, "a filter is data: it needs no machine and no container"},
		{"./sandbox/seccomp/syscalls", []string{"sandbox"}, "tables, for whoever wants a number"},
		{"./sandbox/mountopt", []string{"sandbox"}, "words and flags, for whoever mounts"},
		{"./init/boot/...", []string{"rt", "layers", "netcfg", "sandbox", "cmd"}, "boot steps are called by the engine and never call up"},
		{"./init/notify", []string{"rt", "layers", "netcfg", "sandbox", "configs", "cmd"}, "both ends of the keeper's protocol are small"},
		{"./configs", []string{"rt", "layers", "netcfg", "sandbox", "init", "cmd"}, "the schema is data"},
		{"./rt/store", []string{"layers", "netcfg", "sandbox", "init", "configs", "rt/engine", "rt/api", "rt/logs", "cmd"}, "records outlive the code that makes them"},
		{"./rt/logs", []string{"layers", "netcfg", "sandbox", "init", "configs", "rt/engine", "rt/api", "rt/store", "cmd"}, "output knows nothing of containers but a folder and a run number"},
		{"./rt/oci", []string{"layers", "netcfg", "init", "configs", "rt/engine", "rt/api", "rt/client", "rt/daemon", "rt/store", "rt/logs", "cmd"}, "the runtime's command line is a face of the sandbox alone"},
		{"./rt/job", []string{"rt/store", "rt/containers", "rt/engine", "rt/api", "layers/repo", "layers/catalog", "layers/distribution", "netcfg", "sandbox", "init", "configs", "cmd"}, "the table knows nothing of what jobs are about"},
		{"./rt/containers", []string{"layers", "netcfg", "sandbox", "init", "configs", "rt/job", "rt/logs", "rt/engine", "rt/api", "cmd"}, "records, states and names: nothing runs"},
		{"./rt/images", []string{"netcfg", "sandbox/spawn", "sandbox/cgroup", "init", "rt/networkdriver", "rt/execdriver", "rt/stdio", "rt/engine", "rt/api", "cmd"}, "of containers, images know the records"},
		{"./rt/names", []string{"layers", "sandbox", "init/boot", "init/keeper", "configs", "rt/job", "rt/networkdriver", "rt/engine", "rt/api", "cmd"}, "who is told of names, and when, is the network driver's to say"},
		{"./rt/networkdriver", []string{"layers/repo", "layers/catalog", "layers/distribution", "layers/driver", "sandbox/spawn", "sandbox/cgroup", "rt/images", "rt/execdriver", "rt/stdio", "rt/engine", "rt/api", "cmd"}, "the drivers meet in rt/engine"},
		{"./rt/stdio", []string{"layers/repo", "layers/catalog", "layers/distribution", "layers/driver", "netcfg", "sandbox", "configs", "rt/images", "rt/networkdriver", "rt/execdriver", "rt/engine", "rt/api", "cmd"}, "streams know nothing of what writes into them"},
		{"./rt/execdriver", []string{"layers/repo", "layers/catalog", "layers/distribution", "netcfg", "rt/images", "rt/networkdriver", "rt/names", "rt/engine", "rt/api", "cmd"}, "the drivers meet in rt/engine"},
		{"./rt/engine", []string{"rt/api", "rt/client", "rt/daemon", "init/keeper", "cmd"}, "nothing calls back up; the engine talks to the keeper through init/notify"},
		{"./rt/api", []string{"rt/client", "rt/daemon", "cmd"}, "HTTP to jobs and back"},
		{"./rt/client/...", []string{"rt/engine", "rt/api", "rt/store", "rt/logs", "layers/archive", "layers/blob", "layers/catalog", "layers/distribution", "layers/driver", "layers/graph", "layers/image", "layers/record", "layers/registry", "layers/repo", "layers/unpacked", "layers/origin", "layers/fsck", "netcfg", "sandbox", "cmd"}, "the client talks to whatever answers the API"},
		{"./rt/client/command", []string{"rt/client/flags", "rt/client/dockerconfig", "rt/client/localtar", "layers", "netcfg", "sandbox", "rt/engine", "rt/api", "rt/store", "init", "configs", "cmd"}, "what verbs share knows none of them"},
		{"./rt/client/conn", []string{"layers", "netcfg", "sandbox", "rt", "init", "configs", "cmd"}, "a connection knows neither the verbs nor what they are about"},
		{"./rt/client/dockerconfig", []string{"layers/repo", "netcfg", "sandbox", "rt", "init", "configs", "cmd"}, "credentials are a file and helpers: nothing of the engine, nothing of what is asked on a terminal"},
		{"./rt/client/flags", []string{"layers", "netcfg", "sandbox", "rt", "init", "cmd"}, "flags become requests before anybody is asked"},
		{"./rt/client/images", []string{"rt/client/containers", "rt/client/networks", "rt/client/localtar"}, "images know nothing of what is run from them"},
		{"./rt/client/networks", []string{"rt/client/containers", "rt/client/images", "rt/client/dockerconfig", "rt/client/localtar"}, "verbs of networks are requests and nothing else"},
		{"./rt/client/localtar", []string{"layers", "netcfg", "sandbox", "rt", "init", "configs", "cmd"}, "what a container sends meets local files and nothing else"},
		{"./rt/client/render", []string{"layers", "netcfg", "sandbox", "rt/client/conn", "rt/engine", "rt/api", "rt/store", "init", "configs", "cmd"}, "what is shown was asked for before"},
	} {
		for pkg, all := range deps(t, c.from) {
			for _, d := range all {
				require.False(t, below(d, c.never...), "%s imports %s: %s", pkg, d, c.reason)
			}
		}
	}
}

// The one process that must not die links little that could make it: no library, nothing of a network.
func TestKeeperLinksLittle(t *testing.T) {
	for pkg, all := range deps(t, "./init/keeper/...") {
		for _, d := range all {
			first, _, _ := strings.Cut(d, "/")
			own := !strings.Contains(first, ".") || strings.HasPrefix(d, "golang.org/x/sys/unix") || below(d, "init/keeper")
			require.True(t, own, "%s links %s: the keeper is the standard library and x/sys/unix only", pkg, d)
			require.NotContains(t, []string{"net", "net/http", "os/exec", "encoding/json"}, d, "%s: no network, no JSON, and no second waiter beside the reaper", pkg)
		}
	}
}

// The server decodes and encodes: which driver unpacks a layer is none of its business.
func TestServerImportsNoDriver(t *testing.T) {
	out, err := goList("-f", `{{join .Imports " "}}`, "./rt/api")
	require.NoError(t, err)
	for _, d := range strings.Fields(out) {
		require.False(t, below(d, "layers/driver", "layers/graph", "layers/blob", "layers/archive", "netcfg", "sandbox", "rt/store", "rt/logs"), "rt/api imports %s", d)
	}
}

// Nothing outside of tests may depend on the machinery of tests.
func TestBinaryLinksNoTests(t *testing.T) {
	for _, d := range deps(t, "./cmd/coble")["cmd/coble"] {
		require.False(t, below(d, "qemu-tests") || path.Base(d) == "testing" || strings.HasPrefix(d, "github.com/stretchr/"), "the binary links %s", d)
		require.NotEqual(t, "C", d, "the binary is free of CGO")
		require.NotContains(t, []string{"text/template", "html/template"}, d, "reflection keeps the linker from dropping dead code: measure first")
	}
}

func TestMainHoldsNoLogic(t *testing.T) {
	b, err := os.ReadFile("../cmd/coble/main.go")
	require.NoError(t, err)
	require.LessOrEqual(t, strings.Count(string(b), "\n"), 150, "cmd/coble only picks the face")
}

func goList(args ...string) (string, error) {
	cmd := exec.Command("go", append([]string{"list"}, args...)...)
	cmd.Dir = ".."
	out, err := cmd.Output()
	return string(out), err
}
