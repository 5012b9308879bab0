package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// CacheDir is $COBLE_CACHE, or ~/.cache/coble.
func CacheDir() string {
	if dir := os.Getenv("COBLE_CACHE"); dir != "" {
		return dir
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		dir = os.TempDir()
	}
	return filepath.Join(dir, "coble")
}

// lock takes an advisory lock, so that test packages that run at the same time
// download once.
func lock(name string) (unlock func(), err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return func() { f.Close() }, nil
}

// apt is a private apt state for one suite and one architecture.
type apt struct{ dir, suite, arch string }

// FetchPackage returns a folder with the unpacked content of a Debian package,
// downloading it if the cache does not have it. Nothing is installed.
func FetchPackage(ctx context.Context, arch, suite, name string) (string, error) {
	dir := filepath.Join(CacheDir(), "packages", suite+"-"+arch, name)
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	unlock, err := lock(dir + ".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	a := newApt(arch, suite)
	if err := a.update(ctx); err != nil {
		return "", err
	}
	return dir, a.unpack(ctx, name, dir)
}

func newApt(arch, suite string) apt {
	return apt{dir: filepath.Join(CacheDir(), "apt", suite+"-"+arch), suite: suite, arch: arch}
}

// dependency is the package that the metapackage meta depends on.
func (a apt) dependency(ctx context.Context, meta, prefix string) (string, error) {
	if err := a.update(ctx); err != nil {
		return "", err
	}
	out, err := a.run(ctx, "apt-cache", "depends", "--important", meta+":"+a.arch)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(out) {
		if _, dep, ok := strings.Cut(line, "Depends: "); ok && strings.HasPrefix(dep, prefix) {
			return strings.TrimSuffix(strings.TrimSpace(dep), ":"+a.arch), nil
		}
	}
	return "", fmt.Errorf("%s depends on no %s…: %s", meta, prefix, out)
}

// unpack downloads a package and puts its content into dir, whole or not at all.
func (a apt) unpack(ctx context.Context, name, dir string) error {
	if _, err := a.run(ctx, "apt-get", "download", "-qq", name+":"+a.arch); err != nil {
		return err
	}
	debs, _ := filepath.Glob(filepath.Join(a.dir, name+"_*.deb"))
	if len(debs) != 1 {
		return fmt.Errorf("apt-get download %s left %d packages", name, len(debs))
	}
	defer os.Remove(debs[0])
	tmp := dir + ".new"
	if err := errors.Join(os.RemoveAll(tmp), os.RemoveAll(dir)); err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, "dpkg-deb", "-x", debs[0], tmp).CombinedOutput(); err != nil {
		return fmt.Errorf("unpack %s: %w: %s", debs[0], err, out)
	}
	return os.Rename(tmp, dir)
}

func (a apt) update(ctx context.Context) error {
	if err := a.prepare(); err != nil {
		return err
	}
	_, err := a.run(ctx, "apt-get", "update", "-qq")
	return err
}

func (a apt) prepare() error {
	for _, sub := range []string{"state/lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(a.dir, sub), 0o755); err != nil {
			return err
		}
	}
	mirror, err := debianMirror("/etc/apt")
	if err != nil {
		return err
	}
	const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
	source := fmt.Sprintf("deb [arch=%s signed-by=%s] %s %s main\n", a.arch, keyring, mirror, a.suite)
	return errors.Join(
		os.WriteFile(filepath.Join(a.dir, "sources.list"), []byte(source), 0o644),
		os.WriteFile(filepath.Join(a.dir, "status"), nil, 0o644))
}

func (a apt) run(ctx context.Context, name string, args ...string) (string, error) {
	options := []string{
		"-o", "Dir::Etc::SourceList=" + a.dir + "/sources.list", "-o", "Dir::Etc::SourceParts=-",
		"-o", "Dir::State=" + a.dir + "/state", "-o", "Dir::State::status=" + a.dir + "/status",
		"-o", "Dir::Cache=" + a.dir + "/cache", "-o", "APT::Architecture=" + a.arch,
		"-o", "APT::Architectures=" + a.arch, "-o", "APT::Sandbox::User=",
		"-o", "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false", "-o", "Acquire::Languages=none",
	}
	cmd := exec.CommandContext(ctx, name, append(options, args...)...)
	cmd.Dir = a.dir
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// debianMirror finds where this machine gets Debian from, in the two formats of
// sources.list(5): the first address that ends in /debian and is not of the
// security archive.
func debianMirror(etc string) (string, error) {
	files, _ := filepath.Glob(etc + "/sources.list")
	more, _ := filepath.Glob(etc + "/sources.list.d/*")
	for _, name := range append(files, more...) {
		data, err := os.ReadFile(name)
		if err != nil {
			return "", err
		}
		for line := range strings.Lines(string(data)) {
			if strings.HasPrefix(line, "#") {
				continue
			}
			for _, word := range strings.Fields(line) {
				word = strings.TrimSuffix(word, "/")
				if strings.Contains(word, "://") && strings.HasSuffix(word, "/debian") {
					return word, nil
				}
			}
		}
	}
	return "", fmt.Errorf("no Debian mirror in %s: this needs a Debian machine, or a sources.list with one", etc)
}
