package seccomp

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox/caps"
	"github.com/coble-os/coble/sandbox/seccomp/syscalls"
)

var update = flag.Bool("update", false, "write goldens")

// TestProfile holds the default profile as a table: each call, and what lets it through.
func TestProfile(t *testing.T) {
	why := map[string][]string{}
	note := func(s *specs.LinuxSeccomp, reason string) {
		for _, r := range s.Syscalls {
			for _, name := range r.Names {
				text := reason
				for _, a := range r.Args {
					text += fmt.Sprintf(" if argument %d %s %#x", a.Index, strings.TrimPrefix(string(a.Op), "SCMP_CMP_"), a.Value)
				}
				if r.ErrnoRet != nil {
					text += fmt.Sprintf(" error %d", *r.ErrnoRet)
				}
				if !slices.Contains(why[name], text) && !slices.Contains(why[name], "always") {
					why[name] = append(why[name], text)
				}
			}
		}
	}
	note(Default(nil), "always")
	for _, c := range caps.All().Names() {
		note(Default([]string{c}), c)
	}
	var lines []string
	for name, reasons := range why {
		if strings.Contains(" "+ofArch+" ", " "+name+" ") {
			continue // another table on each architecture
		}
		reasons = slices.DeleteFunc(reasons, func(r string) bool { // what all capabilities but SYS_ADMIN repeat
			return strings.HasPrefix(r, "CAP_") && slices.Contains(why[name], "always"+strings.TrimPrefix(r, strings.Fields(r)[0]))
		})
		lines = append(lines, name+": "+strings.Join(reasons, ", "))
	}
	slices.Sort(lines)
	got := strings.Join(lines, "\n") + "\n"
	const file = "testdata/default.golden"
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

// TestRefusals pins what matters most of the default profile.
func TestRefusals(t *testing.T) {
	p, err := Compile(Default(caps.Default()))
	require.NoError(t, err)
	for name, want := range map[string]uint32{
		"mount": retErrno | 1, "unshare": retErrno | 1, "setns": retErrno | 1, "bpf": retErrno | 1, "keyctl": retErrno | 1,
		"add_key": retErrno | 1, "request_key": retErrno | 1, "kexec_load": retErrno | 1, "init_module": retErrno | 1,
		"io_uring_setup": retErrno | 1, "io_uring_enter": retErrno | 1, "io_uring_register": retErrno | 1,
		"userfaultfd": retErrno | 1, "perf_event_open": retErrno | 1, "open_by_handle_at": retErrno | 1, "clone3": retErrno | 38,
		"umount2": retErrno | 1, "pivot_root": retErrno | 1, "fsopen": retErrno | 1, "move_mount": retErrno | 1,
		"open_tree": retErrno | 1, "mount_setattr": retErrno | 1, "swapon": retErrno | 1, "reboot": retErrno | 1,
		"settimeofday": retErrno | 1, "quotactl": retErrno | 1, "acct": retErrno | 1, "syslog": retErrno | 1,
		"lookup_dcookie": retErrno | 1, "vhangup": retErrno | 1, "kcmp": retErrno | 1, "process_madvise": retErrno | 1,
		"read": retAllow, "clone": retAllow, "chroot": retAllow, "openat2": retAllow, "ptrace": retAllow, "close_range": retAllow,
	} {
		got, _ := simulate(t, p.Filter, native(t, name))
		require.Equal(t, want, got, name)
	}
	for _, bit := range []uint64{
		unix.CLONE_NEWNS, unix.CLONE_NEWCGROUP, unix.CLONE_NEWUTS, unix.CLONE_NEWIPC, unix.CLONE_NEWUSER, unix.CLONE_NEWPID, unix.CLONE_NEWNET,
	} {
		got, _ := simulate(t, p.Filter, native(t, "clone", bit|unix.CLONE_VM))
		require.Equal(t, uint32(retErrno|1), got, "clone with %#x", bit)
	}
	for family, want := range map[uint64]uint32{
		0: retAllow, unix.AF_UNIX: retAllow, unix.AF_INET: retAllow, unix.AF_INET6: retAllow, unix.AF_NETLINK: retAllow,
		unix.AF_PACKET: retAllow, unix.AF_CAIF: retAllow, unix.AF_ALG: retErrno | 1, unix.AF_NFC: retAllow, unix.AF_VSOCK: retErrno | 1,
		unix.AF_KCM: retAllow, unix.AF_MCTP: retAllow, 1<<32 | unix.AF_VSOCK: retErrno | 1, 1<<32 | unix.AF_ALG: retErrno | 1,
	} {
		got, _ := simulate(t, p.Filter, native(t, "socket", family))
		require.Equal(t, want, got, "socket family %#x", family)
	}
	for persona, want := range map[uint64]uint32{
		0: retAllow, 8: retAllow, 0x20000: retAllow, 0x20008: retAllow, 0xffffffff: retAllow,
		1: retErrno | 1, 0x40000: retErrno | 1, 0x400000: retErrno | 1,
	} {
		got, _ := simulate(t, p.Filter, native(t, "personality", persona))
		require.Equal(t, want, got, "personality %#x", persona)
	}
}

// dockerRule is a rule of a Docker profile.
type dockerRule struct {
	specs.LinuxSyscall
	Includes, Excludes struct {
		Caps, Arches []string
	}
}

// TestDocker compares the default profile with that of Docker in the file COBLE_DOCKER_PROFILE (default.json of
// Docker 28.5), for every capability alone, none, Docker's fourteen and all, over all numbers.
func TestDocker(t *testing.T) {
	file := os.Getenv("COBLE_DOCKER_PROFILE")
	if file == "" {
		t.Skip("COBLE_DOCKER_PROFILE is not set: nothing of Docker's is kept here")
	}
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	var doc struct {
		specs.LinuxSeccomp
		ArchMap []struct {
			Architecture     specs.Arch
			SubArchitectures []specs.Arch
		}
		Syscalls []dockerRule `json:"syscalls"`
	}
	require.NoError(t, json.Unmarshal(b, &doc))
	sets := [][]string{nil, caps.Default(), caps.All().Names()}
	for _, c := range caps.All().Names() {
		sets = append(sets, []string{c})
	}
	for _, set := range sets {
		theirs := &specs.LinuxSeccomp{DefaultAction: doc.DefaultAction, DefaultErrnoRet: doc.DefaultErrnoRet}
		for _, m := range doc.ArchMap {
			if m.Architecture == syscalls.Architectures()[0].Name {
				theirs.Architectures = append(m.SubArchitectures, m.Architecture)
			}
		}
		for _, r := range doc.Syscalls {
			if r.applies(set) {
				theirs.Syscalls = append(theirs.Syscalls, r.LinuxSyscall)
			}
		}
		same(t, newOracle(theirs), Default(set))
	}
}

// applies tells whether the rule is for these capabilities and this architecture; minKernel is below 5.10 always.
func (r *dockerRule) applies(set []string) bool {
	has := func(c string) bool { return slices.Contains(set, c) }
	arch := map[specs.Arch]string{specs.ArchX86_64: "amd64", specs.ArchAARCH64: "arm64", specs.ArchARM: "arm", specs.ArchRISCV64: "riscv64"}[syscalls.Architectures()[0].Name]
	if len(r.Includes.Arches) > 0 && !slices.Contains(r.Includes.Arches, arch) || slices.Contains(r.Excludes.Arches, arch) {
		return false
	}
	if len(r.Includes.Caps) > 0 && !slices.ContainsFunc(r.Includes.Caps, has) {
		return false
	}
	return !slices.ContainsFunc(r.Excludes.Caps, has)
}

// same compares two profiles; sockets of AF_ALG, and of families that Linux does not have, are the one difference.
func same(t *testing.T, theirs *oracle, ours *specs.LinuxSeccomp) {
	p, err := Compile(ours)
	require.NoError(t, err)
	for column, a := range syscalls.Architectures() {
		for _, nr := range numbers(column) {
			for _, v := range []uint64{0, 1, 8, 37, 39, 40, 41, 45, 0x20000, 0x20008, 0x10000000, 0x7e020000, 0xffffff, 0xffffffff, 1 << 40} {
				d := data{audit: a.Audit, nr: nr, args: [6]uint64{v, 7, v}}
				got, _ := simulate(t, p.Filter, d)
				if want := theirs.expect(d); got != want && (v <= unix.AF_MCTP || nr != a.Base+uint32(syscalls.Number(syscalls.Find("socket"), column))) {
					t.Errorf("%s %d(%#x): %#x, Docker has %#x", a.Name, nr, v, got, want)
				}
			}
		}
	}
}
