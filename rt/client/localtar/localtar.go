// Package localtar is this side of cp: where a copy shall lie, decided as docker cp does; local files as a tar stream; and a
// container's tar stream as local files, without trust in it. It talks to no engine.
package localtar

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	slashed "path"
	"path/filepath"
	"strings"
	"time"
)

// Options are cp's: Owners keeps owners, Follow copies what a link leads to.
type Options struct{ Owners, Follow bool }

// Place is what lies at a destination.
type Place struct{ Exists, Dir bool }

// Aim decides, as docker cp does, into which folder to unpack and what the thing is called there: "." for its contents
// alone. src ends in /. if only the contents of a folder are wanted.
func Aim(src string, srcDir bool, dst string, at Place) (folder, name string, err error) {
	contents := srcDir && (src == "." || strings.HasSuffix(src, "/."))
	slash := strings.HasSuffix(dst, "/") || strings.HasSuffix(dst, "/.")
	clean := slashed.Clean(dst)
	switch {
	case at.Dir && contents:
		return clean, ".", nil
	case at.Dir:
		return clean, slashed.Base(slashed.Clean("/" + src)), nil
	case at.Exists && srcDir:
		return "", "", fmt.Errorf("%s is a file: a folder can't be copied onto it", dst)
	case at.Exists && slash:
		return "", "", fmt.Errorf("%s is no folder", dst)
	case !at.Exists && slash && !srcDir:
		return "", "", fmt.Errorf("no such directory: %s", dst)
	}
	return slashed.Dir(clean), slashed.Base(clean), nil
}

// Pack writes a local file or folder as a tar stream in which it is called name; "." is a folder's contents alone.
// Links in it stay links. Without owners everything is root's.
func Pack(w io.Writer, src, name string, o Options) error {
	if o.Follow {
		real, err := filepath.EvalSymlinks(src)
		if err != nil {
			return err
		}
		src = real
	} else if strings.HasSuffix(src, "/.") || strings.HasSuffix(src, "/") {
		src = filepath.Clean(src) + "/"
	}
	tw := tar.NewWriter(w)
	err := filepath.WalkDir(src, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(src, p)
		if err != nil {
			return err
		}
		as := slashed.Join(name, filepath.ToSlash(rel))
		if as == "." {
			return nil
		}
		return packOne(tw, p, as, d, o)
	})
	if err != nil {
		return err
	}
	return tw.Close()
}

func packOne(tw *tar.Writer, p, as string, d fs.DirEntry, o Options) error {
	fi, err := d.Info()
	if err != nil {
		return err
	}
	if fi.Mode()&os.ModeSocket != 0 {
		return nil // tar has no form for them
	}
	link := ""
	if fi.Mode()&os.ModeSymlink != 0 {
		if link, err = os.Readlink(p); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(fi, link)
	if err != nil {
		return err
	}
	h.Name, h.Uname, h.Gname, h.Format = as, "", "", tar.FormatPAX
	if !o.Owners {
		h.Uid, h.Gid = 0, 0
	}
	if fi.IsDir() {
		h.Name += "/"
	}
	if err := tw.WriteHeader(h); err != nil || !fi.Mode().IsRegular() {
		return err
	}
	f, err := os.Open(p)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.CopyN(tw, f, h.Size)
	return err
}

// Extraction unpacks what an engine sent. The stream is a container's: nothing of it gets outside the folder, and what
// was there keeps its mode and owner.
type Extraction struct {
	From, To string // the top name in the stream, and what it becomes; "." is the folder itself
	Owners   bool
	Skipped  func(what string) // told of each entry that is left out: devices and the like

	root *os.Root
	dirs []func() error // modes and times of folders, once they are filled
}

// Unpack puts the stream's entries into the folder, which must be there, and reads the stream to its end.
func (x *Extraction) Unpack(folder string, r io.Reader) (err error) {
	if x.root, err = os.OpenRoot(folder); err != nil {
		return err
	}
	defer x.root.Close()
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err == nil {
			err = x.one(h, tr)
		}
		if err != nil {
			return fmt.Errorf("unpack: %w", err)
		}
	}
	for i := len(x.dirs) - 1; i >= 0; i-- {
		if err := x.dirs[i](); err != nil {
			return err
		}
	}
	_, err = io.Copy(io.Discard, r)
	return err
}

// name gives an entry its local name.
func (x *Extraction) name(in string) (string, error) {
	clean := slashed.Clean(in)
	if !filepath.IsLocal(clean) {
		return "", fmt.Errorf("%q leads outside", in)
	}
	if x.From == "." {
		return slashed.Join(x.To, clean), nil
	}
	rest, ok := strings.CutPrefix(clean+"/", x.From+"/")
	if !ok {
		return "", fmt.Errorf("%q is not below %s, which was asked for", in, x.From)
	}
	return slashed.Join(x.To, rest), nil
}

func (x *Extraction) one(h *tar.Header, body io.Reader) error {
	name, err := x.name(h.Name)
	if err != nil {
		return err
	}
	if h.Typeflag == tar.TypeDir {
		return x.dir(h, name)
	}
	if err := x.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	switch h.Typeflag {
	case tar.TypeReg:
		err = x.file(h, name, body)
	case tar.TypeSymlink:
		err = x.root.Symlink(h.Linkname, name)
	case tar.TypeLink:
		target, terr := x.name(h.Linkname)
		if terr != nil {
			return terr
		}
		return x.root.Link(target, name)
	default:
		x.Skipped(h.Name + ", a device or the like")
		return nil
	}
	if err == nil && x.Owners {
		err = x.root.Lchown(name, h.Uid, h.Gid)
	}
	return err
}

func (x *Extraction) dir(h *tar.Header, name string) error {
	err := x.root.Mkdir(name, 0o700)
	if errors.Is(err, fs.ErrExist) {
		if fi, serr := x.root.Lstat(name); serr == nil && fi.IsDir() {
			return nil // it keeps its own mode
		}
	}
	if err != nil {
		return err
	}
	x.dirs = append(x.dirs, func() error {
		err := x.root.Chmod(name, h.FileInfo().Mode().Perm())
		if err == nil && x.Owners {
			err = x.root.Lchown(name, h.Uid, h.Gid)
		}
		return errors.Join(err, x.root.Chtimes(name, time.Time{}, h.ModTime))
	})
	return nil
}

func (x *Extraction) file(h *tar.Header, name string, body io.Reader) error {
	f, err := x.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, body)
	if err = errors.Join(err, f.Chmod(h.FileInfo().Mode().Perm()), f.Close()); err != nil {
		return err
	}
	return x.root.Chtimes(name, time.Time{}, h.ModTime)
}
