package engine

import (
	"errors"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"github.com/moby/moby/api/types/events"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/archive"
	"github.com/coble-os/coble/rt/fault"
	"github.com/coble-os/coble/rt/images"
	"github.com/coble-os/coble/rt/job"
	"github.com/coble-os/coble/rt/ocispec"
)

// CopyIn names a path in a container.
type CopyIn struct {
	Ref, Path string
	// For copying out of it: is called before the first byte; may be nil.
	Stat func(PathStat)
	// For copying into it:
	KeepKinds bool // a folder and something else do not replace each other
	Owner     bool // files become the container's user's
}

// PathStat is what is at a path of a container.
type PathStat struct {
	Name       string
	Size       int64
	Mode       os.FileMode
	Mtime      time.Time
	LinkTarget string // of a symlink: where it leads, in the container
}

func (e *Engine) copyStat(_ *job.Job, in CopyIn) (st PathStat, err error) {
	err = e.copying(in, func(c *ctr, root *os.File) (err error) {
		st, err = c.statIn(root, in.Path)
		return err
	})
	return st, err
}

// copying opens a container's root for copying.
func (e *Engine) copying(in CopyIn, fn func(*ctr, *os.File) error) error {
	if in.Path == "" {
		return fault.New(fault.Invalid, "copy: the path is empty")
	}
	c, err := e.find(in.Ref)
	if err != nil {
		return err
	}
	return c.e.Exec.WithRoot(c.Container, true, func(root *os.File) error {
		if err := c.mountedThere(in.Path); err != nil {
			return err
		}
		return fn(c, root)
	})
}

// mountedThere refuses a path that is covered while the container runs: a copy into what lies below would not be seen.
func (c *ctr) mountedThere(p string) error {
	if c.Running() {
		return nil
	}
	at, err := ocispec.MountedAt(c.Spec())
	if err != nil {
		return err
	}
	for _, dst := range at {
		if rel, ok := strings.CutPrefix(path.Clean("/"+p)+"/", path.Clean("/"+dst)+"/"); ok {
			return fault.New(fault.Conflict, "container %s does not run, and %s is mounted when it does: start it, or copy %s where that comes from", c.Spec().Name, dst, path.Clean("./"+rel))
		}
	}
	return nil
}

func (c *ctr) noSuchPath(p string) error {
	return fault.New(fault.NotFound, "Could not find the file %s in container %s", p, c.Spec().Name)
}

func (c *ctr) statIn(root *os.File, p string) (PathStat, error) {
	found, err := archive.Look(root, p)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return PathStat{}, c.noSuchPath(p)
	}
	if err != nil {
		return PathStat{}, err
	}
	return PathStat{Name: path.Base(path.Clean("/" + p)), Size: found.Size, Mode: found.Mode, Mtime: found.Modified, LinkTarget: found.Leads}, nil
}

// copyFrom writes what is at a path, and below, to the job's Stdout as a tar stream. in.Stat hears of it before.
func (e *Engine) copyFrom(j *job.Job, in CopyIn) (any, error) {
	return nil, e.copying(in, func(c *ctr, root *os.File) error {
		st, err := c.statIn(root, in.Path)
		if err != nil {
			return err
		}
		if in.Stat != nil {
			in.Stat(st)
		}
		name := path.Base(in.Path)
		if strings.HasSuffix(in.Path, "/.") || name == "/" {
			name = "."
		}
		err = archive.Pack(j.Context(), root, strings.TrimSuffix(in.Path, "/."), j.Stdout, archive.PackOptions{Name: name, Marks: archive.NoMarks})
		if errors.Is(err, os.ErrNotExist) {
			return c.noSuchPath(in.Path)
		}
		c.emit(events.ActionArchivePath, map[string]string{"path": in.Path})
		return err
	})
}

// copyTo unpacks the job's Stdin, a tar stream, into a folder of the container.
func (e *Engine) copyTo(j *job.Job, in CopyIn) (any, error) {
	return nil, e.copying(in, func(c *ctr, root *os.File) error {
		if err := c.mayCopyTo(root, in); err != nil {
			return err
		}
		from := j.Stdin
		if from == nil {
			from = io.MultiReader()
		}
		_, err := archive.Unpack(j.Context(), root, from, archive.Options{Marks: archive.NoMarks, Into: in.Path, CrossMounts: true, KeepKinds: in.KeepKinds})
		if errors.Is(err, unix.EROFS) || errors.Is(err, archive.ErrKind) {
			return fault.As(fault.Invalid, err)
		}
		if err != nil {
			return images.ArchiveError(err)
		}
		c.emit(events.ActionExtractToDir, map[string]string{"path": in.Path})
		return nil
	})
}

func (c *ctr) mayCopyTo(root *os.File, in CopyIn) error {
	if in.Owner && c.Spec().Config.User != "" {
		return fault.New(fault.Unsupported, "copy with -a into a container that runs as user %s is not supported yet: leave -a out", c.Spec().Config.User)
	}
	if c.Spec().Host.ReadonlyRootfs && !c.Running() {
		return fault.New(fault.Invalid, "container rootfs is marked read-only")
	}
	st, err := archive.Look(root, in.Path+"/.")
	switch {
	case errors.Is(err, unix.ENOENT):
		return c.noSuchPath(in.Path)
	case errors.Is(err, unix.ENOTDIR), err == nil && !st.Mode.IsDir():
		return fault.New(fault.Invalid, "extraction point is not a directory: %s", in.Path)
	}
	return err
}
