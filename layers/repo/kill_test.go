package repo

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/catalog"
	"github.com/coble-os/coble/layers/driver/drivertest"
	"github.com/coble-os/coble/layers/fsck"
	"github.com/coble-os/coble/layers/graph"
	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/layers/registry"
	"github.com/coble-os/coble/layers/registry/registrytest"
	"github.com/coble-os/coble/layers/registry/server"
	"github.com/coble-os/coble/layers/unpacked"
)

// victimEnv names the folder that a child process of TestKilled works in, with
// the driver before it: driver@folder.
const victimEnv = "COBLE_TEST_VICTIM"

func TestMain(m *testing.M) {
	for env, run := range map[string]func(string) error{victimEnv: victim, pullEnv: pullInChild} {
		if job := os.Getenv(env); job != "" {
			if err := run(job); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	drivertest.Main(m, nil)
}

// victim does what its standard input says, a line an operation, and answers
// each with a line: what its first word is, and "ok". Those of one first word
// are done in turn, those of different ones beside each other.
func victim(job string) error {
	drv, dir, _ := strings.Cut(job, "@")
	r, db, err := openAt(dir, filepath.Join(dir, "r"), drv)
	if err != nil {
		return err
	}
	defer db.Close()
	r.small = 0 // a stream's layers are never kept in memory
	fmt.Println("ready")
	queues := map[string]chan []string{}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		words := strings.Fields(in.Text())
		if queues[words[0]] == nil {
			queues[words[0]] = make(chan []string, 1)
			go func(q chan []string) {
				for words := range q {
					answer := "ok"
					if err := suffer(r, words[1], words[2:]); err != nil {
						answer = strings.ReplaceAll(err.Error(), "\n", " ")
					}
					fmt.Println(words[0], answer)
				}
			}(queues[words[0]])
		}
		queues[words[0]] <- words
	}
	return nil
}

func suffer(r *Repo, verb string, args []string) error {
	switch verb {
	case "load":
		_, err := r.LoadPath(ctx, args[0], "", nil)
		return err
	case "stream":
		f, err := os.Open(args[0])
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = r.Load(ctx, f, nil)
		return err
	case "pull":
		n, err := image.ParseName(args[0])
		if err == nil {
			_, err = pullFrom(ctx, r, n, nil)
		}
		return err
	case "tag":
		return r.Tag(args[0], args[1])
	case "remove":
		_, err := r.Remove(args[0], false)
		return err
	case "create":
		img, err := r.Get(args[1])
		if err != nil {
			return err
		}
		return r.CreateLayer(args[0], img.ID, 0)
	case "commit":
		return changeAndCommit(r, args[0], args[1], args[2])
	case "drop":
		return r.RemoveLayer(args[0])
	}
	return errors.New("what?")
}

// changeAndCommit writes some files into a writable layer, and makes an image
// of it whose label is new.
func changeAndCommit(r *Repo, key, name, label string) error {
	ms, err := r.Mounts(key, "/")
	if err != nil {
		return err
	}
	top := ms[len(ms)-1]
	upper := top.Source
	for o := range strings.SplitSeq(top.Data, ",") {
		if dir, ok := strings.CutPrefix(o, "upperdir="); ok {
			upper = dir
		}
	}
	for i := range 40 {
		if err := os.WriteFile(fmt.Sprintf("%s/new%d", upper, i), []byte(label), 0o644); err != nil {
			return err
		}
	}
	_, err = r.Commit(ctx, key, NewImage{Name: name, Config: func(diffs []digest.Digest) ([]byte, error) {
		return made{label: label}.configOf(diffs)
	}})
	return err
}

// world is what a repository holds. Images are told apart by their labels.
type world struct {
	names    map[string]string // of images
	nameless map[string]bool   // images
	tops     map[string]string // writable layers, and on which images they stand
}

func newWorld() world { return world{map[string]string{}, map[string]bool{}, map[string]string{}} }

// and is both together.
func (w world) and(o world) world {
	w = world{maps.Clone(w.names), maps.Clone(w.nameless), maps.Clone(w.tops)}
	maps.Copy(w.names, o.names)
	maps.Copy(w.nameless, o.nameless)
	maps.Copy(w.tops, o.tops)
	return w
}

func (w world) namesOf(label string) (out []string) {
	for n, l := range w.names {
		if l == label {
			out = append(out, n)
		}
	}
	return out
}

func (w world) used(label string) bool {
	return slices.Contains(slices.Collect(maps.Values(w.tops)), label)
}

// point gives an image a name. Who had it before stays, without one at worst.
func (w world) point(name, label string) {
	old := w.names[name]
	w.names[name] = label
	delete(w.nameless, label)
	if old != "" && len(w.namesOf(old)) == 0 {
		w.nameless[old] = true
	}
}

// step is one operation, and what it makes of the world.
type step struct {
	does string
	then func(world)
}

// actor does one thing after another with images and containers that are its
// own, but for layers, which others have too.
type actor struct {
	name    string
	world   world
	pending *step
	choose  func(*actor) step
	did     map[string]int // how many of each kind were acknowledged
	cut     map[string]int // how many of each kind were not
}

// next is the world after the step that is pending.
func (a *actor) next() world {
	w := a.world.and(newWorld())
	if a.pending != nil {
		a.pending.then(w)
	}
	return w
}

func (a *actor) kind() string { return strings.Fields(a.pending.does)[0] }

// killing is a repository whose processes are killed.
type killing struct {
	w      where
	random *rand.Rand
	reg    *registrytest.Registry
	actors []*actor
	ids    map[string]string // of images, by label
	slow   time.Duration     // the slowest opening
	pulled []made            // what is pulled
}

// A SIGKILL at any moment, again and again over one repository, leaves one
// that opens, in which all that was answered is there and whole, and of what
// was not answered all or nothing; and no file, record or lease that nothing
// needs. $COBLE_KILLS of them, $COBLE_SEED to begin with.
func TestKilled(t *testing.T) {
	drivertest.NeedRoot(t)
	for _, drv := range []struct {
		name  string
		kills int
		life  time.Duration // at most
	}{{"overlay", 48, 300 * time.Millisecond}, {"vfs", 6, 700 * time.Millisecond}, {"btrfs", 6, 700 * time.Millisecond}} {
		t.Run(drv.name, func(t *testing.T) {
			kills, err := strconv.Atoi(cmp.Or(os.Getenv("COBLE_KILLS"), strconv.Itoa(drv.kills)))
			require.NoError(t, err)
			seed, err := strconv.ParseUint(cmp.Or(os.Getenv("COBLE_SEED"), strconv.FormatInt(time.Now().UnixNano(), 10)), 10, 64)
			require.NoError(t, err)
			t.Logf("COBLE_SEED=%d", seed)
			k := newKilling(t, drv.name, rand.New(rand.NewPCG(seed, 0)))
			r, db := k.w.open(t)
			fresh := drivertest.Tree(r.o.Root)
			require.NoError(t, db.Close())
			for n := 0; n < kills; n++ {
				k.live(t, k.moment(drv.life), true)
				if n%4 == 0 { // while it cleans up after that
					k.live(t, k.moment(40*time.Millisecond), false)
					n++
				}
				k.check(t)
			}
			k.end(t, fresh)
		})
	}
}

func newKilling(t *testing.T, drv string, random *rand.Rand) *killing {
	k := &killing{w: where{t.TempDir(), drv}, random: random, reg: registrytest.New(t, server.Access{}, nil), ids: map[string]string{}}
	if drv == "btrfs" {
		k.w.dir = drivertest.Btrfs(t, 512)
	}
	serial := 0
	layers := func(n int) (out [][]byte) {
		for range n {
			serial++
			out = append(out, manyFiles(t, 20, 500+serial))
		}
		return out
	}
	below, shared := layers(2), layers(3)
	image := func(label, name string, own ...[]byte) (made, string) {
		m := made{label: label, tags: []string{name}, layers: slices.Concat(below, own)}
		k.ids[label] = m.id(t).String()
		return m, write(t, tarOf(t, docker(t, blob.Gzip, m)...))
	}
	_, l0 := image("l0", "load/x:1", shared...)
	_, l1 := image("l1", "load/x:1", layers(4)...)
	_, l2 := image("l2", "load/y:1", append(layers(2), shared...)...)
	_, base := image("base", "run/base:1")
	load := func(verb, file, name, label string) step {
		return step{verb + " " + file, func(w world) { w.point(name, label) }}
	}
	var loads []step
	for _, verb := range []string{"load", "stream"} {
		loads = append(loads, load(verb, l0, "load/x:1", "l0"), load(verb, l1, "load/x:1", "l1"), load(verb, l2, "load/y:1", "l2"))
	}
	host := k.reg.Host()
	large := big(t, "", 3<<20, 100_000, 2<<20).layers
	p0, _ := image("p0", host+"/p:1", append(shared, large[0])...)
	p1, _ := image("p1", host+"/p:1", append(layers(2), large[1:]...)...)
	q, _ := image("q", host+"/q:1", append(shared, large...)...)
	k.pulled = []made{p0, p1, q}
	k.actors = []*actor{
		{name: "loads", choose: func(a *actor) step {
			if name := k.some(a.world.names); name != "" && random.IntN(4) == 0 {
				return step{"tag " + name + " load/z:1", func(w world) { w.point("load/z:1", w.names[name]) }}
			}
			return k.removeOr(a, func() step { return loads[random.IntN(len(loads))] })
		}},
		{name: "pulls", choose: func(a *actor) step {
			return k.removeOr(a, func() step { return k.pull(t, k.pulled[random.IntN(3)]) })
		}},
		{name: "runs", choose: func(a *actor) step {
			return k.removeOr(a, func() step { return k.run(a, load("load", base, "run/base:1", "base")) })
		}},
	}
	for _, a := range k.actors {
		a.world, a.did, a.cut = newWorld(), map[string]int{}, map[string]int{}
	}
	return k
}

// pull has the registry offer an image, and pulls it.
func (k *killing) pull(t *testing.T, m made) step {
	n, err := image.ParseName(m.tags[0])
	require.NoError(t, err)
	k.reg.Put(t, registry.Split(n.Repo).Path, n.Tag, ocispec.MediaTypeImageLayerGzip, m.config(t), packedLayers(t, blob.Gzip, m)...)
	return step{"pull " + m.tags[0], func(w world) { w.point(m.tags[0], m.label) }}
}

// some is a key of m, empty if there is none.
func (k *killing) some(m map[string]string) string {
	keys := slices.Sorted(maps.Keys(m))
	if len(keys) == 0 {
		return ""
	}
	return keys[k.random.IntN(len(keys))]
}

// removeOr removes an image or a name now and then.
func (k *killing) removeOr(a *actor, or func() step) step {
	if k.random.IntN(3) > 0 {
		return or()
	}
	for label := range a.world.nameless {
		if id := k.ids[label]; id != "" && !a.world.used(label) {
			return step{"remove " + id, func(w world) { delete(w.nameless, label) }}
		}
	}
	name := k.some(a.world.names)
	if label := a.world.names[name]; name == "" || a.world.used(label) && len(a.world.namesOf(label)) == 1 {
		return or()
	}
	return step{"remove " + name, func(w world) { delete(w.names, name) }}
}

// run is something about writable layers.
func (k *killing) run(a *actor, load step) step {
	name, key := k.some(a.world.names), k.some(a.world.tops)
	switch {
	case name == "":
		return load
	case key == "" || len(a.world.tops) < 4 && k.random.IntN(2) == 0:
		key = fmt.Sprint("c", k.random.IntN(1000))
		if a.world.tops[key] != "" {
			return load
		}
		return step{"create " + key + " " + name, func(w world) { w.tops[key] = w.names[name] }}
	case k.random.IntN(2) == 0:
		return step{"drop " + key, func(w world) { delete(w.tops, key) }}
	}
	to, label := fmt.Sprint("run/made:", k.random.IntN(3)), fmt.Sprint("made", k.random.Uint32())
	return step{"commit " + key + " " + to + " " + label, func(w world) { w.point(to, label) }}
}

func (k *killing) moment(before time.Duration) time.Duration {
	return time.Duration(k.random.Int64N(int64(before)))
}

// live starts a process, has the actors work with it if they are to, and kills
// it.
func (k *killing) live(t *testing.T, after time.Duration, work bool) {
	t.Helper()
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), victimEnv+"="+k.w.driver+"@"+k.w.dir)
	var errs bytes.Buffer
	c.Stderr = &errs
	in, err := c.StdinPipe()
	require.NoError(t, err)
	out, err := c.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, c.Start())
	kill := func() { _ = c.Process.Kill() }
	if !work {
		time.AfterFunc(after, kill)
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if lines.Text() == "ready" {
			if work {
				time.AfterFunc(after, kill)
				for _, a := range k.actors {
					k.send(in, a)
				}
			}
			continue
		}
		who, answer, _ := strings.Cut(lines.Text(), " ")
		a := k.actors[slices.IndexFunc(k.actors, func(a *actor) bool { return a.name == who })]
		require.Equal(t, "ok", answer, a.pending.does)
		a.did[a.kind()]++
		a.world, a.pending = a.next(), nil
		k.send(in, a)
	}
	_ = c.Wait()
	require.Empty(t, errs.String())
}

