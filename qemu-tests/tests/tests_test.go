// Package tests runs tests that need root as root in a virtual machine: for
// those who are not root, and for kernels, control groups (version 2) and
// processors other than the machine's own.
package tests

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coble-os/coble/qemu-tests/vm"
)

// packages is the list that is run, or COBLE_VM_TESTS (words), for instance
// while one package is worked on.
func packages(list ...string) []string {
	if words := os.Getenv("COBLE_VM_TESTS"); words != "" {
		return strings.Fields(words)
	}
	return list
}

// TestDriversAsRoot runs the suites of the graph drivers, on the newest kernel, and with $COBLE_VM_ALL (make test-vm) on all.
// Without this machine's own programs, on another processor, what needs them is skipped. It is the longest, so it is the first
// of the machines to start: as many run at once as go test -parallel says, one a core.
func TestDriversAsRoot(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ arch, series string }{{"amd64", "6.12"}, {"amd64", "5.10"}, {"amd64", "6.1"}, {"arm64", "6.1"}} {
		if c.series != "6.12" && os.Getenv("COBLE_VM_ALL") == "" {
			continue
		}
		t.Run(c.arch+"-"+c.series, func(t *testing.T) {
			t.Parallel()
			vm.RunTests(t, vm.FetchKernelT(t, c.arch, c.series), 150*time.Second, packages(
				"./layers/driver/devmapper", "./rt/daemon TestThinVolumes", "./layers/driver/overlay", "./layers/driver/btrfs", "./layers/driver/quota", "./layers/driver/packed", "./layers/driver/vfs")...)
		})
	}
}

func TestPackagesAsRoot(t *testing.T) {
	t.Parallel()
	list := packages("./init/keeper", "./sandbox", "./sandbox/cgroup", "./sandbox/rootfs", "./sandbox/spawn", "./rt/oci", "./netcfg", "./netcfg/dns", "./netcfg/dhcp", "./netcfg/links", "./netcfg/mdns")
	for _, c := range []struct{ arch, series, cgroup string }{
		{"amd64", "6.1", ""},
		{"amd64", "6.12", ""},
		{"amd64", "5.10", ""},
		{"amd64", "5.10", "v1"},
		{"arm64", "6.1", ""},
	} {
		t.Run(strings.TrimSuffix(c.arch+"-"+c.series+"-"+c.cgroup, "-"), func(t *testing.T) {
			t.Parallel()
			run := vm.RunTests
			if c.cgroup == "v1" {
				run = vm.RunTestsV1
			}
			list := slices.Clone(list)
			if os.Getenv("COBLE_VM_ALL")+os.Getenv("COBLE_VM_TESTS") == "" {
				list = slices.DeleteFunc(list, func(p string) bool { return !matters(p, c.series, c.cgroup) })
			}
			run(t, vm.FetchKernelT(t, c.arch, c.series), 60*time.Second, list...)
		})
	}
}

// matters tells whether a package is tested on a kernel without $COBLE_VM_ALL. The sandbox is tested on each; the network on the
// newest; the machine's own links, of which this host's kernel may lack kinds, on the oldest.
func matters(pkg, series, cgroup string) bool {
	switch {
	case strings.HasPrefix(pkg, "./sandbox"):
		return true
	case pkg == "./netcfg/links":
		return series == "5.10" && cgroup == ""
	case strings.HasPrefix(pkg, "./netcfg"):
		return series == "6.12"
	default:
		return series != "5.10"
	}
}

// TestSELinux: labels are given and enforced.
func TestSELinux(t *testing.T) {
	t.Parallel()
	vm.RunSELinux(t, vm.FetchKernelT(t, "amd64", "6.12"), 60*time.Second, "./sandbox", "TestSELinux")
}

// TestKernelsWithout: what the network does where the kernel lacks a part.
func TestKernelsWithout(t *testing.T) {
	t.Parallel()
	for name, modules := range map[string][]string{
		"nat": {"nft_nat", "nft_masq", "nft_chain_nat", "nft_redir"}, "nftables": {"nf_tables", "nft_"}, "veth": {"veth"}, "bridge": {"bridge", "nft_meta_bridge"},
		"counters": {"nft_counter"}, "shaper": {"sch_tbf"},
	} {
		series := "6.12"
		if name == "counters" { // later kernels have them in nf_tables
			series = "5.10"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			vm.RunWithout(t, vm.FetchKernelT(t, "amd64", series), 30*time.Second, "./netcfg", "TestKernelWithout", modules...)
		})
	}
}

// TestShaperLoaded: what limits bandwidth is loaded when it is first needed.
func TestShaperLoaded(t *testing.T) {
	t.Parallel()
	vm.RunWithout(t, vm.FetchKernelT(t, "amd64", "6.12"), 60*time.Second, "./rt/daemon", "TestBandwidth", "sch_tbf")
}
