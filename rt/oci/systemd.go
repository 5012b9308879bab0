package oci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/coble-os/coble/sandbox"
	"github.com/coble-os/coble/sandbox/cgroup"
)

// jobLimit is how long systemd may take to start or stop a unit.
const jobLimit = 30 * time.Second

const (
	manager     = "org.freedesktop.systemd1"
	managerPath = "/org/freedesktop/systemd1"
	managerFace = "org.freedesktop.systemd1.Manager"
)

// scope is a transient unit of systemd (systemd.scope(5)) that holds a container's cgroup. systemd makes none without
// a process: a placeholder is in it until the container's own is. A nil scope is one of a container without systemd.
type scope struct {
	unit, path string
	guard      *sandbox.Placeholder
}

// startScope makes the unit that cgroupsPath names, as slice:prefix:name, with the limits that systemd keeps too.
func startScope(spec *specs.Spec, id string) (*scope, error) {
	slice, unit, err := unitName(spec.Linux.CgroupsPath, id)
	if err != nil {
		return nil, err
	}
	layout, err := cgroup.Detect()
	if err != nil {
		return nil, err
	}
	limits, err := unitLimits(spec.Linux.Resources, layout.Unified)
	if err != nil {
		return nil, err
	}
	s := &scope{unit: unit}
	if s.guard, err = sandbox.NewPlaceholder(); err != nil {
		return nil, err
	}
	props := append([]property{
		{"Description", dbus.MakeVariant("coble container " + id)},
		{"Slice", dbus.MakeVariant(slice)},
		{"Delegate", dbus.MakeVariant(true)},
		{"DefaultDependencies", dbus.MakeVariant(false)},
		{"PIDs", dbus.MakeVariant([]uint32{uint32(s.guard.Pid)})},
	}, limits...)
	if err := s.start(props); err != nil {
		return nil, errors.Join(fmt.Errorf("start systemd unit %s: %w", unit, err), s.stop())
	}
	return s, nil
}

// property is one of a unit's, as D-Bus has them.
type property struct {
	Name  string
	Value dbus.Variant
}

// auxUnit is a unit that another brings with it; none is used.
type auxUnit struct {
	Name  string
	Props []property
}

func (s *scope) start(props []property) error {
	b, err := dialBus()
	if err != nil {
		return err
	}
	defer b.close()
	start := func() error {
		return b.job(managerFace+".StartTransientUnit", s.unit, "replace", props, []auxUnit{})
	}
	err = start()
	var e dbus.Error
	if errors.As(err, &e) && e.Name == "org.freedesktop.systemd1.UnitExists" {
		// One that failed is kept by systemd until somebody has looked.
		_ = b.call(managerFace+".ResetFailedUnit", s.unit).Err // the second start tells
		err = start()
	}
	if err != nil {
		return err
	}
	s.path, err = b.controlGroup(s.unit)
	return err
}

// holder lists who is in the group before the container.
func (s *scope) holder() []int { return []int{s.guard.Pid} }

// letGo ends the placeholder: the container's process is in the unit now.
func (s *scope) letGo() error {
	if s == nil || s.guard == nil {
		return nil
	}
	g := s.guard
	s.guard = nil
	return g.End()
}

// stop ends the unit of a container that was not made.
func (s *scope) stop() error {
	if s == nil {
		return nil
	}
	return errors.Join(s.letGo(), stopUnit(s.unit))
}

// join puts a process into the hierarchies by which systemd follows its units on cgroup v1, which have no controllers.
func (s *scope) join(pid int) error {
	if s == nil {
		return nil
	}
	dirs, err := cgroup.Followed()
	if err != nil {
		return err
	}
	for _, d := range dirs {
		file := filepath.Join(d, s.path, "cgroup.procs")
		if err := os.WriteFile(file, fmt.Append(nil, pid), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("join systemd unit %s: %w", s.unit, err)
		}
	}
	return nil
}

// unitName takes slice:prefix:name apart. An empty path is system.slice:runc:ID.
func unitName(path, id string) (slice, unit string, err error) {
	if path == "" {
		return "system.slice", "runc-" + id + ".scope", nil
	}
	f := strings.Split(path, ":")
	if len(f) != 3 || f[2] == "" {
		return "", "", fmt.Errorf("expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got %q instead", path)
	}
	if slice = f[0]; slice == "" {
		slice = "system.slice"
	}
	if strings.HasSuffix(f[2], ".slice") {
		return "", "", fmt.Errorf("cgroupsPath %q: a slice holds no processes", path)
	}
	unit = f[2] + ".scope"
	if f[1] != "" {
		unit = f[1] + "-" + unit
	}
	return slice, unit, nil
}

