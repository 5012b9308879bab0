package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/coble-os/coble/qemu-tests/vm"
)

// recipe is an image: Debian packages over busybox, and what to run.
type recipe struct {
	name     string
	packages []string
	files    map[string]string // more files
	cmd      []string
}

func recipes() []recipe {
	libs := []string{"libc6", "libssl3", "zlib1g", "libzstd1", "liblzma5"}
	return []recipe{
		{
			name:     "web",
			packages: append([]string{"nginx", "libcrypt1", "libpcre2-8-0"}, libs...),
			files: map[string]string{
				"etc/nginx/nginx.conf": "user nobody nogroup;\nworker_processes 1;\nerror_log stderr;\nevents { worker_connections 64; }\nhttp {\n access_log off;\n server { listen 80; root /var/www; }\n}\n",
				"var/log/nginx/.keep":  "", "var/lib/nginx/.keep": "", "var/www/.keep": "",
			},
			cmd: []string{"nginx", "-g", "daemon off;"},
		},
		{
			name: "broker",
			packages: append([]string{
				"mosquitto", "libmosquitto1", "libcjson1", "libdlt2", "libsystemd0", "libwrap0", "libnsl2", "libtirpc3", "libcap2", "libgcrypt20",
				"libgpg-error0", "liblz4-1", "libgssapi-krb5-2", "libkrb5-3", "libk5crypto3", "libkrb5support0", "libkeyutils1", "libcom-err2",
			}, libs...),
			files: map[string]string{"etc/mosquitto/coble.conf": "listener 1883 0.0.0.0\nallow_anonymous true\nuser nobody\n"},
			cmd:   []string{"mosquitto", "-c", "/etc/mosquitto/coble.conf"},
		},
	}
}

// makeImages writes web.tar, a docker-archive, and broker, an OCI layout, with umoci and skopeo.
func makeImages(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, r := range recipes() {
		if err := r.make(ctx, dir); err != nil {
			return fmt.Errorf("make image %s: %w", r.name, err)
		}
	}
	layout := filepath.Join(dir, "web")
	if err := command(ctx, "skopeo", "copy", "--insecure-policy", "-q", "oci:"+layout+":latest", "docker-archive:"+filepath.Join(dir, "web.tar")+":web:latest"); err != nil {
		return err
	}
	return os.RemoveAll(layout)
}

// make builds one image as an OCI layout: a layer of busybox, a layer of the rest.
func (r recipe) make(ctx context.Context, dir string) error {
	work, err := os.MkdirTemp("", "coble-image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	base, rest := filepath.Join(work, "base"), filepath.Join(work, "rest")
	if err := errors.Join(busybox(ctx, base), r.fill(ctx, rest)); err != nil {
		return err
	}
	layout := filepath.Join(dir, r.name)
	image := layout + ":latest"
	config := []string{"config", "--image", image, "--config.env", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	for _, c := range r.cmd {
		config = append(config, "--config.cmd", c)
	}
	for _, args := range [][]string{
		{"init", "--layout", layout},
		{"new", "--image", image},
		{"insert", "--rootless", "--image", image, base, "/"},
		{"insert", "--rootless", "--image", image, rest, "/"},
		config,
	} {
		if err := command(ctx, "umoci", args...); err != nil {
			return err
		}
	}
	return command(ctx, "umoci", "gc", "--layout", layout)
}

// busybox makes a small root file system in Debian's merged layout.
func busybox(ctx context.Context, root string) error {
	pkg, err := vm.FetchPackage(ctx, "amd64", "bookworm", "busybox-static")
	if err != nil {
		return err
	}
	for _, d := range []string{"usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "etc", "tmp", "run", "var/run", "proc", "sys", "dev"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
		"etc/group":  "root:x:0:\nnogroup:x:65534:\n",
	} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	for _, d := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := os.Symlink("usr/"+d, filepath.Join(root, d)); err != nil {
			return err
		}
	}
	if err := command(ctx, "cp", filepath.Join(pkg, "bin/busybox"), filepath.Join(root, "usr/bin/busybox")); err != nil {
		return err
	}
	for _, name := range strings.Fields("sh ls cat ps echo sleep true false id ip ping wget nc vi top mount") {
		if err := os.Symlink("busybox", filepath.Join(root, "usr/bin", name)); err != nil {
			return err
		}
	}
	return nil
}

// fill copies programs and libraries out of the packages, in the merged layout, without documentation.
func (r recipe) fill(ctx context.Context, root string) error {
	for _, name := range r.packages {
		pkg, err := vm.FetchPackage(ctx, "amd64", "bookworm", name)
		if err != nil {
			return err
		}
		for _, part := range []struct{ from, to string }{
			{"lib", "usr/lib"}, {"lib64", "usr/lib64"}, {"usr/lib", "usr/lib"}, {"usr/sbin", "usr/sbin"}, {"usr/bin", "usr/bin"},
		} {
			from, to := filepath.Join(pkg, part.from), filepath.Join(root, part.to)
			if _, err := os.Stat(from); err != nil {
				continue
			}
			if err := os.MkdirAll(to, 0o755); err != nil {
				return err
			}
			if err := command(ctx, "cp", "-a", "--no-preserve=ownership", from+"/.", to); err != nil {
				return err
			}
		}
	}
	for _, d := range []string{"usr/lib/x86_64-linux-gnu/gconv", "usr/lib/systemd"} {
		if err := os.RemoveAll(filepath.Join(root, d)); err != nil {
			return err
		}
	}
	for name, text := range r.files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func command(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}
