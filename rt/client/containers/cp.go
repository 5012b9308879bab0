package containers

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	slashed "path"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"github.com/coble-os/coble/rt/client/command"
	"github.com/coble-os/coble/rt/client/conn"
	"github.com/coble-os/coble/rt/client/localtar"
)

// CopyVerb is `coble cp`.
func CopyVerb(f *pflag.FlagSet) command.Run {
	o := localtar.Options{}
	f.BoolVarP(&o.Owners, "archive", "a", false, "keep owners (default: root in the container, yourself here)")
	f.BoolVarP(&o.Follow, "follow-link", "L", false, "copy what a link leads to")
	f.BoolP("quiet", "q", false, "as with docker; coble shows no progress")
	return func(ctx context.Context, a *command.App, args []string) error {
		if err := command.Need(args, 2, 2, "CONTAINER:PATH and a path, or the reverse"); err != nil {
			return err
		}
		from, src := splitPlace(args[0])
		to, dst := splitPlace(args[1])
		switch {
		case from != "" && to != "":
			return errors.New("copying between containers is not supported: copy to a file and on")
		case from != "":
			return copyFrom(ctx, a, from, src, dst, o)
		case to != "":
			return copyTo(ctx, a, src, to, dst, o)
		}
		return errors.New("neither path names a container: want CONTAINER:PATH; a local path with a colon begins with ./ or /")
	}
}

// splitPlace reads CONTAINER:PATH; without a container, it is a local path.
func splitPlace(arg string) (container, p string) {
	name, rest, ok := strings.Cut(arg, ":")
	if !ok || name == "" || strings.ContainsAny(name, "/") || name[0] == '.' {
		return "", arg
	}
	return name, rest
}

// containerStat is what the engine says of a path.
type containerStat struct {
	Name       string
	Mode       os.FileMode
	LinkTarget string
}

func readStat(resp *http.Response) (st containerStat, err error) {
	b, err := base64.StdEncoding.DecodeString(resp.Header.Get("X-Docker-Container-Path-Stat"))
	if err == nil {
		err = json.Unmarshal(b, &st)
	}
	return st, err
}

// statIn asks for a path of a container; ok is false if there is none.
func statIn(ctx context.Context, a *command.App, container, p string) (st containerStat, ok bool, err error) {
	resp, err := a.Do(ctx, "HEAD", path(container, "archive"), url.Values{"path": {p}}, nil)
	var api *conn.Error
	if errors.As(err, &api) && api.Status == http.StatusNotFound {
		return st, false, nil
	}
	if err != nil {
		return st, false, err
	}
	defer resp.Body.Close()
	st, err = readStat(resp)
	return st, err == nil, err
}

func copyFrom(ctx context.Context, a *command.App, container, src, dst string, o localtar.Options) error {
	if o.Follow {
		if st, ok, err := statIn(ctx, a, container, src); err != nil {
			return err
		} else if ok && st.LinkTarget != "" {
			src = st.LinkTarget
		}
	}
	resp, err := a.Do(ctx, "GET", path(container, "archive"), url.Values{"path": {src}}, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if dst == "-" {
		return a.Output("", resp.Body)
	}
	st, err := readStat(resp)
	if err != nil {
		return fmt.Errorf("read what the engine says of %s: %w", src, err)
	}
	at := localtar.Place{}
	if fi, err := os.Stat(dst); err == nil {
		at = localtar.Place{Exists: true, Dir: fi.IsDir()}
	}
	folder, name, err := localtar.Aim(src, st.Mode.IsDir(), dst, at)
	if err != nil {
		return err
	}
	x := localtar.Extraction{From: slashed.Base(slashed.Clean("/" + src)), To: name, Owners: o.Owners, Skipped: func(what string) { fmt.Fprintln(a.Err, "left out:", what) }}
	if strings.HasSuffix(src, "/.") || x.From == "/" {
		x.From = "."
	}
	return x.Unpack(folder, resp.Body)
}

func copyTo(ctx context.Context, a *command.App, src, container, dst string, o localtar.Options) error {
	q := url.Values{"noOverwriteDirNonDir": {"true"}}
	if o.Owners {
		q.Set("copyUIDGID", "true")
	}
	if src == "-" {
		q.Set("path", dst)
		return put(ctx, a, container, q, a.In)
	}
	look := os.Lstat
	if o.Follow || strings.HasSuffix(src, "/") || strings.HasSuffix(src, "/.") {
		look = os.Stat
	}
	fi, err := look(src)
	if err != nil {
		return err
	}
	st, ok, err := statIn(ctx, a, container, dst)
	if err == nil && ok && st.LinkTarget != "" {
		dst = st.LinkTarget
		st, ok, err = statIn(ctx, a, container, dst)
	}
	if err != nil {
		return err
	}
	folder, name, err := localtar.Aim(filepath.ToSlash(src), fi.IsDir(), dst, localtar.Place{Exists: ok, Dir: ok && st.Mode.IsDir()})
	if err != nil {
		return err
	}
	if name == ".." || slashed.Base(slashed.Clean(src)) == ".." && name != "." && ok && st.Mode.IsDir() {
		abs, err := filepath.Abs(src)
		if err != nil {
			return err
		}
		name = filepath.Base(abs)
	}
	q.Set("path", folder)
	r, w := io.Pipe()
	go func() { w.CloseWithError(localtar.Pack(w, src, name, o)) }()
	err = put(ctx, a, container, q, r)
	r.Close()
	return err
}

func put(ctx context.Context, a *command.App, container string, q url.Values, body io.Reader) error {
	resp, err := a.Do(ctx, "PUT", path(container, "archive"), q, body, "Content-Type", "application/x-tar")
	if err != nil {
		return err
	}
	return resp.Body.Close()
}
