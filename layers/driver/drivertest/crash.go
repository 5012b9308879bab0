package drivertest

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/archive"
	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/driver"
)

// many makes a layer of n files, which are all alike but in their names.
func many(n int, body string) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := range n {
		_ = w.WriteHeader(&tar.Header{Name: fmt.Sprintf("d%d/f%d", i%7, i), Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(body))})
		_, _ = w.Write([]byte(body))
	}
	_ = w.Close()
	return b.Bytes()
}

// endless is a layer of files of a MiB each, which can't be packed.
func endless(t *testing.T) io.Reader {
	r, w := io.Pipe()
	t.Cleanup(func() { _ = r.Close() })
	go func() {
		body := make([]byte, 1<<20)
		noise := rand.NewChaCha8([32]byte{})
		tw := tar.NewWriter(w)
		for i := 0; ; i++ {
			_, _ = noise.Read(body)
			if tw.WriteHeader(&tar.Header{Name: fmt.Sprint("big", i), Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(body))}) != nil {
				return
			}
			if _, err := tw.Write(body); err != nil {
				return
			}
		}
	}()
	return r
}

// victimFiles is how many files the layers of a victim have.
const victimFiles = 150

// victim makes layers and tops and removes some, and prints a line after each
// thing done, until it is killed.
func victim(root string, open Open) int {
	d, err := open(root)
	if err == nil {
		err = d.Sweep()
	}
	raw := many(victimFiles, "x")
	for i := 0; err == nil; i++ {
		id := "l" + strconv.Itoa(i)
		if _, err = d.Unpack(context.Background(), id, nil, bytes.NewReader(raw), archive.Limits{}); err != nil {
			break
		}
		fmt.Println("+d", id)
		if err = d.Create("t"+id, []string{id}, 0); err != nil {
			break
		}
		fmt.Println("+c", "t"+id)
		if i%2 == 0 {
			continue
		}
		fmt.Println("?c", "t"+id)
		if err = d.RemoveTop("t" + id); err != nil {
			break
		}
		fmt.Println("-c", "t"+id)
		fmt.Println("?d", id)
		if err = d.Remove(id); err != nil {
			break
		}
		fmt.Println("-d", id)
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// killed: SIGKILL at any moment leaves what was answered, whole, and nothing
// half-made that has a name.
func killed(t *testing.T, b *bench) {
	kills := 8
	if os.Getenv("COBLE_VM") != "" {
		kills = 3 // without KVM each takes its time
	}
	for range kills {
		root := filepath.Join(TempIn(t, b.dir), "drv")
		said := Interrupt(t, root, time.Duration(20+rand.IntN(400))*time.Millisecond, nil)
		d, err := b.open(root)
		require.NoError(t, err)
		require.NoError(t, d.Sweep())
		Survived(t, d, said)
		left, err := os.ReadDir(filepath.Join(root, "t"))
		require.NoError(t, err)
		require.Empty(t, left)
	}
}

// Survived fails unless a driver, opened anew, has what Interrupt says, whole.
func Survived(t *testing.T, d driver.Driver, said map[string]bool) {
	t.Helper()
	layers, tops, err := d.List()
	require.NoError(t, err)
	have := map[string]bool{}
	for _, l := range layers {
		have["d "+l] = true
		whole(t, d, l)
	}
	for _, c := range tops {
		have["c "+c] = true
		_, err := d.Size(c, []string{strings.TrimPrefix(c, "t")})
		require.NoError(t, err)
	}
	for what, is := range said {
		require.Equal(t, is, have[what], what)
	}
}

// Interrupt runs a process that makes and removes layers and tops, and kills
// it; before, cut, if not nil, cuts off its disk. It gives what must be there
// afterwards and what must not.
func Interrupt(t *testing.T, root string, after time.Duration, cut func()) map[string]bool {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), envVictim+"="+root)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(out)
	require.True(t, lines.Scan(), "%s", &errs) // it is at work
	timer := time.AfterFunc(after, func() {
		if cut != nil {
			cut()
		}
		_ = cmd.Process.Kill()
	})
	defer timer.Stop()
	said := map[string]bool{}
	for ok := true; ok; ok = lines.Scan() {
		line := lines.Text()
		switch line[0] {
		case '+':
			said[line[1:]] = true
		case '-':
			if cut == nil { // a removal is not made durable
				said[line[1:]] = false
			}
		case '?':
			delete(said, line[1:])
		}
	}
	_ = cmd.Wait()
	if cut == nil {
		require.Empty(t, errs.String())
	}
	require.NotEmpty(t, said)
	return said
}

// whole fails unless a victim's layer has all its files.
func whole(t *testing.T, d driver.Driver, id string) {
	t.Helper()
	require.NoError(t, d.Create("look", []string{id}, 0))
	n := 0
	InTop(t, d, "look", []string{id}, func(root string) {
		for _, p := range Tree(root) {
			if strings.HasSuffix(p, ":x") {
				n++
			}
		}
	})
	require.NoError(t, d.RemoveTop("look"))
	require.Equal(t, victimFiles, n, id)
}

// fullDisk: a layer that does not fit is an error that says so, and leaves
// nothing; what was there stays, and can be listed and removed, also by a
// driver that is opened on a disk without a byte left.
func fullDisk(t *testing.T, b *bench) {
	small := b.small(t)
	root := filepath.Join(small, "drv")
	d, err := b.open(root)
	require.NoError(t, err)
	_, err = d.Unpack(context.Background(), "1", nil, bytes.NewReader(many(50, "x")), archive.Limits{})
	require.NoError(t, err)
	require.NoError(t, d.Create("t", []string{"1"}, 0))
	_, err = d.Unpack(context.Background(), "2", []string{"1"}, endless(t), archive.Limits{})
	require.ErrorIs(t, err, blob.ErrNoSpace)
	require.False(t, d.Has("2"))
	require.NoError(t, d.Sweep())
	layers, tops, err := d.List()
	require.NoError(t, err)
	require.Equal(t, []string{"1"}, layers)
	require.Equal(t, []string{"t"}, tops)
	fill(t, filepath.Join(small, "filler"))
	d, err = b.open(root)
	require.NoError(t, err)
	require.NoError(t, d.Sweep())
	require.True(t, d.Has("1"))
	require.NoError(t, d.RemoveTop("t"))
	require.NoError(t, os.Remove(filepath.Join(small, "filler")))
	require.NoError(t, blob.SyncTree(small))
	_, err = d.Unpack(context.Background(), "3", []string{"1"}, bytes.NewReader(many(50, "y")), archive.Limits{})
	require.NoError(t, err)
}

// fill takes all space that a file can get.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	require.NoError(t, err)
	defer f.Close()
	noise := rand.NewChaCha8([32]byte{1})
	for size := 1 << 20; size > 0; {
		body := make([]byte, size)
		_, _ = noise.Read(body)
		if _, err = f.Write(body); err != nil {
			require.ErrorIs(t, err, unix.ENOSPC)
			size /= 16
		}
	}
	_ = f.Sync()
}