// unitLimits are the limits that systemd would otherwise set back when it reloads (systemd.resource-control(5)).
func unitLimits(r *specs.LinuxResources, unified bool) ([]property, error) {
	if r == nil {
		return nil, nil
	}
	var out []property
	add := func(name string, v any) { out = append(out, property{name, dbus.MakeVariant(v)}) }
	if m := r.Memory; m != nil && m.Limit != nil {
		name := "MemoryLimit"
		if unified {
			name = "MemoryMax"
		}
		add(name, uint64(*m.Limit)) // -1 is none, and systemd's infinity
	}
	if m := r.Memory; m != nil && unified && m.Reservation != nil {
		add("MemoryLow", uint64(*m.Reservation))
	}
	if c := r.CPU; c != nil && c.Shares != nil && *c.Shares != 0 {
		if unified {
			add("CPUWeight", cgroup.Weight(*c.Shares))
		} else {
			add("CPUShares", *c.Shares)
		}
	}
	if c := r.CPU; c != nil && c.Quota != nil {
		add("CPUQuotaPerSecUSec", quotaPerSecond(c))
	}
	if p := r.Pids; p != nil && p.Limit != nil {
		limit := ^uint64(0)
		if *p.Limit > 0 {
			limit = uint64(*p.Limit)
		}
		add("TasksMax", limit)
	}
	return out, nil
}

// quotaPerSecond is a quota in microseconds of each second, in systemd's steps of ten milliseconds, rounded up.
func quotaPerSecond(c *specs.LinuxCPU) uint64 {
	period := uint64(100000)
	if c.Period != nil && *c.Period != 0 {
		period = *c.Period
	}
	if *c.Quota <= 0 {
		return ^uint64(0)
	}
	const step = 10000
	return (uint64(*c.Quota)*1000000/period + step - 1) / step * step
}

// setUnitLimits changes the limits of a unit; "" is none.
func setUnitLimits(unit string, r *specs.LinuxResources, unified bool) error {
	props, err := unitLimits(r, unified)
	if err != nil || unit == "" || len(props) == 0 {
		return err
	}
	b, err := dialBus()
	if err != nil {
		return err
	}
	defer b.close()
	if err := b.call(managerFace+".SetUnitProperties", unit, true, props).Err; err != nil {
		return fmt.Errorf("set limits of systemd unit %s: %w", unit, err)
	}
	return nil
}

// stopUnit stops a unit; one that is gone is none, and "" neither.
func stopUnit(unit string) error {
	if unit == "" {
		return nil
	}
	b, err := dialBus()
	if err != nil {
		return err
	}
	defer b.close()
	err = b.job(managerFace+".StopUnit", unit, "replace")
	var e dbus.Error
	if errors.As(err, &e) && e.Name == "org.freedesktop.systemd1.NoSuchUnit" {
		return nil
	}
	if err != nil {
		return fmt.Errorf("stop systemd unit %s: %w", unit, err)
	}
	return nil
}

// bus is a connection with systemd.
type bus struct {
	conn *dbus.Conn
	obj  dbus.BusObject
	jobs chan *dbus.Signal
	ctx  context.Context
	end  context.CancelFunc
}

func dialBus() (*bus, error) {
	ctx, end := context.WithTimeout(context.Background(), jobLimit)
	conn, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		end()
		return nil, fmt.Errorf("connect to the system bus, for --systemd-cgroup: %w", err)
	}
	b := &bus{conn: conn, obj: conn.Object(manager, managerPath), jobs: make(chan *dbus.Signal, 64), ctx: ctx, end: end}
	conn.Signal(b.jobs)
	match := "type='signal',interface='" + managerFace + "',member='JobRemoved'"
	err = conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.AddMatch", 0, match).Err
	if err == nil {
		err = b.call(managerFace + ".Subscribe").Err
	}
	if err != nil {
		b.close()
		return nil, fmt.Errorf("listen to systemd: %w", err)
	}
	return b, nil
}

func (b *bus) close() {
	b.end()
	_ = b.conn.Close() // nothing is lost with it
}

func (b *bus) call(method string, args ...any) *dbus.Call {
	return b.obj.CallWithContext(b.ctx, method, 0, args...)
}

// job starts a job and waits for its end.
func (b *bus) job(method string, args ...any) error {
	var path dbus.ObjectPath
	if err := b.call(method, args...).Store(&path); err != nil {
		return err
	}
	for {
		select {
		case s, ok := <-b.jobs:
			if !ok {
				return errors.New("the system bus is gone")
			}
			if s.Name != managerFace+".JobRemoved" || len(s.Body) < 4 || s.Body[1] != path {
				continue
			}
			if s.Body[3] != "done" {
				return fmt.Errorf("job ended as %v", s.Body[3])
			}
			return nil
		case <-b.ctx.Done():
			return b.ctx.Err()
		}
	}
}

// controlGroup asks where the cgroup of a scope is.
func (b *bus) controlGroup(unit string) (string, error) {
	var path dbus.ObjectPath
	if err := b.call(managerFace+".GetUnit", unit).Store(&path); err != nil {
		return "", err
	}
	var v dbus.Variant
	err := b.conn.Object(manager, path).CallWithContext(b.ctx, "org.freedesktop.DBus.Properties.Get", 0,
		manager+".Scope", "ControlGroup").Store(&v)
	if err != nil {
		return "", err
	}
	s, ok := v.Value().(string)
	if !ok || !filepath.IsAbs(s) {
		return "", fmt.Errorf("control group %v is no path", v.Value())
	}
	return s, nil
}
