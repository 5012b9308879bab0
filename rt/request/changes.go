package request

import (
	"encoding/json"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/network"

	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/rt/fault"
)

// Apply changes an image's configuration as `commit -c` and `import -c` ask: each text is one or more instructions of a
// Dockerfile, of those that change nothing but the configuration. Anything else is refused by name.
func Apply(c *image.Config, texts []string) error {
	a := changer{c: c}
	for _, t := range texts {
		for line := range strings.Lines(strings.ReplaceAll(t, "\\\n", "")) {
			line = strings.TrimSpace(line)
			if line == "" || line[0] == '#' {
				continue
			}
			name, args, _ := strings.Cut(line, " ")
			if err := a.apply(strings.ToUpper(name), strings.TrimSpace(args)); err != nil {
				return fault.New(fault.Invalid, "change %q: %w", line, err)
			}
		}
	}
	return nil
}

type changer struct {
	c      *image.Config
	cmdSet bool // a CMD came before: an ENTRYPOINT then keeps it
}

func (a *changer) apply(name, args string) error {
	if args == "" {
		return fault.New(fault.Invalid, "%s wants arguments", name)
	}
	c := a.c
	switch name {
	case "CMD":
		c.Cmd, a.cmdSet = a.command(args), true
		return nil
	case "ENTRYPOINT":
		c.Entrypoint = a.command(args)
		if !a.cmdSet {
			c.Cmd = nil
		}
		return nil
	case "ENV":
		return a.pairs(args, func(k, v string) { c.Env = setEnv(c.Env, k, v) })
	case "LABEL":
		return a.pairs(args, func(k, v string) {
			c.Labels = mergeMaps(c.Labels, map[string]string{k: v})
		})
	case "EXPOSE":
		return a.expose(args)
	case "VOLUME":
		return a.volume(args)
	case "HEALTHCHECK":
		return a.health(args)
	case "ONBUILD":
		switch first, _, _ := strings.Cut(args, " "); strings.ToUpper(first) {
		case "ONBUILD", "FROM", "MAINTAINER":
			return fault.New(fault.Invalid, "%s isn't allowed as an ONBUILD trigger", first)
		}
		c.OnBuild = append(c.OnBuild, args)
		return nil
	case "USER", "WORKDIR", "STOPSIGNAL":
		return a.word(name, args)
	}
	return fault.New(fault.Invalid, "%s is not a valid change command: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME and WORKDIR are", name)
}

// setEnv sets a variable where it stands, or at the end.
func setEnv(env []string, key, value string) []string {
	out := slices.Clone(env)
	for i, kv := range out {
		if k, _, _ := strings.Cut(kv, "="); k == key {
			out[i] = key + "=" + value
			return out
		}
	}
	return append(out, key+"="+value)
}

// env looks a variable up in the configuration as it is so far.
func (a *changer) env(name string) string {
	for _, kv := range a.c.Env {
		if k, v, _ := strings.Cut(kv, "="); k == name {
			return v
		}
	}
	return ""
}

// command reads a JSON list, or a text for the shell.
func (a *changer) command(args string) []string {
	if list, ok := jsonList(args); ok {
		return list
	}
	shell := a.c.Shell
	if len(shell) == 0 {
		shell = []string{"/bin/sh", "-c"}
	}
	return append(append([]string{}, shell...), args)
}

func jsonList(s string) (list []string, ok bool) {
	return list, strings.HasPrefix(s, "[") && json.Unmarshal([]byte(s), &list) == nil
}

// pairs reads k=v …, or the old form "k v".
func (a *changer) pairs(args string, set func(k, v string)) error {
	ws, err := words(args, a.env)
	if err != nil {
		return err
	}
	if len(ws) == 0 || !strings.Contains(ws[0], "=") {
		k, v, ok := strings.Cut(args, " ")
		if !ok {
			return fault.New(fault.Invalid, "want name=value")
		}
		if ws, err = words(strings.TrimSpace(v), a.env); err == nil {
			set(k, strings.Join(ws, " "))
		}
		return err
	}
	for _, w := range ws {
		if k, _, ok := strings.Cut(w, "="); !ok || k == "" {
			return fault.New(fault.Invalid, "%q is not name=value", w)
		}
	}
	for _, w := range ws {
		k, v, _ := strings.Cut(w, "=")
		set(k, v)
	}
	return nil
}

