package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/pflag"
)

// shown is the state of a container as runc prints it: the spec's, and some more.
type shown struct {
	Version     string               `json:"ociVersion"`
	ID          string               `json:"id"`
	Pid         int                  `json:"pid"`
	Status      specs.ContainerState `json:"status"`
	Bundle      string               `json:"bundle"`
	Rootfs      string               `json:"rootfs"`
	Created     time.Time            `json:"created"`
	Annotations map[string]string    `json:"annotations,omitempty"`
	Owner       string               `json:"owner"`
}

func (r *record) shown() shown {
	s := r.state()
	return shown{
		Version: s.Version, ID: s.ID, Pid: s.Pid, Status: s.Status, Bundle: s.Bundle, Rootfs: r.Rootfs,
		Created: r.Created, Annotations: s.Annotations, Owner: owner(r.UID),
	}
}

// owner is a name where it is known without asking, else the number: nothing here uses a name service.
func owner(uid int) string {
	if uid == 0 {
		return "root"
	}
	return "#" + strconv.Itoa(uid)
}

func setupState(a *app, _ *pflag.FlagSet) func(context.Context, []string) error {
	return func(_ context.Context, args []string) error {
		r, err := a.load(args[0])
		if err != nil {
			return err
		}
		s := r.shown()
		s.Owner = ""
		return a.printJSON(s, "  ")
	}
}

// printJSON prints in one write, indented unless indent is "".
func (a *app) printJSON(v any, indent string) error {
	b, err := json.MarshalIndent(v, "", indent)
	if indent == "" {
		b, err = json.Marshal(v)
	}
	if err != nil {
		return err
	}
	_, err = a.out.Write(append(b, '\n'))
	return err
}

func setupList(a *app, f *pflag.FlagSet) func(context.Context, []string) error {
	format := f.StringP("format", "f", "table", "table or json")
	quiet := f.BoolP("quiet", "q", false, "print only IDs")
	return func(context.Context, []string) error {
		list, err := a.list()
		switch {
		case err != nil:
			return err
		case *quiet:
			for _, s := range list {
				fmt.Fprintln(a.out, s.ID)
			}
			return nil
		case *format == "json":
			return a.printJSON(list, "")
		case *format == "table":
			return a.table(list)
		}
		return errors.New("invalid format option")
	}
}

// list reads all records; one that is removed meanwhile, or was never finished, is left out.
func (a *app) list() ([]shown, error) {
	entries, err := os.ReadDir(a.root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []shown
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		r, err := a.load(e.Name())
		if errors.Is(err, errNotExist) || errors.Is(err, errID) {
			continue
		}
		if err != nil {
			a.log.warn("list containers: %v", err)
			continue
		}
		out = append(out, r.shown())
	}
	return out, nil
}

func (a *app) table(list []shown) error {
	w := tabwriter.NewWriter(a.out, 12, 1, 3, ' ', 0)
	fmt.Fprint(w, "ID\tPID\tSTATUS\tBUNDLE\tCREATED\tOWNER\n")
	for _, s := range list {
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\n", s.ID, s.Pid, s.Status, s.Bundle, s.Created.Format(time.RFC3339Nano), s.Owner)
	}
	return w.Flush()
}

func setupPs(a *app, f *pflag.FlagSet) func(context.Context, []string) error {
	format := f.StringP("format", "f", "table", "table or json")
	return func(_ context.Context, args []string) error {
		r, err := a.load(args[0])
		if err != nil {
			return err
		}
		g, err := r.group()
		if err != nil && r.status() != specs.StateStopped {
			return err
		}
		var pids []int
		if err == nil {
			if pids, err = g.Pids(); err != nil {
				return err
			}
		}
		slices.Sort(pids)
		switch *format {
		case "json":
			if pids == nil {
				pids = []int{}
			}
			return a.printJSON(pids, "")
		case "table":
			return a.psTable(pids, args[1:])
		}
		return errors.New("invalid format option")
	}
}

// psTable prints those lines of the host's ps(1) that are about the processes.
func (a *app) psTable(pids []int, args []string) error {
	if len(args) == 0 {
		args = []string{"-ef"}
	}
	text, err := output("ps", args)
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	column := slices.Index(strings.Fields(lines[0]), "PID")
	if column < 0 {
		return errors.New("couldn't find PID field in ps output")
	}
	fmt.Fprintln(a.out, lines[0])
	for _, line := range lines[1:] {
		if f := strings.Fields(line); column < len(f) {
			if pid, err := strconv.Atoi(f[column]); err == nil && slices.Contains(pids, pid) {
				fmt.Fprintln(a.out, line)
			}
		}
	}
	return nil
}

// output runs a program of the host, found in PATH, and returns what it prints.
func output(name string, args []string) (string, error) {
	path := ""
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if st, err := os.Stat(filepath.Join(dir, name)); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			path = filepath.Join(dir, name)
			break
		}
	}
	if path == "" {
		return "", fmt.Errorf("run %s: not found in PATH", name)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer r.Close()
	p, err := os.StartProcess(path, append([]string{name}, args...), &os.ProcAttr{Files: []*os.File{nil, w, os.Stderr}})
	w.Close()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	_, err = r.WriteTo(&b)
	st, werr := p.Wait()
	if err == nil && werr == nil && !st.Success() {
		err = fmt.Errorf("%s: %s", name, st)
	}
	return b.String(), errors.Join(err, werr)
}
