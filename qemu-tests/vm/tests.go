package vm

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/coble-os/coble/init/mkimage"
	"github.com/coble-os/coble/qemu-tests/testmodules"
)

const (
	module     = "github.com/coble-os/coble"
	testEngine = module + "/qemu-tests/testengine"
)

// RunTests compiles the tests of packages ("./sandbox/spawn", relative to the
// module's root, or "./rt/daemon TestThinVolumes" for some), boots kernel once and runs them there as root, each in a copy
// of its folder's testdata, with busybox's commands in /bin and /tmp on ext4. Each
// package becomes a subtest; skips inside are listed. limit bounds the whole on
// a machine with KVM, Slow times as much elsewhere. $COBLE_VM_RUN, without
// blanks, picks tests as `go test -run` does.
func RunTests(t *testing.T, kernel Kernel, limit time.Duration, packages ...string) {
	t.Helper()
	runTests(t, kernel, "", limit, packages)
}

// RunTestsOn is RunTests of one test, with another disk: /dev/nvme1n1.
func RunTestsOn(t *testing.T, kernel Kernel, disk string, limit time.Duration, pkg, test string) {
	t.Helper()
	runTests(t, kernel, " test.run="+test, limit, []string{pkg}, Drive{File: disk})
}

// RunTestsV1 is RunTests with the controllers of cgroup v1 mounted, and v2 on /sys/fs/cgroup/unified, as Debian had it
// before bullseye.
func RunTestsV1(t *testing.T, kernel Kernel, limit time.Duration, packages ...string) {
	t.Helper()
	runTests(t, kernel, " test.cgroup=v1", limit, packages)
}

// RunSELinux is RunTests of one test, on a kernel that runs SELinux and has no policy yet.
func RunSELinux(t *testing.T, kernel Kernel, limit time.Duration, pkg, test string) {
	t.Helper()
	runTests(t, kernel, " lsm=selinux test.run="+test, limit, []string{pkg})
}

// RunWithout is RunTests of one test, on a kernel that has not loaded modules whose names begin with one of these.
func RunWithout(t *testing.T, kernel Kernel, limit time.Duration, pkg, test string, modules ...string) {
	t.Helper()
	runTests(t, kernel, " test.without="+strings.Join(modules, ",")+" test.run="+test, limit, []string{pkg})
}

func runTests(t *testing.T, kernel Kernel, param string, limit time.Duration, packages []string, more ...Drive) {
	t.Helper()
	if run := os.Getenv("COBLE_VM_RUN"); run != "" && !strings.Contains(param, "test.run=") {
		param += " test.run=" + run
	}
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	dir := t.TempDir()
	if err := buildTests(ctx, dir, kernel, packages); err != nil {
		t.Fatal(err)
	}
	ctx, v := StartT(t, Options{
		Kernel: kernel, Initrd: dir + "/initrd", Append: "test.script=tests" + param,
		Drives: append([]Drive{{File: dir + "/disk"}}, more...), MemMiB: 1024, CPUs: 2,
	}, limit)
	for _, pkg := range packages {
		pkg, _, _ = strings.Cut(pkg, " ")
		t.Run(strings.TrimPrefix(pkg, "./"), func(t *testing.T) {
			started := `tests of ` + regexp.QuoteMeta(pkg) + ` begin\s`
			if _, err := v.WaitFor(ctx, started); err != nil {
				t.Fatal(err)
			}
			end, err := v.WaitFor(ctx, `(?s)^(.*)tests of `+regexp.QuoteMeta(pkg)+` end: ([^\r\n]*)\r?\n`)
			if err != nil {
				t.Fatal(err)
			}
			report(t, end[1], end[2])
		})
	}
	if _, err := v.WaitFor(ctx, `keeper: poweroff\s`); err != nil {
		t.Error(err)
	}
	if err := v.Wait(ctx); err != nil {
		t.Error(err)
	}
}

// report makes one package's output this test's.
func report(t *testing.T, output, result string) {
	output = strings.ReplaceAll(output, "\r", "")
	if result != "ok" {
		t.Errorf("%s\n%s", result, output)
		return
	}
	passed, skipped, slow := 0, []string{}, []string{}
	lines := bufio.NewScanner(strings.NewReader(output))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if name, ok := strings.CutPrefix(line, "--- PASS: "); ok {
			passed++
			if _, took, _ := strings.Cut(name, "("); len(took) > len("9.99s)") && !strings.Contains(name, "/") {
				slow = append(slow, name)
			}
		}
		if name, ok := strings.CutPrefix(line, "--- SKIP: "); ok {
			skipped = append(skipped, name)
		}
	}
	t.Logf("%d passed in the machine, %d skipped %s", passed, len(skipped), strings.Join(skipped, ", "))
	if len(slow) > 0 {
		t.Logf("10 seconds or more: %s", strings.Join(slow, ", "))
	}
}