func (a *changer) word(name, args string) error {
	ws, err := words(args, a.env)
	if err != nil {
		return err
	}
	w := strings.Join(ws, " ")
	switch name {
	case "USER":
		a.c.User = w
	case "WORKDIR":
		if !path.IsAbs(w) {
			w = path.Join("/", a.c.WorkingDir, w)
		}
		a.c.WorkingDir = path.Clean(w)
	case "STOPSIGNAL":
		if _, err := ParseSignal(w); err != nil {
			return err
		}
		a.c.StopSignal = w
	}
	return nil
}

func (a *changer) expose(args string) error {
	ws, err := words(args, a.env)
	if err != nil {
		return err
	}
	for _, w := range ws {
		r, err := network.ParsePortRange(w)
		if err != nil {
			return err
		}
		if a.c.ExposedPorts == nil {
			a.c.ExposedPorts = map[string]struct{}{}
		}
		for p := range r.All() {
			a.c.ExposedPorts[p.String()] = struct{}{}
		}
	}
	return nil
}

func (a *changer) volume(args string) (err error) {
	list, ok := jsonList(args)
	if !ok {
		if list, err = words(args, a.env); err != nil {
			return err
		}
	}
	for _, v := range list {
		if v == "" {
			return fault.New(fault.Invalid, "a volume's path is empty")
		}
		if a.c.Volumes == nil {
			a.c.Volumes = map[string]struct{}{}
		}
		a.c.Volumes[v] = struct{}{}
	}
	return nil
}

// health reads NONE, or [--interval=…] … CMD command.
func (a *changer) health(args string) error {
	h := &image.Healthcheck{}
	rest := args
	for strings.HasPrefix(rest, "--") {
		opt, more, _ := strings.Cut(rest, " ")
		if err := healthOption(h, strings.TrimPrefix(opt, "--")); err != nil {
			return err
		}
		rest = strings.TrimSpace(more)
	}
	kind, cmd, _ := strings.Cut(rest, " ")
	cmd = strings.TrimSpace(cmd)
	switch strings.ToUpper(kind) {
	case "NONE":
		if cmd != "" || rest != args {
			return fault.New(fault.Invalid, "NONE takes neither options nor arguments")
		}
		h.Test = []string{"NONE"}
	case "CMD":
		if cmd == "" {
			return fault.New(fault.Invalid, "CMD wants a command")
		}
		if list, ok := jsonList(cmd); ok {
			h.Test = append([]string{"CMD"}, list...)
		} else {
			h.Test = []string{"CMD-SHELL", cmd}
		}
	default:
		return fault.New(fault.Invalid, "want CMD or NONE, not %q", kind)
	}
	a.c.Healthcheck = h
	return nil
}

func healthOption(h *image.Healthcheck, opt string) error {
	k, v, _ := strings.Cut(opt, "=")
	if k == "retries" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 0 {
			return fault.New(fault.Invalid, "--retries=%s is no number from 0 on", v)
		}
		h.Retries = n
		return nil
	}
	to := map[string]*time.Duration{"interval": &h.Interval, "timeout": &h.Timeout, "start-period": &h.StartPeriod, "start-interval": &h.StartInterval}[k]
	if to == nil {
		return fault.New(fault.Invalid, "unknown option --%s", k)
	}
	d, err := time.ParseDuration(v)
	if err != nil || d < 0 || d > 0 && d < time.Millisecond {
		return fault.New(fault.Invalid, "--%s=%s is no time from 1ms on", k, v)
	}
	*to = d
	return nil
}
