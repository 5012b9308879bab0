package request

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"github.com/coble-os/coble/configs"
	"github.com/coble-os/coble/rt/store"
)

// FromSection turns a section of the TOML file into a request.
func FromSection(name string, c configs.Container) (Create, error) {
	in := Create{Name: name, Origin: "container." + name, Hash: hashOf(c), Listen: c.Listen}
	in.Bandwidth = store.Bandwidth{In: uint64(c.BandwidthIn), Out: uint64(c.BandwidthOut)}
	in.Config = container.Config{
		Image: c.Image, Entrypoint: c.Entrypoint, Cmd: c.Command, Labels: c.Labels, Hostname: c.Hostname, WorkingDir: c.WorkingDir,
		User: c.User, StopSignal: c.StopSignal, StopTimeout: c.StopSeconds,
	}
	if in.Config.Hostname == "" && c.Network != "host" {
		in.Config.Hostname = name
	}
	for _, k := range slices.Sorted(maps.Keys(c.Env)) {
		in.Config.Env = append(in.Config.Env, k+"="+c.Env[k])
	}
	policy, retries, err := configs.ParseRestart(c.Restart)
	if err != nil {
		return in, err
	}
	in.Host = container.HostConfig{
		Binds: c.Mounts, CapAdd: c.CapAdd, CapDrop: c.CapDrop, ReadonlyRootfs: c.ReadOnly, NetworkMode: container.NetworkMode(c.Network),
		RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyMode(policy), MaximumRetryCount: retries},
		SecurityOpt:   []string{"no-new-privileges"},
	}
	if err := addHardware(&in.Host, c); err != nil {
		return in, err
	}
	if c.Init {
		in.Host.Init = &c.Init
	}
	in.Host.Memory, in.Host.NanoCPUs = int64(c.Memory), int64(c.CPUs*1e9)
	if c.Memory > 0 {
		in.Host.MemorySwap = int64(c.Memory)
	}
	if c.Disk != 0 {
		in.Host.StorageOpt = map[string]string{"size": strconv.FormatInt(int64(c.Disk), 10)}
	}
	if c.Pids > 0 {
		in.Host.PidsLimit = &c.Pids
	}
	if len(c.Tmpfs) > 0 {
		in.Host.Tmpfs = map[string]string{}
	}
	for _, t := range c.Tmpfs {
		path, opts, _ := strings.Cut(t, ":")
		in.Host.Tmpfs[path] = opts
	}
	return in, addPorts(&in, c.Ports)
}

// addHardware sets what a service needs of the machine itself.
func addHardware(h *container.HostConfig, c configs.Container) error {
	h.Privileged, h.ShmSize, h.Sysctls = c.Privileged, int64(c.ShmSize), c.Sysctls
	if c.Privileged {
		h.SecurityOpt = nil
	}
	for _, s := range c.Devices {
		d, err := configs.ParseDevice(s)
		if err != nil {
			return err
		}
		h.Devices = append(h.Devices, container.DeviceMapping{PathOnHost: d.Host, PathInContainer: d.Container, CgroupPermissions: d.Access})
	}
	for _, name := range slices.Sorted(maps.Keys(c.Ulimits)) {
		u, err := units.ParseUlimit(name + "=" + c.Ulimits[name])
		if err != nil {
			return err
		}
		h.Ulimits = append(h.Ulimits, u)
	}
	return nil
}

func addPorts(in *Create, ports []string) error {
	for _, s := range ports {
		p, err := configs.ParsePort(s)
		if err != nil {
			return err
		}
		port, _ := network.PortFrom(p.Container, network.IPProtocol(p.Proto))
		b := network.PortBinding{HostPort: strconv.Itoa(int(p.Host))}
		if p.IP != "" {
			b.HostIP, _ = netip.ParseAddr(p.IP)
		}
		if in.Host.PortBindings == nil {
			in.Host.PortBindings, in.Config.ExposedPorts = network.PortMap{}, network.PortSet{}
		}
		in.Host.PortBindings[port] = append(in.Host.PortBindings[port], b)
		in.Config.ExposedPorts[port] = struct{}{}
	}
	return nil
}

// hashOf is pure: it changes when the section does, and not when a newer coble knows more keys, which would make every
// container anew. So only what is set counts.
func hashOf(c configs.Container) string {
	section := reflect.ValueOf(c)
	set := map[string]any{}
	for f, v := range section.Fields() {
		if !v.IsZero() {
			set[f.Name] = v.Interface()
		}
	}
	b, err := json.Marshal(set)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
