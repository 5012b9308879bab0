package runc

import (
	"context"
	_ "embed"
	"errors"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/qemu-tests/vm"
)

//go:embed testdata/test.sh
var script string

// TestDebian boots once for each kind of control groups; each step of the script becomes a subtest.
func TestDebian(t *testing.T) {
	for _, c := range []struct{ name, kernel, line, cpu string }{
		{"cgroup2", "6.12", "", "50000 100000"},
		{"cgroup1", "6.1", "systemd.unified_cgroup_hierarchy=0", "50000"},
	} {
		t.Run(c.name, func(t *testing.T) { bootDebian(t, c.kernel, c.line, steps(c.cpu)) })
	}
}

func bootDebian(t *testing.T, series, line string, steps []step) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	disk, err := debianDisk(ctx)
	if errors.Is(err, errNeedsRoot) {
		t.Skip(err)
	}
	require.NoError(t, err, "run make vm-deps (package mmdebstrap)")
	kernel := vm.FetchKernelT(t, "amd64", series)
	initrd := filepath.Join(t.TempDir(), "initrd")
	require.NoError(t, writeInitrd(ctx, initrd, script, kernel))
	ctx, v := vm.StartT(t, vm.Options{
		Kernel: kernel, Initrd: initrd, MemMiB: 2048, CPUs: 2, Drives: []vm.Drive{{File: disk, Snapshot: true}},
		Append: "rw systemd.show_status=0 " + line,
	}, time.Minute)
	for _, s := range steps {
		t.Run(s.name, func(t *testing.T) {
			m, err := v.WaitFor(ctx, `(?:step `+regexp.QuoteMeta(s.name)+`: ([^\r\n]*)|steps end)\r?\n`)
			require.NoError(t, err)
			require.Regexp(t, "^"+s.want+"$", strings.Join(strings.Fields(m[1]), " "))
		})
	}
	require.NoError(t, v.Wait(ctx))
}

type step struct{ name, want string }

// steps are what the script does, and what must come of it: exit status and output. cpu is half a processor.
func steps(cpu string) []step {
	const id = `[0-9a-f]{64}`
	return []step{
		{"version", `0 runc version .* spec: 1\.3\.0`},
		{"import", `0 .*`},
		{"podman-run", "3 hello"},
		{"podman-cgroup", `0 /machine\.slice/libpod-` + id + `\.scope\S* 67108864 33 ` + cpu},
		{"podman-tty", "0 /dev/pts/0"},
		{"podman-missing", `127 .*executable file not found.*`},
		{"podman-detach", "0 " + id},
		{"podman-exec", "4 sleep"},
		{"podman-scope", "0 libpod-" + id + `\.scope active running`},
		{"podman-limit", "0 Memory(Max|Limit)=33554432"},
		{"podman-pid", "0 sleep"},
		{"podman-pause", "0 .*"},
		{"podman-unpause", "0 .*"},
		{"podman-remove", "0 .*"},
		{"podman-gone", "1 0"},
		{"own-run", "0"},
		{"own-scope", `0 ControlGroup=/test\.slice/coble-own\.scope ActiveState=active /test\.slice/coble-own\.scope`},
		{"own-update", "0"},
		{"own-limit", "0 TasksMax=44 44"},
		{"own-reload", "0 44"},
		{"own-delete", "0"},
		{"own-gone", "0 LoadState=not-found ActiveState=inactive"},
		{"apparmor-load", "0"},
		{"apparmor-run", "0"},
		{"apparmor-first", `0 coble-test \(enforce\)`},
		{"apparmor-exec", `1 coble-test \(enforce\) cat: can't open '/forbidden': Permission denied`},
		{"apparmor-other", `0 unconfined secret`},
		{"apparmor-delete", "0"},
		{"apparmor-missing", `1 .*enter AppArmor profile coble-nowhere, which must have been loaded: no such file or directory.*`},
		{"ctr-import", "0 .*"},
		{"ctr-run", "5 hello"},
		{"ctr-systemd", `0 /system\.slice/ctr-b\.scope`},
		{"ctr-detach", "0"},
		{"ctr-exec", "0 sleep"},
		{"ctr-kill", "0"},
		{"ctr-delete", "0.*"},
	}
}
