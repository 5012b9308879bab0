package sandbox

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/sandbox/cgroup"
	"github.com/coble-os/coble/sandbox/spawn"
)

// BenchmarkStart compares starts of the very same bundle by this package, by crun and by runc, taking turns so that
// what else the machine does hits all alike. It prints medians in milliseconds, and the ratios to both.
//
//	go test ./sandbox -run '^$' -bench Start -benchtime 40x
func BenchmarkStart(b *testing.B) {
	needRoot(b)
	bundle, hash := writeBundle(b)
	peers := []peer{newPeer(b, bundle, "crun"), newPeer(b, bundle, "runc")}
	var toExec, toExit []time.Duration
	b.ResetTimer()
	turns := []func(i int){func(i int) {
		e, x := startOnce(b, bundle, i, nil)
		toExec, toExit = append(toExec, e), append(toExit, x)
	}}
	for k := range peers {
		turns = append(turns, func(i int) { peers[k].times = append(peers[k].times, peers[k].run(b, i)) })
	}
	for i := range b.N {
		for k := range turns { // the kernel still clears up after the last one, so that each goes first as often
			turns[(i+k)%len(turns)](i)
		}
	}
	b.StopTimer()
	if b.N == 1 {
		return // the framework's trial run
	}
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	exit := median(toExit)
	fmt.Printf("\nconfig.json sha256 %s, %d rounds\n", hash, b.N)
	fmt.Printf("coble to exec %.2f ms, to exit %.2f ms (best %.2f)\n", ms(median(toExec)), ms(exit), ms(slices.Min(toExit)))
	for _, p := range peers {
		fmt.Printf("%s run %.2f ms (best %.2f): coble takes %.2f of it\n", p.name, ms(median(p.times)), ms(slices.Min(p.times)), float64(exit)/float64(median(p.times)))
		b.ReportMetric(float64(exit)/float64(median(p.times)), "of-"+p.name)
	}
	b.ReportMetric(ms(exit), "ms/exit")
	b.ReportMetric(ms(median(toExec)), "ms/exec")
}

func median(d []time.Duration) time.Duration {
	s := slices.Sorted(slices.Values(d))
	return s[len(s)/2]
}

// writeBundle makes a bundle like Docker's, out of testdata/bench/config.json, with a root of busybox.
func writeBundle(b *testing.B) (dir, hash string) {
	root := newRoot(b)
	dir = filepath.Dir(root)
	config, err := os.ReadFile("testdata/bench/config.json")
	require.NoError(b, err)
	require.NoError(b, os.WriteFile(filepath.Join(dir, "config.json"), config, 0o644))
	return dir, fmt.Sprintf("%x", sha256.Sum256(config))
}

func readSpec(b *testing.B, bundle string) *specs.Spec {
	config, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	require.NoError(b, err)
	spec := &specs.Spec{}
	require.NoError(b, json.Unmarshal(config, spec))
	return spec
}

// startOnce measures from the reading of config.json, as the peers do, to the execve and to the exit.
func startOnce(b *testing.B, bundle string, i int, ahead *Ahead) (toExec, toExit time.Duration) {
	began := time.Now()
	var spec specs.Spec
	config, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err == nil {
		err = json.Unmarshal(config, &spec)
	}
	require.NoError(b, err)
	path := fmt.Sprintf("/coble-bench-%d-%d", os.Getpid(), i)
	p, err := Start(context.Background(), Config{ID: "bench", Spec: &spec, Bundle: bundle, CgroupPath: path, Ahead: ahead})
	require.NoError(b, err)
	toExec = time.Since(began)
	exit, err := p.Reap()
	require.NoError(b, err)
	require.Zero(b, exit.Status())
	g, err := cgroup.Open(path)
	require.NoError(b, err)
	require.NoError(b, g.Remove())
	toExit = time.Since(began)
	require.NoError(b, p.Close())
	return toExec, toExit
}

