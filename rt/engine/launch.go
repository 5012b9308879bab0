package engine

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/coble-os/coble/configs"
	"github.com/coble-os/coble/init/boot"
	"github.com/coble-os/coble/layers/repo"
	"github.com/coble-os/coble/rt/containers"
	"github.com/coble-os/coble/rt/fault"
	"github.com/coble-os/coble/rt/images"
	"github.com/coble-os/coble/rt/job"
	"github.com/coble-os/coble/rt/request"
)

// LaunchIn is what the TOML file asks for.
type LaunchIn struct {
	Config   configs.Config
	Problems []configs.Problem
}

// launch brings images and containers to what the file says and starts them in order, then the containers that their
// restart policy wants. It may run any number of times: what is there already is left alone. One that fails is told of
// and does not stop the others.
func (e *Engine) launch(j *job.Job, in LaunchIn) (any, error) {
	e.launching.Lock()
	defer e.launching.Unlock()
	e.Images.Keep(in.Config, in.Problems)
	e.Net.Follow(in.Config)
	defer e.Images.CollectSoon()
	spoiled := map[string]bool{}
	for _, p := range in.Problems {
		e.Problem(p.Error())
		spoiled[p.Section] = true
	}
	e.dropVanished(j, in.Config, spoiled)
	for _, name := range sortedNames(in.Config.Image) {
		err := e.Boot.Span("image "+name, func() error { return e.launchImage(j, name, in.Config.Image[name].Source) })
		if err != nil {
			e.Problem(fmt.Sprintf("image %s: %v", name, err))
		}
	}
	needs := map[string][]string{}
	if e.o.Online != nil {
		needs = in.Config.Needs()
	}
	later := e.newWaits()
	for _, name := range in.Config.Order() {
		conf := in.Config.Container[name]
		if err := e.makeContainer(j, name, conf); err != nil {
			e.Problem(fmt.Sprintf("container %s: %v", name, err))
			continue
		}
		if len(needs[name]) > 0 {
			later.add(name, conf, needs[name])
			continue
		}
		e.launchContainer(j.Context(), name, conf)
	}
	e.startByPolicy(j)
	return nil, e.launched()
}

