package api

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/storage"

	"github.com/coble-os/coble/rt/containers"
	"github.com/coble-os/coble/rt/images"
	"github.com/coble-os/coble/rt/job"
	"github.com/coble-os/coble/rt/names"
	"github.com/coble-os/coble/rt/networkdriver"
	"github.com/coble-os/coble/rt/networks"
)

func replyBody(w http.ResponseWriter, v any) error {
	return json.NewEncoder(w).Encode(v)
}

func addrOrAny(s string) netip.Addr {
	if a, err := netip.ParseAddr(s); err == nil {
		return a
	}
	return netip.IPv4Unspecified()
}

func (s *Server) inspectContainer(w http.ResponseWriter, r *http.Request) error {
	v, err := s.e.Containers.View(r.PathValue("name"))
	if err != nil {
		return err
	}
	resp := s.inspect(v)
	if flag(r, "size") {
		sz, err := job.Run[images.Sizes](r.Context(), s.e.Jobs, "size", v.ID, job.Streams{}, v.Name)
		if err != nil {
			return err
		}
		resp.SizeRw, resp.SizeRootFs = &sz.Written, &sz.Root
	}
	return reply(w, http.StatusOK, struct {
		container.InspectResponse
		Bandwidth networkdriver.Bandwidth `json:",omitzero"` // coble's own
	}{resp, v.Bandwidth})
}

func (s *Server) inspect(v containers.View) container.InspectResponse {
	run := filepath.Join(s.e.Options().Run, "c", v.ID)
	driver, _ := s.e.Images.Driver()
	return container.InspectResponse{
		ID: v.ID, Created: v.Created.Format(time.RFC3339Nano), Path: v.Path, Args: orEmpty(v.Args), State: wireState(v), Image: v.ImageID,
		ResolvConfPath: filepath.Join(run, "resolv.conf"), HostnamePath: filepath.Join(run, "hostname"), HostsPath: filepath.Join(run, "hosts"),
		LogPath: filepath.Join(s.e.Options().Root, "containers", v.ID, "log"), Name: "/" + v.Name, RestartCount: v.State.RestartCount,
		Driver: driver, ExecIDs: s.e.Exec.ExecIDs(v.ID), Platform: "linux", HostConfig: &v.Host, Config: &v.Config, Mounts: mountPoints(v),
		GraphDriver:     &storage.DriverData{Name: driver, Data: map[string]string{}},
		NetworkSettings: &container.NetworkSettings{SandboxID: v.ID, SandboxKey: sandboxKey(v), Ports: portMap(v), Networks: s.networks(v)},
	}
}

func sandboxKey(v containers.View) string {
	if v.State.Pid == 0 {
		return ""
	}
	return fmt.Sprintf("/proc/%d/ns/net", v.State.Pid)
}

func wireState(v containers.View) *container.State {
	st := v.State
	return &container.State{
		Status: st.Status, Running: running(st.Status), Paused: st.Status == container.StatePaused, Restarting: st.Status == container.StateRestarting,
		OOMKilled: st.OOMKilled, Pid: st.Pid, ExitCode: st.ExitCode, Error: st.Error,
		StartedAt: st.StartedAt.Format(time.RFC3339Nano), FinishedAt: st.FinishedAt.Format(time.RFC3339Nano),
	}
}

func running(s container.ContainerState) bool {
	return s == container.StateRunning || s == container.StatePaused || s == container.StateRestarting
}

