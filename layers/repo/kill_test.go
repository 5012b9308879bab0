package repo

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/driver/drivertest"
	"github.com/coble-os/coble/layers/graph"
)

// streamEnv has the child read its archives as streams, and keep nothing of
// them in memory.
const streamEnv = "COBLE_TEST_STREAM"

// childEnv names the folder that a child process of TestKilledWhileLoading
// works in: store, repository and the archives *.tar to load, in order.
const childEnv = "COBLE_TEST_LOAD_IN"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		if err := loadAll(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if job := os.Getenv(pullEnv); job != "" {
		if err := pullInChild(job); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	drivertest.Main(m, nil)
}

// loadAll loads, makes and removes, and prints a line after each thing done.
func loadAll(dir string) error {
	r, db, err := openAt(dir, filepath.Join(dir, "r"), os.Getenv("COBLE_TEST_DRIVER"))
	if err != nil {
		return err
	}
	defer db.Close()
	paths, err := filepath.Glob(filepath.Join(dir, "*.tar"))
	if err != nil {
		return err
	}
	from := r.LoadPath
	if os.Getenv(streamEnv) != "" {
		r.small = 0
		from = func(ctx context.Context, path, _ string, progress func(Progress)) ([]Loaded, error) {
			f, err := os.Open(path)
			if err != nil {
				return nil, err
			}
			defer f.Close()
			return r.Load(ctx, f, progress)
		}
	}
	for i, p := range paths {
		l, err := from(ctx, p, "", nil)
		if err != nil {
			return err
		}
		if l[0].Ref == "gone:1" {
			fmt.Println("done gone:1")
			continue // removed in the end, so no container may use it
		}
		key := fmt.Sprint("c", i)
		if err := r.CreateLayer(key, l[0].ID, 0); err != nil {
			return err
		}
		fmt.Println("done", l[0].Ref, key)
		name := fmt.Sprintf("made:%d", i)
		if _, err := r.Commit(ctx, key, NewImage{Config: plainConfig, Name: name}); err != nil {
			return err
		}
		fmt.Println("committed", name)
	}
	if _, err := r.Remove("gone:1", false); err != nil {
		return err
	}
	fmt.Println("removed gone:1")
	return nil
}

// A SIGKILL at any moment leaves a repository that opens, in which all that
// was answered is there and whole, and in which the rest can be done again.
func TestKilledWhileLoading(t *testing.T) {
	drivertest.NeedRoot(t)
	images := []made{
		{label: "a", tags: []string{"a:1"}, layers: [][]byte{manyFiles(t, 200, 2000), manyFiles(t, 50, 10)}},
		{label: "gone", tags: []string{"gone:1"}, layers: [][]byte{manyFiles(t, 120, 100), manyFiles(t, 50, 11)}},
		{label: "b", tags: []string{"b:1"}, layers: [][]byte{manyFiles(t, 200, 2000), manyFiles(t, 300, 12)}},
	}
	for drv, kills := range map[string]int{"overlay": 20, "stream": 20, "vfs": 10} {
		t.Run(drv, func(t *testing.T) {
			if drv == "stream" {
				t.Setenv(streamEnv, "1")
				drv = "overlay"
			}
			whole := killOnce(t, drv, images, time.Hour)
			at := rand.New(rand.NewPCG(1, 2))
			for range kills {
				killOnce(t, drv, images, time.Duration(at.Int64N(int64(whole))))
			}
		})
	}
}

// killOnce runs a child for at most after, checks what it left, and gives
// how long it ran.
func killOnce(t *testing.T, drv string, images []made, after time.Duration) time.Duration {
	t.Helper()
	dir := t.TempDir()
	for i, m := range images {
		name := filepath.Join(dir, fmt.Sprintf("%d.tar", i))
		require.NoError(t, os.WriteFile(name, tarOf(t, docker(t, blob.Gzip, m)...), 0o644))
	}
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), childEnv+"="+dir, "COBLE_TEST_DRIVER="+drv)
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	start := time.Now()
	require.NoError(t, c.Start())
	timer := time.AfterFunc(after, func() { _ = c.Process.Kill() })
	err := c.Wait()
	timer.Stop()
	if after == time.Hour {
		require.NoError(t, err, errs.String())
	}
	ran := time.Since(start)
	require.Empty(t, errs.String())
	checkAfterKill(t, where{dir, drv}, images, out.String())
	return ran
}

func checkAfterKill(t *testing.T, w where, images []made, said string) {
	t.Helper()
	r, db := w.open(t)
	defer db.Close()
	ps, err := r.Problems()
	require.NoError(t, err)
	require.Empty(t, ps)
	agree(t, r)
	for i, m := range images {
		_, err := r.Get(m.tags[0])
		if strings.Contains(said, "done "+m.tags[0]) && m.label != "gone" {
			require.NoError(t, err, "what was answered is there")
		}
		if strings.Contains(said, "removed "+m.tags[0]) {
			require.ErrorIs(t, err, ErrNotFound)
		}
		if err == nil {
			require.Len(t, shown(t, r, m.id(t)), entries(m))
			for i, c := range m.chains(t) {
				raw, err := readLayer(r, c)
				require.NoError(t, err)
				require.True(t, bytes.Equal(m.layers[i], raw))
			}
		}
		if strings.Contains(said, fmt.Sprint(" c", i, "\n")) {
			_, err := r.Mounts(fmt.Sprint("c", i), "/")
			require.NoError(t, err)
		}
	}
	for i := range images {
		img, err := r.Get(fmt.Sprintf("made:%d", i))
		if strings.Contains(said, fmt.Sprintf("committed made:%d\n", i)) {
			require.NoError(t, err, "what was answered is there")
		}
		if err == nil {
			save(t, r, img.ID.String())
		}
	}
	for _, m := range images {
		loadMade(t, r, m)
		require.Len(t, shown(t, r, m.id(t)), entries(m))
	}
	agree(t, r)
}

// entries counts what manyFiles makes: its files, and 50 folders.
func entries(m made) int {
	switch m.label {
	case "a":
		return 250
	case "gone":
		return 170
	}
	return 350
}

// agree checks that disk and store name the same.
func agree(t *testing.T, r *Repo) {
	t.Helper()
	var wantLayers, wantTops []string
	require.NoError(t, r.view(func(g graph.Graph) error {
		for _, n := range g.Names(layerPrefix) {
			var l layerNode
			require.NoError(t, load(g, n, &l))
			require.NotEmpty(t, g.Referrers(n, ""), "a layer that nobody needs")
			wantLayers = append(wantLayers, l.Folder)
		}
		for _, n := range g.Names(topPrefix) {
			var top topNode
			require.NoError(t, load(g, n, &top))
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
	es, err := os.ReadDir(r.meta())
	require.NoError(t, err)
	for _, e := range es {
		records = append(records, e.Name())
	}
	require.ElementsMatch(t, wantLayers, records)
}
