// Package mkimage builds what an appliance boots from: an initramfs (newc cpio)
// with coble as /init, the kernel modules that it needs and its configuration,
// and ext4 images for the data disk. The same input gives the same bytes: paths
// are sorted, times are zero, everything belongs to root. It runs on the
// developer's machine and never on the appliance.
package mkimage

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/u-root/pkg/cpio"
	"golang.org/x/sys/unix"
)

// Image is an initramfs in the making. The zero value is not usable, see New.
type Image struct {
	records map[string]cpio.Record // by path without a leading slash
}

// New returns an image with the folders that a boot needs and /dev/console and
// /dev/null, so that what goes wrong before the first mount can be seen.
func New() *Image {
	im := &Image{records: map[string]cpio.Record{}}
	for _, dir := range []string{"dev", "etc", "proc", "run", "sys", "tmp", "var"} {
		im.Dir(dir, 0o755)
	}
	im.node("dev/console", 0o600, 5, 1)
	im.node("dev/null", 0o666, 1, 3)
	return im
}

func (im *Image) put(name string, r cpio.Record) {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	r.Name = name
	r.NLink = 1
	im.records[name] = r
	if dir := path.Dir(name); dir != "." {
		if _, ok := im.records[dir]; !ok {
			im.Dir(dir, 0o755)
		}
	}
}

// Dir adds a folder. Parents are added as needed, by all the methods.
func (im *Image) Dir(name string, perm uint64) { im.put(name, cpio.Directory(name, perm)) }

// File adds a regular file with the given content.
func (im *Image) File(name string, perm uint64, data []byte) {
	im.put(name, cpio.StaticRecord(data, cpio.Info{Name: name, Mode: unix.S_IFREG | perm}))
}

// Symlink adds a symbolic link.
func (im *Image) Symlink(name, target string) { im.put(name, cpio.Symlink(name, target)) }

func (im *Image) node(name string, perm uint64, major, minor uint64) {
	im.put(name, cpio.CharDev(name, perm, major, minor))
}

// Copy adds the regular file source of this machine, with its permissions.
func (im *Image) Copy(name, source string) error {
	st, err := os.Stat(source)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(source)
	if err != nil {
		return err
	}
	im.File(name, uint64(st.Mode().Perm()), data)
	return nil
}

// Tree adds the folder source of this machine with all folders, regular files
// and symbolic links in it.
func (im *Image) Tree(name, source string) error {
	return filepath.WalkDir(source, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(source, p)
		if err != nil {
			return err
		}
		to := path.Join(name, filepath.ToSlash(rel))
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch d.Type() {
		case fs.ModeDir:
			im.Dir(to, uint64(info.Mode().Perm()))
		case fs.ModeSymlink:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			im.Symlink(to, target)
		case 0:
			return im.Copy(to, p)
		default:
			return fmt.Errorf("%s is neither file nor folder nor symbolic link", p)
		}
		return nil
	})
}

// Write writes the archive.
func (im *Image) Write(w io.Writer) error {
	archive := cpio.Newc.Writer(w)
	for i, name := range slices.Sorted(maps.Keys(im.records)) {
		r := im.records[name]
		r.Ino = uint64(i + 1)
		if err := archive.WriteRecord(r); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	return cpio.WriteTrailer(archive)
}

// WriteFile writes the archive to a file; the suffix .gz or .zst chooses the
// compression, which the kernel must know.
func (im *Image) WriteFile(name string) (err error) {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() {
		if e := f.Close(); err == nil {
			err = e
		}
	}()
	var w io.WriteCloser
	switch path.Ext(name) {
	case ".gz":
		w, err = gzip.NewWriterLevel(f, gzip.BestCompression)
	case ".zst":
		w, err = zstd.NewWriter(f, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1))
	default:
		return im.Write(f)
	}
	if err != nil {
		return err
	}
	if err := im.Write(w); err != nil {
		return err
	}
	return w.Close()
}

// Bytes is the archive, uncompressed.
func (im *Image) Bytes() ([]byte, error) {
	var b bytes.Buffer
	err := im.Write(&b)
	return b.Bytes(), err
}