// networks fills the endpoints with what a running container has.
func (s *Server) networks(v containers.View) map[string]*network.EndpointSettings {
	out := map[string]*network.EndpointSettings{}
	for name, asked := range v.Networks {
		end := *asked.Copy()
		if n, err := s.e.Net.Network(name); err == nil {
			end.NetworkID = n.ID
		}
		if len(end.Aliases) == 0 {
			end.Aliases = nil
		}
		for _, have := range v.State.Ends {
			if have.Name != name || v.State.Pid == 0 {
				continue
			}
			gateway4, gateway6 := s.e.Net.Gateways(have.Network)
			end.EndpointID = s.e.Net.EndpointID(v.ID, have.Network)
			end.IPAddress, end.GlobalIPv6Address, end.MacAddress = have.V4.Addr(), have.V6.Addr(), hardwareAddr(have.MAC)
			if have.V4.IsValid() {
				end.Gateway, end.IPPrefixLen = gateway4, have.V4.Bits()
			}
			if have.V6.IsValid() {
				end.IPv6Gateway, end.GlobalIPv6PrefixLen = gateway6, have.V6.Bits()
			}
		}
		if v.Host.NetworkMode.IsUserDefined() || !networks.Predefined(name) {
			end.DNSNames = names.Of(v, name)
		}
		out[name] = &end
	}
	return out
}

// hardwareAddr reads a link's address; none stays none.
func hardwareAddr(s string) network.HardwareAddr {
	mac, err := net.ParseMAC(s)
	if err != nil {
		return nil
	}
	return network.HardwareAddr(mac)
}

// mountPoints are the binds and tmpfs mounts that were asked for.
func mountPoints(v containers.View) []container.MountPoint {
	out := []container.MountPoint{}
	for _, b := range v.Host.Binds {
		p := strings.Split(b, ":")
		if len(p) < 2 {
			continue
		}
		mode := strings.Join(p[2:], ":")
		out = append(out, container.MountPoint{Type: "bind", Source: p[0], Destination: p[1], Mode: mode, RW: !slices.Contains(strings.Split(mode, ","), "ro"), Propagation: "rprivate"})
	}
	for _, m := range v.Host.Mounts {
		out = append(out, container.MountPoint{Type: m.Type, Source: m.Source, Destination: m.Target, RW: !m.ReadOnly, Propagation: "rprivate"})
	}
	return out
}