// send asks for an actor's next step. It may be too late for that.
func (k *killing) send(in io.Writer, a *actor) {
	s := a.choose(a)
	a.pending = &s
	fmt.Fprintln(in, a.name, s.does)
}

// check opens what a killed process left, and finds out which of the steps
// that it was at have been done.
func (k *killing) check(t *testing.T) {
	t.Helper()
	start := time.Now()
	r, db := k.w.open(t)
	k.slow = max(k.slow, time.Since(start))
	agree(t, r)
	found, err := r.Check(ctx, fsck.Options{})
	require.NoError(t, err)
	require.Empty(t, found)
	require.Empty(t, drivertest.Tree(r.temp()))
	got := k.held(t, r)
	var all []world
	for which := range 1 << len(k.actors) {
		w := newWorld()
		for i, a := range k.actors {
			next := a.world
			if which>>i&1 == 1 {
				next = a.next()
			}
			w = w.and(next)
		}
		all = append(all, w)
	}
	which := slices.IndexFunc(all, func(w world) bool {
		return maps.Equal(w.names, got.names) && maps.Equal(w.nameless, got.nameless) && maps.Equal(w.tops, got.tops)
	})
	require.NotEqual(t, -1, which, "it holds %+v, none of %+v", got, all)
	for i, a := range k.actors {
		if a.pending != nil {
			a.cut[a.kind()]++
		}
		if which>>i&1 == 1 {
			a.world = a.next()
		}
		a.pending = nil
	}
	require.NoError(t, db.Close())
}