func sortedNames[V any](m map[string]V) []string {
	var names []string
	for n := range m {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// launchImage unpacks an image, unless the source is the one that it came from and the image is whole.
func (e *Engine) launchImage(j *job.Job, name, source string) error {
	stamp, err := sourceStamp(source)
	if err != nil {
		return err
	}
	key := "image/" + name
	if string(e.store.Meta(key)) == stamp {
		if img, err := e.Images.Get(name); err == nil && img.Damage == "" {
			return nil
		}
	}
	if _, err := job.Run[[]repo.Loaded](j.Context(), e.Jobs, "load", images.LoadIn{Path: source, Name: name}, job.Streams{}, source); err != nil {
		return err
	}
	return e.store.PutMeta(key, []byte(stamp))
}

// sourceStamp changes when the archive or the layout's index does.
func sourceStamp(source string) (string, error) {
	path := source
	st, err := os.Stat(path)
	if err == nil && st.IsDir() {
		path += "/index.json"
		st, err = os.Stat(path)
	}
	if err != nil {
		return "", fmt.Errorf("find source: %w", err)
	}
	return fmt.Sprintf("%s %d %d", source, st.Size(), st.ModTime().UnixNano()), nil
}

// makeContainer makes the container if it is not there, and makes it anew if its section or its image has changed.
func (e *Engine) makeContainer(j *job.Job, name string, conf configs.Container) error {
	in, err := request.FromSection(name, conf)
	if err != nil {
		return err
	}
	old, err := e.find(name)
	switch {
	case err == nil && old.Spec().Origin == "":
		return fmt.Errorf("a container with this name was made by hand: remove or rename it (coble rm -f %s)", name)
	case err == nil && (old.Spec().OriginHash != in.Hash || old.Spec().ImageID != e.Images.IDOf(conf.Image)):
		if err := job.Do(j.Context(), e.Jobs, "rm", RemoveIn{Ref: name, Force: true}, name); err != nil {
			return err
		}
		fallthrough
	case err != nil:
		_, err = job.Run[CreateOut](j.Context(), e.Jobs, "create", in, job.Streams{}, name)
		return err
	}
	return nil
}

// launchContainer starts a container of the file, unless this boot has started it already, and tells if that fails.
func (e *Engine) launchContainer(ctx context.Context, name string, conf configs.Container) {
	err := e.Boot.Span("start "+name, func() error { return e.startOnce(ctx, name, conf) })
	if err != nil {
		e.Problem(fmt.Sprintf("container %s: %v", name, err))
		return
	}
	go e.traceAnswer(name)
}

func (e *Engine) startOnce(ctx context.Context, name string, conf configs.Container) error {
	c, err := e.find(name)
	if err != nil {
		return err
	}
	if v := c.View(); v.State.Run > 0 && !e.isFresh() {
		return nil
	}
	err = job.Do(ctx, e.Jobs, "start", name, name)
	if fault.KindOf(err) == fault.NotModified {
		return nil
	}
	if err != nil && conf.Restart != "no" {
		c.retryLater()
	}
	return err
}

// dropVanished removes containers whose section is no longer in the file. A section with a mistake is not gone.
func (e *Engine) dropVanished(j *job.Job, c configs.Config, spoiled map[string]bool) {
	for _, v := range e.Containers.Views() {
		name, ours := strings.CutPrefix(v.Origin, "container.")
		if _, there := c.Container[name]; !ours || there || spoiled[v.Origin] {
			continue
		}
		if err := job.Do(j.Context(), e.Jobs, "rm", RemoveIn{Ref: v.ID, Force: true}, v.Name); err != nil {
			e.Problem(fmt.Sprintf("remove container %s, which is not in the configuration any more: %v", v.Name, err))
		}
	}
}

// startByPolicy starts what ran before the machine or the daemon went down, on the first engine after that.
func (e *Engine) startByPolicy(j *job.Job) {
	if !e.isFresh() {
		return
	}
	views := e.Containers.Views()
	sort.Slice(views, func(i, j int) bool { return views[i].Created.Before(views[j].Created) })
	for _, v := range views {
		if v.Origin != "" || v.State.Running() || !wantedAtBoot(v) {
			continue
		}
		if err := job.Do(j.Context(), e.Jobs, "start", v.ID, v.Name); err != nil && fault.KindOf(err) != fault.NotModified {
			e.Problem(fmt.Sprintf("container %s: %v", v.Name, err))
		}
	}
}

// wantedAtBoot is pure: Docker's rule for containers at the daemon's start.
func wantedAtBoot(v containers.View) bool {
	switch v.Host.RestartPolicy.Name {
	case container.RestartPolicyAlways:
		return v.WantRunning || v.LastExit != nil && !v.LastExit.StartedAt.IsZero()
	case container.RestartPolicyUnlessStopped:
		return v.WantRunning
	case container.RestartPolicyOnFailure:
		return v.WantRunning && v.State.ExitCode != 0
	}
	return false
}

// answerLimit bounds how long a container's first answer is waited for.
const answerLimit = 2 * time.Minute

// traceAnswer notes when a container first listens on one of its published TCP ports, by looking at its own socket
// table: nothing is sent to it.
func (e *Engine) traceAnswer(name string) {
	v, err := e.Containers.View(name)
	if err != nil || v.State.Pid == 0 {
		return
	}
	start := boot.Uptime()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(answerLimit); time.Now().Before(deadline); {
		for _, p := range v.State.Ports {
			if p.Proto == "tcp" && listens(v.State.Pid, p.ContainerPort) {
				e.Boot.Add(boot.Mark{Name: name + " answers", Start: start, End: boot.Uptime()})
				return
			}
		}
		select {
		case <-tick.C:
		case <-e.ctx.Done():
			return
		}
	}
}

// listens says whether the process's network namespace has a listening TCP socket on the port (proc_pid_net(5)).
func listens(pid int, port uint16) bool {
	want := fmt.Sprintf(":%04X", port)
	for _, table := range []string{"tcp", "tcp6"} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, table))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) > 3 && strings.HasSuffix(f[1], want) && f[3] == "0A" {
				return true
			}
		}
	}
	return false
}

// retryLater plans another try for a container of the file whose start failed.
func (c *ctr) retryLater() {
	c.Op.Lock()
	defer c.Op.Unlock()
	c.scheduleRetry()
}