func orEmpty(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

func (s *Server) listContainers(w http.ResponseWriter, r *http.Request) error {
	f, err := readFilters(r, "ancestor", "before", "expose", "exited", "health", "id", "is-task", "isolation", "label", "name", "network", "publish", "since", "status", "volume")
	if err != nil {
		return err
	}
	limit, _ := strconv.Atoi(r.FormValue("limit"))
	all := flag(r, "all") || limit > 0 || len(f["status"]) > 0 || len(f["exited"]) > 0
	views := s.e.Containers.Views()
	sort.Slice(views, func(i, j int) bool { return views[i].Created.After(views[j].Created) })
	keep, err := s.listFilter(f, views)
	if err != nil {
		return err
	}
	out := []container.Summary{}
	for _, v := range views {
		if !all && !running(v.State.Status) || !keep(v) {
			continue
		}
		if limit > 0 && len(out) == limit {
			break
		}
		sum := s.summary(v)
		if flag(r, "size") {
			if sz, err := job.Run[images.Sizes](r.Context(), s.e.Jobs, "size", v.ID, job.Streams{}, v.Name); err == nil {
				sum.SizeRw, sum.SizeRootFs = sz.Written, sz.Root
			}
		}
		out = append(out, sum)
	}
	return reply(w, http.StatusOK, out)
}

// listFilter compiles the filters of `ps`.
func (s *Server) listFilter(f filters, views []containers.View) (func(containers.View) bool, error) {
	for _, st := range f["status"] {
		if err := container.ValidateContainerState(container.ContainerState(st)); err != nil {
			return nil, invalid("%v", err)
		}
	}
	for _, x := range f["exited"] {
		if _, err := strconv.Atoi(x); err != nil {
			return nil, invalid("invalid filter 'exited=%s'", x)
		}
	}
	created := func(key string) (time.Time, error) {
		if len(f[key]) == 0 {
			return time.Time{}, nil
		}
		v, err := s.e.Containers.View(f[key][0])
		return v.Created, err
	}
	before, err := created("before")
	if err != nil {
		return nil, err
	}
	since, err := created("since")
	if err != nil {
		return nil, err
	}
	ancestors := map[string]bool{}
	for _, a := range f["ancestor"] {
		if id := s.e.Images.IDOf(a); id != "" {
			ancestors[id] = true
		}
	}
	return func(v containers.View) bool {
		return (before.IsZero() || v.Created.Before(before)) && (since.IsZero() || v.Created.After(since)) &&
			f.any("status", string(v.State.Status)) && f.labels("label", v.Config.Labels) &&
			(len(f["exited"]) == 0 || v.State.Status == container.StateExited && slices.Contains(f["exited"], strconv.Itoa(v.State.ExitCode))) &&
			(f.match("name", "/"+v.Name) || f.match("name", v.Name)) && f.match("id", v.ID) && idPrefix(f["id"], v.ID) &&
			(len(f["ancestor"]) == 0 || ancestors[v.ImageID] || slices.Contains(f["ancestor"], v.Image)) &&
			f.any("network", string(v.Host.NetworkMode)) && (len(f["volume"]) == 0 || hasVolume(v, f["volume"])) && len(f["health"]) == 0
	}, nil
}

func idPrefix(want []string, id string) bool {
	return len(want) == 0 || slices.ContainsFunc(want, func(w string) bool { return strings.HasPrefix(id, w) })
}

func hasVolume(v containers.View, want []string) bool {
	return slices.ContainsFunc(mountPoints(v), func(m container.MountPoint) bool {
		return slices.Contains(want, m.Source) || slices.Contains(want, m.Destination) || slices.Contains(want, m.Name)
	})
}

func (s *Server) summary(v containers.View) container.Summary {
	sum := container.Summary{
		ID: v.ID, Names: []string{"/" + v.Name}, Image: v.Image, ImageID: v.ImageID, Command: strings.Join(append([]string{v.Path}, v.Args...), " "),
		Created: v.Created.Unix(), Labels: v.Config.Labels, State: v.State.Status, Status: humanStatus(v, time.Now()), Mounts: mountPoints(v),
		NetworkSettings: &container.NetworkSettingsSummary{Networks: s.networks(v)}, Ports: []container.PortSummary{},
	}
	sum.HostConfig.NetworkMode = string(v.Host.NetworkMode)
	published := map[string]bool{}
	for _, l := range v.State.Ports {
		published[fmt.Sprint(l.ContainerPort, l.Proto)] = true
		sum.Ports = append(sum.Ports, container.PortSummary{IP: addrOrAny(l.HostIP), PrivatePort: l.ContainerPort, PublicPort: l.HostPort, Type: l.Proto})
	}
	for p := range v.Config.ExposedPorts {
		if v.State.Pid != 0 && !published[fmt.Sprint(p.Num(), string(p.Proto()))] {
			sum.Ports = append(sum.Ports, container.PortSummary{PrivatePort: p.Num(), Type: string(p.Proto())})
		}
	}
	sort.Slice(sum.Ports, func(i, j int) bool { return sum.Ports[i].PrivatePort < sum.Ports[j].PrivatePort })
	return sum
}

// humanStatus is the words of `ps`.
func humanStatus(v containers.View, now time.Time) string {
	st := v.State
	switch st.Status {
	case container.StateRunning:
		return "Up " + units.HumanDuration(now.Sub(st.StartedAt))
	case container.StatePaused:
		return "Up " + units.HumanDuration(now.Sub(st.StartedAt)) + " (Paused)"
	case container.StateRestarting:
		return fmt.Sprintf("Restarting (%d) %s ago", st.ExitCode, units.HumanDuration(now.Sub(st.FinishedAt)))
	case container.StateExited:
		return fmt.Sprintf("Exited (%d) %s ago", st.ExitCode, units.HumanDuration(now.Sub(st.FinishedAt)))
	case container.StateCreated:
		return "Created"
	}
	return string(st.Status)
}
