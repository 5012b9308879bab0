// Package layout makes an OCI layout whose layers are squashfs or erofs files, which the kernel mounts where they lie, of one that has
// archives. It needs the tools that make such files, and knows of no repository.
package layout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/archive"
	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/driver/packed"
	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/layers/source"
)

// Options of Pack.
type Options struct {
	Format      packed.Format
	Compression string         // as mksquashfs -comp or mkfs.erofs -z has it; empty for their default
	Limits      archive.Limits // of one layer
}

// Pack writes the images of from, a docker-archive or an OCI layout, as a
// file or folder, into the new folder to: an OCI layout with the same layers,
// each packed by mksquashfs(1) or mkfs.erofs(1), which must be installed. The
// images get ids of their own, since diff ids are the digests of the files.
// The same images give the same squashfs files. It needs root, for owners,
// devices and overlay's marks. On an error nothing is left.
func Pack(ctx context.Context, from, to string, o Options) (names []string, err error) {
	if err := os.Mkdir(to, 0o755); err != nil {
		return nil, fmt.Errorf("make layout: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(to))
		}
	}()
	p := &packer{ctx: ctx, o: o, dir: to, temp: filepath.Join(to, "tmp"), done: map[digest.Digest]ocispec.Descriptor{}}
	for _, d := range []string{p.temp, filepath.Join(to, "blobs/sha256")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, fmt.Errorf("make layout: %w", err)
		}
	}
	if p.src, err = source.Open(ctx, from, p.temp, nil); err != nil {
		return nil, fmt.Errorf("open %s: %w", from, err)
	}
	defer p.src.Close()
	if names, err = p.images(); err != nil {
		return nil, err
	}
	return names, os.RemoveAll(p.temp)
}

type packer struct {
	ctx       context.Context
	o         Options
	src       source.Source
	dir, temp string
	done      map[digest.Digest]ocispec.Descriptor // packed layers by the diff id that they had
}

func (p *packer) images() (names []string, err error) {
	rs, err := source.Recipes(p.src, image.Platform{})
	if err != nil {
		return nil, err
	}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for _, rc := range rs {
		d, err := p.image(rc)
		if err != nil {
			return nil, err
		}
		if len(rc.Names) == 0 {
			index.Manifests = append(index.Manifests, d)
			names = append(names, d.Digest.String())
		}
		for _, n := range rc.Names {
			d.Annotations = map[string]string{ocispec.AnnotationRefName: n.Familiar()}
			index.Manifests = append(index.Manifests, d)
			names = append(names, n.Familiar())
		}
	}
	if err := p.file("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return nil, err
	}
	raw, err := json.Marshal(index)
	if err != nil {
		return nil, err
	}
	return names, p.file("index.json", raw)
}

func (p *packer) image(rc source.Recipe) (ocispec.Descriptor, error) {
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for i, l := range rc.Layers {
		d, err := p.layer(l, rc.Image.RootFS[i])
		if err != nil {
			return d, fmt.Errorf("layer %d of %d (%.19s): %w", i+1, len(rc.Layers), rc.Image.RootFS[i], err)
		}
		m.Layers = append(m.Layers, d)
	}
	config, err := withDiffs(rc.Image.RawConfig, m.Layers)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if m.Config, err = p.blob(ocispec.MediaTypeImageConfig, config); err != nil {
		return ocispec.Descriptor{}, err
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	d, err := p.blob(ocispec.MediaTypeImageManifest, raw)
	d.Platform = &ocispec.Platform{OS: rc.Image.OS, Architecture: rc.Image.Architecture, Variant: rc.Image.Variant}
	return d, err
}

// withDiffs gives a configuration other diff ids, and leaves all else of it.
func withDiffs(raw []byte, layers []ocispec.Descriptor) ([]byte, error) {
	var c map[string]json.RawMessage
	if err := json.Unmarshal(raw, &c); err != nil {
		return nil, fmt.Errorf("%w: parse configuration: %w", image.ErrInvalid, err)
	}
	fs := ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{}}
	for _, l := range layers {
		fs.DiffIDs = append(fs.DiffIDs, l.Digest)
	}
	var err error
	if c["rootfs"], err = json.Marshal(fs); err != nil {
		return nil, err
	}
	return json.Marshal(c)
}

