package vm

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Kernel is one unpacked Debian kernel.
type Kernel struct {
	Arch    string // Go's name of the architecture
	Image   string // path of vmlinuz
	Modules string // path of its lib/modules/RELEASE
}

// Release is what uname -r says in it.
func (k Kernel) Release() string { return filepath.Base(k.Modules) }

// FetchKernel returns Debian's kernel of a series ("5.10", "6.1" or "6.12") for
// amd64 or arm64: the one for clouds, with few drivers, or with "-full" behind
// the series the one for all machines, several times as large, downloading its package by name if the cache does not have it
// and unpacking it there. Nothing is installed. The mirror is that of the
// machine's own /etc/apt.
func FetchKernel(ctx context.Context, arch, series string) (Kernel, error) {
	number, full := strings.CutSuffix(series, "-full")
	suite, ok := map[string]string{"5.10": "bullseye", "6.1": "bookworm", "6.12": "trixie"}[number]
	if !ok || (arch != "amd64" && arch != "arm64") {
		return Kernel{}, fmt.Errorf("no kernel %s for %s: want 5.10, 6.1 or 6.12 for amd64 or arm64", series, arch)
	}
	dir := filepath.Join(CacheDir(), "kernels", series+"-"+arch)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Kernel{}, err
	}
	unlock, err := lock(dir + ".lock")
	if err != nil {
		return Kernel{}, err
	}
	defer unlock()
	if k, err := openKernel(arch, dir); err == nil {
		return k, nil
	}
	a := newApt(arch, suite)
	meta := "linux-image-cloud-" + arch
	if full {
		meta = "linux-image-" + arch
	}
	name, err := a.dependency(ctx, meta, "linux-image-")
	if err == nil {
		err = a.unpack(ctx, name, dir)
	}
	if err != nil {
		return Kernel{}, fmt.Errorf("fetch kernel %s for %s: %w", series, arch, err)
	}
	return openKernel(arch, dir)
}

func openKernel(arch, dir string) (Kernel, error) {
	images, _ := filepath.Glob(dir + "/boot/vmlinuz-*")
	modules, _ := filepath.Glob(dir + "/lib/modules/*")
	if len(modules) == 0 {
		modules, _ = filepath.Glob(dir + "/usr/lib/modules/*")
	}
	if len(images) != 1 || len(modules) != 1 {
		return Kernel{}, fmt.Errorf("no kernel in %s", dir)
	}
	return Kernel{Arch: arch, Image: images[0], Modules: modules[0]}, nil
}