// held is what the repository holds.
func (k *killing) held(t *testing.T, r *Repo) world {
	t.Helper()
	w := newWorld()
	images, err := r.List()
	require.NoError(t, err)
	byID := map[string]string{}
	for _, img := range images {
		var c struct {
			Config struct{ Labels map[string]string }
		}
		require.NoError(t, json.Unmarshal(img.RawConfig, &c))
		label := c.Config.Labels["l"]
		k.ids[label], byID[catalog.ImagePrefix+img.ID.String()] = img.ID.String(), label
		for _, n := range img.RepoTags {
			w.names[n] = label
		}
		if len(img.RepoTags) == 0 {
			w.nameless[label] = true
		}
	}
	require.NoError(t, r.view(func(g graph.Graph) error {
		for _, n := range g.Names(catalog.TopPrefix) {
			w.tops[strings.TrimPrefix(n, catalog.TopPrefix)] = byID[catalog.Target(g, n, catalog.KindFrom)]
		}
		return nil
	}))
	for key := range w.tops {
		_, err := r.Mounts(key, "/")
		require.NoError(t, err)
	}
	return w
}

// end sees to it that the repository, once all pulls have been finished and
// all has been removed, is as if it were new.
func (k *killing) end(t *testing.T, fresh []string) {
	did, cut := map[string]int{}, map[string]int{}
	for _, a := range k.actors {
		for kind, n := range a.did {
			did[kind] += n
		}
		for kind, n := range a.cut {
			cut[kind] += n
		}
	}
	t.Logf("acknowledged: %v; under way at a kill: %v; slowest opening: %v", did, cut, k.slow)
	require.NotEmpty(t, cut, "no kill came while something was under way")
	require.Less(t, k.slow, 10*time.Second)
	r, db := k.w.open(t)
	for _, m := range k.pulled { // what killed pulls have kept is theirs
		words := strings.Fields(k.pull(t, m).does)
		require.NoError(t, suffer(r, words[0], words[1:]))
	}
	for key := range k.held(t, r).tops {
		require.NoError(t, r.RemoveLayer(key))
	}
	images, err := r.List()
	require.NoError(t, err)
	for _, img := range images {
		_, err := r.Remove(img.ID.String(), true)
		require.NoError(t, err)
	}
	empty(t, r)
	require.Equal(t, fresh, drivertest.Tree(r.o.Root))
	require.NoError(t, r.view(func(g graph.Graph) error { require.Empty(t, g.Names(leasePrefix)); return nil }))
	require.NoError(t, db.Close())
	st, err := os.Stat(filepath.Join(k.w.dir, "db"))
	require.NoError(t, err)
	require.Less(t, st.Size(), int64(1<<20), "the store grows")
}