// peer is another runtime.
type peer struct {
	name, bundle, state string
	mask                string // an empty file
	times               []time.Duration
}

func newPeer(b *testing.B, bundle, name string) peer {
	if _, err := exec.LookPath(name); err != nil {
		b.Fatalf("%s is missing: run make deps (package %s)", name, name)
	}
	mask := filepath.Join(b.TempDir(), "empty")
	require.NoError(b, os.WriteFile(mask, nil, 0o644))
	return peer{name: name, bundle: bundle, state: b.TempDir(), mask: mask}
}

// run measures one start to exit. crun refuses hybrid cgroups in which v2 has a controller, so it sees none: the
// shell which hides them exec's the runtime, and is timed too, about a millisecond, but only where it is needed.
func (p *peer) run(b *testing.B, i int) time.Duration {
	const controllers = "/sys/fs/cgroup/unified/cgroup.controllers"
	id := fmt.Sprintf("coble-bench-%d-%d", os.Getpid(), i)
	cmd := exec.Command(p.name, "--root", p.state, "run", "--bundle", p.bundle, id)
	if _, err := os.Stat(controllers); err == nil && p.name == "crun" {
		return p.timed(b, "run", "--bundle", p.bundle, id)
	}
	began := time.Now()
	out, err := cmd.CombinedOutput()
	took := time.Since(began)
	require.NoError(b, err, "%s", out)
	return took
}

// BenchmarkCrowd measures a start to its exit beside 1, 100 and 1,000 containers that sleep: its cost must not grow with
// them. The kernel is begun with 2 ms earlier (MakeAhead), which is how long an engine takes to write down what it is about to do and to
// find the layers; "alone" is the start of who has nothing else to do. What the kernel clears up in the background after a container (its network
// namespace is looked for in all others) is waited for, since it would be timed as a part of the next start.
//
//	go test ./sandbox -run '^$' -bench Crowd -benchtime 100x
func BenchmarkCrowd(b *testing.B) {
	needRoot(b)
	require.NoError(b, spawn.ReserveLow())
	bundle, _ := writeBundle(b)
	outline := readSpec(b, bundle)
	var sleeping []*Process
	b.Cleanup(func() {
		for i, p := range sleeping {
			if err := p.destroy(); err != nil {
				b.Error(err)
			}
			if g, err := cgroup.Open(crowdPath(i)); err != nil || g.Remove() != nil {
				b.Errorf("remove %s", crowdPath(i))
			}
		}
		if g, err := cgroup.Open(filepath.Dir(crowdPath(0))); err != nil || g.Remove() != nil {
			b.Errorf("remove %s", filepath.Dir(crowdPath(0)))
		}
	})
	for _, n := range []int{1, 100, 1000} {
		for len(sleeping) < n {
			spec := newSpec(filepath.Join(bundle, "root"), "sleep", "1000")
			p, err := Start(context.Background(), Config{ID: "crowd", Spec: spec, CgroupPath: crowdPath(len(sleeping))})
			require.NoError(b, err)
			sleeping = append(sleeping, p)
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var begun, alone []time.Duration
			for i := 0; b.Loop(); i++ {
				ahead := MakeAhead(outline)
				time.Sleep(2 * time.Millisecond)
				_, exit := startOnce(b, bundle, 2*i, ahead)
				ahead.End()
				begun = append(begun, exit)
				time.Sleep(50 * time.Millisecond)
				_, exit = startOnce(b, bundle, 2*i+1, nil)
				alone = append(alone, exit)
				time.Sleep(50 * time.Millisecond)
			}
			b.ReportMetric(float64(median(begun).Microseconds())/1000, "ms/exit")
			b.ReportMetric(float64(median(alone).Microseconds())/1000, "ms/alone")
		})
	}
}

func crowdPath(i int) string { return fmt.Sprintf("/coble-crowd-%d/%d", os.Getpid(), i) }