// layer packs a layer, unless it is one that was packed before.
func (p *packer) layer(l source.Layer, diff digest.Digest) (d ocispec.Descriptor, err error) {
	if d, ok := p.done[diff]; ok {
		return d, nil
	}
	if l.Format != "" {
		return d, fmt.Errorf("it is a %s already", l.Format)
	}
	tree, file := filepath.Join(p.temp, "tree"), filepath.Join(p.temp, "file")
	if err := p.unpack(l, diff, tree); err != nil {
		return d, err
	}
	if err := p.run(tree, file); err != nil {
		return d, err
	}
	if err := os.RemoveAll(tree); err != nil {
		return d, fmt.Errorf("remove unpacked layer: %w", err)
	}
	f, err := os.Open(file)
	if err != nil {
		return d, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return d, err
	}
	d = ocispec.Descriptor{MediaType: p.o.Format.Media(), Size: st.Size()}
	if d.Digest, err = digest.FromReader(f); err != nil {
		return d, fmt.Errorf("read packed layer: %w", err)
	}
	p.done[diff] = d
	return d, os.Rename(file, filepath.Join(p.dir, image.BlobPath(d.Digest)))
}

func (p *packer) unpack(l source.Layer, diff digest.Digest, tree string) error {
	rc, _, err := p.src.Open(l.Name)
	if err != nil {
		return err
	}
	defer rc.Close()
	plain, err := blob.OpenLayer(blob.WithContext(p.ctx, rc), l.Digest, l.Size, diff)
	if err != nil {
		return err
	}
	defer plain.Close()
	if err := os.Mkdir(tree, 0o755); err != nil {
		return err
	}
	root, err := os.Open(tree)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.Chmod(0o755); err != nil {
		return err
	}
	began := time.Now()
	if _, err := archive.Unpack(p.ctx, root, plain, archive.Options{Limits: p.o.Limits, Marks: archive.OverlayMarks}); err != nil {
		return err
	}
	return settleTimes(tree, began)
}

// settleTimes gives what has the time of its making, folders and whiteouts
// that no entry of the layer gave one, a time that is always the same. The
// kernel's clock for files may be a little behind.
func settleTimes(tree string, began time.Time) error {
	return filepath.WalkDir(tree, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err != nil || st.ModTime().Before(began.Add(-time.Second)) {
			return err
		}
		never := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {}}
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, p, never, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("set time of %s: %w", p, err)
		}
		return nil
	})
}

// run has the tool make the file.
func (p *packer) run(tree, file string) error {
	words, from := command(p.o, tree, file)
	path, err := exec.LookPath(words[0])
	if err != nil {
		return fmt.Errorf("find %s: %w: install %s", words[0], err, from)
	}
	if out, err := exec.CommandContext(p.ctx, path, words[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("run %s: %w: %s", strings.Join(words, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// command is what makes file of tree, and the Debian package that has it.
func command(o Options, tree, file string) (words []string, from string) {
	if o.Format == packed.Erofs {
		words = []string{"mkfs.erofs", "--quiet", "-U", "00000000-0000-0000-0000-000000000000"}
		if o.Compression != "" {
			words = append(words, "-z"+o.Compression)
		}
		return append(words, file, tree), "erofs-utils"
	}
	words = []string{"mksquashfs", tree, file, "-noappend", "-no-progress", "-quiet", "-xattrs", "-mkfs-time", "0"}
	if o.Compression != "" {
		words = append(words, "-comp", o.Compression)
	}
	return words, "squashfs-tools"
}

func (p *packer) blob(kind string, raw []byte) (ocispec.Descriptor, error) {
	d := ocispec.Descriptor{MediaType: kind, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	return d, p.file(image.BlobPath(d.Digest), raw)
}

func (p *packer) file(name string, raw []byte) error {
	if err := os.WriteFile(filepath.Join(p.dir, name), raw, 0o644); err != nil {
		return fmt.Errorf("write layout: %w", err)
	}
	return nil
}