// agree checks that disk and store name the same.
func agree(t *testing.T, r *Repo) {
	t.Helper()
	var wantLayers, wantTops []string
	require.NoError(t, r.view(func(g graph.Graph) error {
		for _, n := range g.Names(catalog.LayerPrefix) {
			var l catalog.Layer
			require.NoError(t, catalog.Load(g, n, &l))
			require.NotEmpty(t, g.Referrers(n, ""), "a layer that nobody needs")
			wantLayers = append(wantLayers, l.Folder)
		}
		for _, n := range g.Names(catalog.TopPrefix) {
			var top catalog.Top
			require.NoError(t, catalog.Load(g, n, &top))
			wantTops = append(wantTops, top.Folder)
		}
		return nil
	}))
	layers, tops, err := r.drv.List()
	require.NoError(t, err)
	require.ElementsMatch(t, wantLayers, layers)
	require.ElementsMatch(t, wantTops, tops)
	require.Empty(t, drivertest.Tree(filepath.Join(r.o.Root, r.drv.Name(), "t")))
	var records []string
	es, err := os.ReadDir(unpacked.MetaDir(r.o.Root))
	require.NoError(t, err)
	for _, e := range es {
		records = append(records, e.Name())
	}
	require.ElementsMatch(t, wantLayers, records)
}