func buildTests(ctx context.Context, dir string, kernel Kernel, packages []string) error {
	root, err := moduleRoot()
	if err != nil {
		return err
	}
	im := mkimage.New()
	if err := Build(ctx, kernel.Arch, testEngine, dir+"/init"); err != nil {
		return err
	}
	if err := im.Copy("init", dir+"/init"); err != nil {
		return err
	}
	if err := Busybox(ctx, im, kernel.Arch); err != nil {
		return err
	}
	if _, err := im.Modules(kernel.Modules, testmodules.All()); err != nil {
		return err
	}
	if err := hostTools(ctx, im, kernel.Arch, strings.Fields("mkfs.ext4 mkfs.btrfs mkfs.xfs mksquashfs mkfs.erofs btrfs filefrag secilc dmsetup dnsmasq wg")); err != nil {
		return err
	}
	for i, pkg := range packages {
		pkg, _, _ = strings.Cut(pkg, " ")
		binary := filepath.Join(dir, fmt.Sprintf("%d.test", i))
		full := path.Join(module, pkg)
		if err := BuildTest(ctx, kernel.Arch, full, binary); err != nil {
			return err
		}
		if _, err := os.Stat(binary); err != nil {
			return fmt.Errorf("%s has no tests", pkg)
		}
		to := path.Join("tests", pkg)
		if err := im.Copy(path.Join(to, "test.bin"), binary); err != nil {
			return err
		}
		data := filepath.Join(root, pkg, "testdata")
		if _, err := os.Stat(data); err == nil {
			if err := im.Tree(path.Join(to, "testdata"), data); err != nil {
				return err
			}
		}
	}
	im.File("tests/list", 0o644, []byte(strings.Join(packages, "\n")+"\n"))
	if err := mkimage.Ext4(ctx, dir+"/disk", "", "tests", 1024); err != nil {
		return err
	}
	return im.WriteFile(dir + "/initrd")
}

// hostTools adds programs of this machine, with their libraries, where the machine to be is of the same kind; elsewhere the
// tests that want them say so and are skipped.
func hostTools(ctx context.Context, im *mkimage.Image, arch string, names []string) error {
	if arch != runtime.GOARCH {
		return nil
	}
	added := map[string]bool{}
	for _, name := range names {
		cmd := exec.CommandContext(ctx, "sh", "-c", `PATH=$PATH:/usr/sbin:/sbin; p=$(command -v "$1") && echo "$p" && ldd "$p"`, "sh", name)
		out, err := cmd.Output()
		if err != nil {
			return fmt.Errorf("find %s and its libraries: %w: make deps", name, err)
		}
		program, libs, _ := strings.Cut(string(out), "\n")
		if err := im.Copy("bin/"+name, program); err != nil {
			return err
		}
		found := regexp.MustCompile(`/\S+`).FindAllString(libs, -1)
		for _, lib := range found {
			if path.Base(lib) == "libc.so.6" {
				found = append(found, path.Join(path.Dir(lib), "libgcc_s.so.1")) // loaded when a thread ends
			}
		}
		for _, lib := range found {
			if added[lib] {
				continue
			}
			added[lib] = true
			if err := im.Copy(strings.TrimPrefix(lib, "/"), lib); err != nil {
				return err
			}
		}
	}
	return nil
}

// Busybox adds Debian's static busybox, links for its commands, and the files in
// /etc that every machine has.
func Busybox(ctx context.Context, im *mkimage.Image, arch string) error {
	dir, err := FetchPackage(ctx, arch, "bookworm", "busybox-static")
	if err != nil {
		return err
	}
	if err := im.Copy("bin/busybox", dir+"/bin/busybox"); err != nil {
		return err
	}
	for _, name := range strings.Fields(`sh cat cp cut date dd df echo env false find grep head hostname
		id ip kill ln ls mkdir mknod mount mv nc ping ps pwd readlink rm rmdir sed seq sleep sort stat sync
		tail tar test touch tr true tty umount uname wc wget which xargs yes zcat`) {
		im.Symlink("bin/"+name, "busybox")
	}
	im.Symlink("sbin", "bin")
	im.Dir("usr", 0o755)
	im.Symlink("usr/bin", "../bin")
	im.Symlink("usr/sbin", "../bin")
	im.File("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\n"))
	im.File("etc/group", 0o644, []byte("root:x:0:\n"))
	im.File("etc/hostname", 0o644, []byte("tester\n"))
	im.Dir("root", 0o700)
	return nil
}

// moduleRoot is the folder of go.mod above the working directory.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("no go.mod above the working directory")
}