// BenchmarkExec compares another process in a running container, from the request to its exit, with crun exec and runc
// exec into a container of theirs, of the same bundle.
//
//	go test ./sandbox -run '^$' -bench Exec -benchtime 100x
func BenchmarkExec(b *testing.B) {
	needRoot(b)
	bundle, _ := writeBundle(b)
	sleeper := filepath.Dir(newRoot(b))
	spec := readSpec(b, bundle)
	spec.Process.Args = []string{"/bin/sleep", "1000"}
	config, err := json.Marshal(spec)
	require.NoError(b, err)
	require.NoError(b, os.WriteFile(filepath.Join(sleeper, "config.json"), config, 0o644))
	path := fmt.Sprintf("/coble-bench-own-%d", os.Getpid())
	target, err := Start(context.Background(), Config{ID: "bench", Spec: spec, Bundle: sleeper, CgroupPath: path})
	require.NoError(b, err)
	b.Cleanup(func() {
		require.NoError(b, target.destroy())
		g, err := cgroup.Open(path)
		require.NoError(b, err)
		require.NoError(b, g.Remove())
	})
	command := *spec.Process
	command.Args = []string{"/bin/true"}
	var own []time.Duration
	turns := []func(){func() {
		began := time.Now()
		p, err := Exec(context.Background(), ExecConfig{Target: target, CgroupPath: path, Process: &command, Seccomp: spec.Linux.Seccomp})
		require.NoError(b, err)
		exit, err := p.Reap()
		own = append(own, time.Since(began))
		require.NoError(b, err)
		require.Zero(b, exit.Status())
		require.NoError(b, p.Close())
	}}
	peers := []peer{newPeer(b, sleeper, "crun"), newPeer(b, sleeper, "runc")}
	for k := range peers {
		id := fmt.Sprintf("coble-bench-exec-%d", os.Getpid())
		peers[k].sleep(b, id)
		turns = append(turns, func() { peers[k].times = append(peers[k].times, peers[k].exec(b, id)) })
	}
	for i := 0; b.Loop(); i++ {
		for k := range turns {
			turns[(i+k)%len(turns)]()
		}
	}
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	fmt.Printf("\ncoble exec %.2f ms (best %.2f)\n", ms(median(own)), ms(slices.Min(own)))
	for _, p := range peers {
		fmt.Printf("%s exec %.2f ms (best %.2f): coble takes %.2f of it\n", p.name, ms(median(p.times)), ms(slices.Min(p.times)), float64(median(own))/float64(median(p.times)))
	}
}

// script runs a runtime in a mount namespace where crun does not see that v2 has controllers; runc does not mind.
func (p *peer) script(b *testing.B, text string, args ...string) string {
	hide := `c=/sys/fs/cgroup/unified/cgroup.controllers; [ ! -e $c ] || mount --bind "$1" $c || exit 1; shift; `
	cmd := exec.Command("unshare", append([]string{"-m", "sh", "-c", hide + text, "sh", p.mask, p.name, "--root", p.state}, args...)...)
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		require.NoError(b, err, "%s", exit.Stderr)
	}
	require.NoError(b, err)
	return string(out)
}

// sleep starts the bundle, detached.
func (p *peer) sleep(b *testing.B, id string) {
	p.script(b, `"$@" </dev/null >/dev/null 2>&1`, "run", "--detach", "--bundle", p.bundle, id)
	b.Cleanup(func() { p.script(b, `"$@"`, "delete", "--force", id) })
}

// exec runs another process.
func (p *peer) exec(b *testing.B, id string) time.Duration {
	return p.timed(b, "exec", id, "/bin/true")
}

// timed times inside the mount namespace, so that only the runtime counts.
func (p *peer) timed(b *testing.B, args ...string) time.Duration {
	out := p.script(b, `s=$(date +%s%N); "$@" || exit 1; e=$(date +%s%N); echo $((e-s))`, args...)
	var ns int64
	_, err := fmt.Sscan(out, &ns)
	require.NoError(b, err, "%s", out)
	return time.Duration(ns)
}
