// Package box makes a small container image for virtual machines of any architecture: Debian's static busybox and some
// files with known content, as a docker-archive.
package box

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"github.com/coble-os/coble/qemu-tests/vm"
)

const applets = "sh ls cat ps echo sleep true false id ip ping wget httpd nc grep seq head wc test kill hostname mount"

// Files is the content of the layer's regular files, by path without a leading slash.
func Files(ctx context.Context, arch string) (map[string][]byte, error) {
	pkg, err := vm.FetchPackage(ctx, arch, "bookworm", "busybox-static")
	if err != nil {
		return nil, err
	}
	busybox, err := os.ReadFile(filepath.Join(pkg, "bin/busybox"))
	if err != nil {
		busybox, err = os.ReadFile(filepath.Join(pkg, "usr/bin/busybox"))
	}
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{
		"bin/busybox": busybox,
		"etc/passwd":  []byte("root:x:0:0:root:/:/bin/sh\n"), "etc/group": []byte("root:x:0:\n"),
		"www/index.html": []byte("box serves\n"),
	}
	random := rand.NewChaCha8([32]byte{7})
	for i := range 300 {
		data := make([]byte, 1000+i*40)
		_, _ = random.Read(data)
		files[fmt.Sprintf("data/%d/file%d", i%10, i)] = data
	}
	return files, nil
}

// Write makes the archive, with the image called name.
func Write(ctx context.Context, arch, path, name string) error {
	return WriteWith(ctx, arch, path, name, nil)
}

// WriteWith is Write with more files in the layer.
func WriteWith(ctx context.Context, arch, path, name string, more map[string][]byte) error {
	files, err := Files(ctx, arch)
	if err != nil {
		return err
	}
	maps.Copy(files, more)
	layer, err := layerOf(files)
	if err != nil {
		return err
	}
	config := fmt.Appendf(nil, `{"architecture":%q,"os":"linux","config":{"Env":["PATH=/bin"],"Cmd":["sh"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}`, arch, digest(layer))
	conf := digest(config) + ".json"
	manifest := fmt.Appendf(nil, `[{"Config":%q,"RepoTags":[%q],"Layers":["layer.tar"]}]`, conf, name)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range []struct {
		name string
		data []byte
	}{{"layer.tar", layer}, {conf, config}, {"manifest.json", manifest}} {
		if err := add(w, tar.Header{Name: f.name, Typeflag: tar.TypeReg, Mode: 0o644}, f.data); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), 0o644)
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func add(w *tar.Writer, h tar.Header, data []byte) error {
	h.Size = int64(len(data))
	if err := w.WriteHeader(&h); err != nil {
		return err
	}
	_, err := w.Write(data)
	return err
}

func layerOf(files map[string][]byte) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, dir := range []string{"bin/", "etc/", "tmp/", "www/", "data/"} {
		if err := add(w, tar.Header{Name: dir, Typeflag: tar.TypeDir, Mode: 0o755}, nil); err != nil {
			return nil, err
		}
	}
	for name, data := range files {
		if err := add(w, tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o755}, data); err != nil {
			return nil, err
		}
	}
	for _, a := range strings.Fields(applets) {
		if err := add(w, tar.Header{Name: "bin/" + a, Typeflag: tar.TypeSymlink, Linkname: "busybox", Mode: 0o777}, nil); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), w.Close()
}
