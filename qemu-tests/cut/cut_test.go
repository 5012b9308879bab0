package cut

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/init/boot"
	"github.com/coble-os/coble/init/mkimage"
	"github.com/coble-os/coble/qemu-tests/vm"
)

// writeLog makes a log of 512-byte requests: letter, sector, flags.
func writeLog(t *testing.T, entries ...[3]int) *Log {
	t.Helper()
	var b bytes.Buffer
	sector := func(fields ...any) {
		start := b.Len()
		for _, f := range fields {
			require.NoError(t, binary.Write(&b, binary.LittleEndian, f))
		}
		b.Write(make([]byte, 512-(b.Len()-start)))
	}
	sector(uint64(magic), uint64(1), uint64(len(entries)), uint32(512))
	for _, e := range entries {
		n := uint64(1)
		if e[0] == 0 {
			n = 0
		}
		sector(uint64(e[1]), n, uint64(e[2]), uint64(0))
		if n == 1 && e[2]&discard == 0 {
			b.Write(bytes.Repeat([]byte{byte(e[0])}, 512))
		}
	}
	name := filepath.Join(t.TempDir(), "log")
	require.NoError(t, os.WriteFile(name, b.Bytes(), 0o600))
	l, err := Open(name)
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

func TestCuts(t *testing.T) {
	l := writeLog(t, [3]int{'a', 0, 0}, [3]int{'b', 1, 0}, [3]int{0, 0, flush},
		[3]int{'c', 0, 0}, [3]int{'d', 2, fua}, [3]int{'e', 3, discard}, [3]int{'f', 1, 0})
	base, out := filepath.Join(t.TempDir(), "base"), filepath.Join(t.TempDir(), "out")
	require.NoError(t, os.WriteFile(base, bytes.Repeat([]byte{'.'}, 4*512), 0o600))
	letters := func() string {
		data, err := os.ReadFile(out)
		require.NoError(t, err)
		return string([]byte{data[0], data[512], data[1024], data[1536]})
	}
	require.NoError(t, os.WriteFile(out, []byte("still mounted elsewhere"), 0o600))
	old, err := os.Open(out)
	require.NoError(t, err)
	defer old.Close()
	for n, want := range []string{"....", "a...", "ab..", "ab..", "cb..", "cbd.", "cbd.", "cfd."} {
		require.NoError(t, l.Clean(base, out, n))
		require.Equal(t, want, letters())
	}
	left, err := io.ReadAll(old)
	require.NoError(t, err)
	require.Equal(t, "still mounted elsewhere", string(left), "an image that others have open stays theirs")
	seen := map[string]bool{}
	for seed := range uint64(64) {
		require.NoError(t, l.Torn(base, out, 7, rand.New(rand.NewPCG(seed, 0))))
		seen[letters()] = true
	}
	require.Equal(t, map[string]bool{"abd.": true, "cbd.": true, "afd.": true, "cfd.": true}, seen)
}

func TestBadLogs(t *testing.T) {
	name := filepath.Join(t.TempDir(), "log")
	for _, bad := range []string{"", "x", string(make([]byte, 4096))} {
		require.NoError(t, os.WriteFile(name, []byte(bad), 0o600))
		_, err := Open(name)
		require.Error(t, err)
	}
}

// TestCutsOfABoot boots a machine that writes to an ext4 disk and looks at the
// disk as it would be after cuts at many points.
func TestCutsOfABoot(t *testing.T) {
	kernel, dir := vm.FetchKernelT(t, "amd64", "6.1"), t.TempDir()
	require.NoError(t, vm.Build(t.Context(), "amd64", "github.com/coble-os/coble/qemu-tests/testengine", dir+"/init"))
	im := mkimage.New()
	require.NoError(t, im.Copy("init", dir+"/init"))
	_, err := im.Modules(kernel.Modules, boot.DefaultModules())
	require.NoError(t, err)
	require.NoError(t, im.WriteFile(dir+"/initrd"))
	require.NoError(t, mkimage.Ext4(t.Context(), dir+"/base", "", "data", 32))
	base, err := os.ReadFile(dir + "/base")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(dir+"/data", base, 0o600))
	require.NoError(t, os.WriteFile(dir+"/log", nil, 0o600))

	ctx, v := vm.StartT(t, vm.Options{
		Kernel: kernel, Initrd: dir + "/initrd", Append: "test.script=boot",
		Drives: []vm.Drive{{File: dir + "/data", WriteLog: dir + "/log"}},
	}, 12*time.Second)
	_, err = v.WaitFor(ctx, `testengine: listening`)
	require.NoError(t, err)
	require.NoError(t, v.PowerButton(ctx))
	require.NoError(t, v.Wait(ctx))

	l, err := Open(dir + "/log")
	require.NoError(t, err)
	defer l.Close()
	require.NotEmpty(t, l.Entries)
	require.NoError(t, l.Clean(dir+"/base", dir+"/out", len(l.Entries)))
	want, err := os.ReadFile(dir + "/data")
	require.NoError(t, err)
	got, err := os.ReadFile(dir + "/out")
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got), "the whole log gives the disk as it was at the end")

	t.Logf("%d requests", len(l.Entries))
	for i := range 26 {
		n := len(l.Entries) * (i + 1) / 26
		require.NoError(t, l.Clean(dir+"/base", dir+"/out", n))
		checkExt4(t, dir+"/out", fmt.Sprintf("clean cut at %d", n))
		require.NoError(t, l.Torn(dir+"/base", dir+"/out", n, rand.New(rand.NewPCG(uint64(n), 1))))
		checkExt4(t, dir+"/out", fmt.Sprintf("torn cut at %d", n))
	}
}

// checkExt4 fails unless the file system is whole once its journal is replayed:
// the passes of e2fsck must find nothing but free counts in the superblock, which
// ext4 computes anew at every mount. (-p would be stricter than the kernel: it
// refuses a journal in use whose superblock does not say so yet.)
func checkExt4(t *testing.T, image, what string) {
	t.Helper()
	cmd := exec.Command("e2fsck", "-fy", image)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	out, _ := cmd.CombinedOutput()
	_, passes, found := strings.Cut(string(out), "\nPass 1: ")
	if !found || cmd.ProcessState.ExitCode() > 1 {
		t.Errorf("%s: %s\n%s", what, cmd.ProcessState, out)
	}
	fine := regexp.MustCompile(`^(|Pass \d.*|.*Free \w+ count wrong.*|Fix\? yes|.*FILE SYSTEM WAS MODIFIED.*|data: .*|Checking .*)$`)
	lines := strings.Split(passes, "\n")
	for _, line := range lines[1:] {
		if !fine.MatchString(strings.TrimSpace(line)) {
			t.Errorf("%s: %s\n%s", what, line, out)
			break
		}
	}
}
