package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox/compiler"
)

// RunHooks runs hooks of one kind, such as "poststop", one after the other, on the host, as a child of this process:
// the state as JSON on standard input, nothing in the environment but their own. The first that fails, or takes longer
// than its timeout, ends it with an error that names it and has the end of what it wrote to standard error.
//
// The first five kinds are run by Start and Create, and StartCreated. Poststop is run by who removes the container.
func RunHooks(ctx context.Context, kind string, hooks []specs.Hook, state specs.State) error {
	if len(hooks) == 0 {
		return nil
	}
	text, err := json.Marshal(state)
	if err != nil {
		return fmt.Errorf("write state for %s hooks: %w", kind, err)
	}
	for _, h := range hooks {
		if err := runHook(ctx, h, text); err != nil {
			return fmt.Errorf("run %s hook %s: %w", kind, h.Path, err)
		}
	}
	return nil
}

// runHook runs one hook. What it prints goes to a file in memory, so that a process which it leaves behind holds
// nobody up.
func runHook(ctx context.Context, h specs.Hook, state []byte) error {
	in, err := memFile("state", state)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := memFile("output", nil)
	if err != nil {
		return err
	}
	defer out.Close()
	if h.Timeout != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(*h.Timeout)*time.Second)
		defer cancel()
	}
	p, err := startHook(h, in, out)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = p.Kill() }) // by pidfd: it fails only for one that has ended
	st, err := p.Wait()
	stop()
	switch {
	case err != nil:
		return err
	case st.Success():
		return nil
	case ctx.Err() != nil && h.Timeout != nil:
		return fmt.Errorf("timed out after %d s", *h.Timeout)
	}
	return fmt.Errorf("%s%s", st, lastOutput(out))
}

func startHook(h specs.Hook, in, out *os.File) (*os.Process, error) {
	args, env := h.Args, h.Env
	if len(args) == 0 {
		args = []string{h.Path}
	}
	if env == nil {
		env = []string{} // not this process's
	}
	p, err := os.StartProcess(h.Path, args, &os.ProcAttr{Env: env, Files: []*os.File{in, out, out}})
	var path *os.PathError
	if errors.As(err, &path) {
		err = path.Err // the caller names the hook
	}
	return p, err
}

// lastOutput is the end of what a hook wrote, for an error.
func lastOutput(f *os.File) string {
	const limit = 1024 // bytes
	st, err := f.Stat()
	if err != nil {
		return ""
	}
	b := make([]byte, min(limit, st.Size()))
	n, _ := f.ReadAt(b, max(0, st.Size()-limit)) // what can be read is what there is
	if s := strings.TrimSpace(string(b[:n])); s != "" {
		return ": " + s
	}
	return ""
}

// memFile makes a file in memory (memfd_create(2)). One with text can't be changed any more.
func memFile(name string, text []byte) (*os.File, error) {
	f, err := newMemFile(name)
	if err == nil && text != nil {
		if err = fill(f, text); err != nil {
			f.Close()
		}
	}
	return f, err
}

func newMemFile(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("make file in memory: %w", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// fill writes the text and seals the file.
func fill(f *os.File, text []byte) error {
	if _, err := f.Write(text); err != nil {
		return fmt.Errorf("write %s: %w", f.Name(), err)
	}
	if _, err := f.Seek(0, 0); err != nil {
		return fmt.Errorf("rewind %s: %w", f.Name(), err)
	}
	const seals = unix.F_SEAL_WRITE | unix.F_SEAL_GROW | unix.F_SEAL_SHRINK | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return fmt.Errorf("seal %s: %w", f.Name(), err)
	}
	return nil
}

// State is what hooks are told of a container.
func (c *Config) state(status specs.ContainerState, pid int) specs.State {
	return specs.State{
		Version: specs.Version, ID: c.ID, Status: status, Pid: pid, Bundle: c.Bundle, Annotations: c.Spec.Annotations,
	}
}

// hookFiles adds what the hooks in the child read, if there are any.
func (r *runner) hookFiles(h *specs.Hooks) error {
	if h == nil || len(h.CreateContainer)+len(h.StartContainer) == 0 {
		return nil
	}
	for i, name := range []string{compiler.StateCreating, compiler.StateCreated} {
		f, err := newMemFile(name)
		if err != nil {
			return err
		}
		r.keep(name, f)
		r.states[i] = f
	}
	return nil
}

// needsBarrier tells whether the parent has something to do before the child goes on.
func (c *Config) needsBarrier() bool {
	h := c.Spec.Hooks
	//lint:ignore SA1019 the field is deprecated, and honoured
	return c.Created != nil || h != nil && len(h.Prestart)+len(h.CreateRuntime)+len(h.CreateContainer)+len(h.StartContainer) > 0
}

// atBarrier is what the parent does while the child waits, its namespaces made. Poststop hooks run for a start that
// fails from here on.
func (c *Config) atBarrier(ctx context.Context, r *runner, pid int) error {
	for i, status := range []specs.ContainerState{specs.StateCreating, specs.StateCreated} {
		if r.states[i] == nil {
			continue
		}
		text, err := json.Marshal(c.state(status, pid))
		if err == nil {
			err = fill(r.states[i], text)
		}
		if err != nil {
			return fmt.Errorf("write state for hooks: %w", err)
		}
	}
	if c.Created != nil {
		if err := c.Created(pid); err != nil {
			return err
		}
	}
	h := c.Spec.Hooks
	if h == nil {
		return nil
	}
	r.hooked = true
	// Prestart hooks are from before there was a create, and are told "created" (runtime-tools' hooks_stdin, crun).
	//lint:ignore SA1019 the field is deprecated, and honoured
	if err := RunHooks(ctx, "prestart", h.Prestart, c.state(specs.StateCreated, pid)); err != nil {
		return err
	}
	return RunHooks(ctx, "createRuntime", h.CreateRuntime, c.state(specs.StateCreating, pid))
}

// poststart runs the poststart hooks. A container whose hook fails is killed.
func (c *Config) poststart(ctx context.Context, r *runner, p *Process) error {
	if c.Spec.Hooks == nil || len(c.Spec.Hooks.Poststart) == 0 {
		return nil
	}
	r.hooked = true
	err := RunHooks(ctx, "poststart", c.Spec.Hooks.Poststart, c.state(specs.StateRunning, p.Pid))
	if err == nil {
		return nil
	}
	return errors.Join(err, p.destroy())
}

// poststop runs the poststop hooks of a start that failed.
func (c *Config) poststop(ctx context.Context) error {
	return RunHooks(ctx, "poststop", c.Spec.Hooks.Poststop, c.state(specs.StateStopped, 0))
}
