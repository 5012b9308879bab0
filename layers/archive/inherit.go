package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// inherit compares what the folder k has from below with p, the same folder
// of the tree below, nil if k hides that or there is none. What entries
// account for is left out.
func (c *comparer) inherit(k, p *os.File, at string) error {
	if err := context.Cause(c.ctx); err != nil {
		return err
	}
	mine, err := names(k)
	if err != nil {
		return c.tell(orDot(at), "%v", err)
	}
	theirs := map[string]bool{}
	if p != nil {
		if theirs, err = names(p); err != nil {
			return fmt.Errorf("compare with the layer below: %w", err)
		}
	}
	for name := range theirs {
		sub := path.Join(at, name)
		if c.has(c.hidden, sub) {
			delete(theirs, name)
		} else if !mine[name] && !c.has(c.known, sub) {
			if err := c.lost(sub, "it is missing, and the layer below has it"); err != nil {
				return err
			}
		}
	}
	for name := range mine {
		if err := c.inheritEntry(k, p, name, path.Join(at, name), theirs[name]); err != nil {
			return err
		}
	}
	return nil
}

// names are those in an open folder.
func names(f *os.File) (map[string]bool, error) {
	dir, err := openDir(int(f.Fd()), ".") // with an offset of its own
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	list, err := dir.Readdirnames(-1)
	set := make(map[string]bool, len(list))
	for _, n := range list {
		set[n] = true
	}
	return set, err
}

func (c *comparer) has(set map[uint64]struct{}, p string) bool {
	_, is := set[c.sum(p)]
	return is
}

// lost tells of a path that is not as the layer below has it.
func (c *comparer) lost(p, what string) error {
	return c.fn(Difference{Path: p, What: what, Inherited: true})
}

func (c *comparer) inheritEntry(k, p *os.File, name, at string, below bool) error {
	own := c.has(c.known, at)
	if !own && !below {
		return c.fn(Difference{Path: at, What: "neither the layer nor one below it has such a path", Extra: true})
	}
	var st, was unix.Stat_t
	if err := unix.Fstatat(int(k.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return c.lost(at, err.Error())
	}
	if below {
		if err := unix.Fstatat(int(p.Fd()), name, &was, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("compare %s with the layer below: %w", at, err)
		}
	}
	if !own {
		what, err := c.unlike(k, p, name, &st, &was)
		if err != nil {
			return fmt.Errorf("compare %s with the layer below: %w", at, err)
		}
		if what != "" {
			return c.lost(at, what)
		}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	sub, err := openDir(int(k.Fd()), name)
	if err != nil {
		return c.lost(at, err.Error())
	}
	defer sub.Close()
	if !below || was.Mode&unix.S_IFMT != unix.S_IFDIR || c.has(c.opaque, at) {
		return c.inherit(sub, nil, at)
	}
	low, err := openDir(int(p.Fd()), name)
	if err != nil {
		return fmt.Errorf("compare %s with the layer below: %w", at, err)
	}
	defer low.Close()
	return c.inherit(sub, low, at)
}

// unlike tells what differs between an entry of two folders; empty if
// nothing. err is of reading the one below.
func (c *comparer) unlike(k, p *os.File, name string, st, was *unix.Stat_t) (what string, err error) {
	switch kind := st.Mode & unix.S_IFMT; {
	case kind != was.Mode&unix.S_IFMT:
		return fmt.Sprintf("it is a %s, not a %s", kindOf(st.Mode), kindOf(was.Mode)), nil
	case st.Uid != was.Uid || st.Gid != was.Gid:
		return fmt.Sprintf("its owner is %d:%d, not %d:%d", st.Uid, st.Gid, was.Uid, was.Gid), nil
	case st.Mode != was.Mode:
		return fmt.Sprintf("its mode is %04o, not %04o", st.Mode&0o7777, was.Mode&0o7777), nil
	case st.Rdev != was.Rdev:
		return "it is another device", nil
	case kind == unix.S_IFDIR:
	case st.Size != was.Size:
		return fmt.Sprintf("it has %d bytes, not %d", st.Size, was.Size), nil
	case st.Mtim != was.Mtim:
		return fmt.Sprintf("its time is %v, not %v", modTime(st).UTC(), modTime(was).UTC()), nil
	case kind == unix.S_IFLNK:
		to, err := linkAt(int(k.Fd()), name)
		if err != nil {
			return err.Error(), nil
		}
		if want, err := linkAt(int(p.Fd()), name); err != nil || to != want {
			return fmt.Sprintf("it leads to %q, not to %q", to, want), err
		}
		return "", nil
	case kind != unix.S_IFREG:
		return "", nil
	}
	return c.unlikeInside(k, p, name, was.Mode&unix.S_IFMT == unix.S_IFREG)
}

// unlikeInside is unlike for attributes and, of files, contents.
func (c *comparer) unlikeInside(k, p *os.File, name string, file bool) (what string, err error) {
	open := func(dir *os.File) (*os.File, error) {
		fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		return os.NewFile(uintptr(fd), name), err
	}
	was, err := open(p)
	if err != nil {
		return "", err
	}
	defer was.Close()
	f, err := open(k)
	if err != nil {
		return err.Error(), nil
	}
	defer f.Close()
	if c.buf == nil {
		c.buf = make([]byte, 2*maxAttr)
	}
	a, b := c.buf[:maxAttr], c.buf[maxAttr:]
	want, err := attrs(was, a, b)
	if err != nil {
		return "", err
	}
	if have, err := attrs(f, a, b); err != nil || have != want {
		return "its attributes are not those of the layer below", nil
	}
	if !file {
		return "", nil
	}
	for {
		if err := context.Cause(c.ctx); err != nil {
			return "", err
		}
		n, err := io.ReadFull(was, a)
		if err != nil && err != io.EOF && !errors.Is(err, io.ErrUnexpectedEOF) {
			return "", err
		}
		m, rerr := io.ReadFull(f, b)
		if rerr != nil && rerr != io.EOF && !errors.Is(rerr, io.ErrUnexpectedEOF) {
			return rerr.Error(), nil
		}
		if !bytes.Equal(a[:n], b[:m]) {
			return "its content is not that of the layer below", nil
		}
		if n < len(a) {
			return "", nil
		}
	}
}

// maxAttr is the most that a list of attributes or a value has (XATTR_LIST_MAX,
// XATTR_SIZE_MAX).
const maxAttr = 64 << 10

// attrs are the attributes that archives bring, as one string. The buffers are
// of maxAttr.
func attrs(f *os.File, list, value []byte) (string, error) {
	n, err := unix.Flistxattr(int(f.Fd()), list)
	if err == unix.ENOTSUP {
		return "", nil
	}
	if err != nil || n == 0 {
		return "", err
	}
	found := strings.Split(string(list[:n]), "\x00")
	slices.Sort(found)
	var out strings.Builder
	for _, name := range found {
		if !attrAllowed(name) {
			continue
		}
		n, err := unix.Fgetxattr(int(f.Fd()), name, value)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&out, "%q=%q ", name, value[:n])
	}
	return out.String(), nil
}
