// Package request is pure: it checks what is asked for, by the API or by a section of the TOML file, and merges it with
// the image into a container's record. It knows nothing of what runs.
package request

import (
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/rt/fault"
	"github.com/coble-os/coble/rt/ocispec"
	"github.com/coble-os/coble/rt/store"
)

// Create asks for a container.
type Create struct {
	Name     string // empty: one is made up
	Config   container.Config
	Host     container.HostConfig
	Networks map[string]*network.EndpointSettings
	Platform string // os/architecture[/variant] that the image must be for; empty: any
	Origin   string // section of the TOML file
	Hash     string
	Listen   []string // where ports are reached from that name no address

	Bandwidth store.Bandwidth
}

// Record merges the image's configuration with the request.
func Record(in Create, img image.Image, id string, now time.Time) (store.Spec, error) {
	spec := store.Spec{
		ID: id, Name: in.Name, Created: now, Image: in.Config.Image, ImageID: img.ID.String(),
		Config: mergeConfig(in.Config, img), Host: in.Host, Networks: in.Networks, Origin: in.Origin, OriginHash: in.Hash, Listen: in.Listen, Bandwidth: in.Bandwidth,
	}
	cmd := slices.Concat(spec.Config.Entrypoint, spec.Config.Cmd)
	if len(cmd) == 0 || cmd[0] == "" {
		return spec, fault.New(fault.Invalid, "no command specified: give one, or use an image that has one")
	}
	spec.Path, spec.Args = cmd[0], cmd[1:]
	if spec.Config.Hostname == "" && !spec.Host.NetworkMode.IsHost() {
		spec.Config.Hostname = spec.ID[:12]
	}
	if spec.Host.NetworkMode == "" || spec.Host.NetworkMode == "default" {
		spec.Host.NetworkMode = "bridge"
	}
	// What the client says of "default" is meant for the network of that role.
	if end := spec.Networks["default"]; end != nil {
		delete(spec.Networks, "default")
		spec.Networks[string(spec.Host.NetworkMode)] = end
	}
	if spec.Networks == nil {
		spec.Networks = map[string]*network.EndpointSettings{}
	}
	if spec.Networks[string(spec.Host.NetworkMode)] == nil {
		spec.Networks[string(spec.Host.NetworkMode)] = &network.EndpointSettings{}
	}
	fillDefaults(&spec)
	return spec, nil
}

func fillDefaults(spec *store.Spec) {
	h := &spec.Host
	if h.ShmSize == 0 {
		h.ShmSize = 64 << 20
	}
	if h.IpcMode == "" {
		h.IpcMode = "private"
	}
	if h.CgroupnsMode == "" {
		h.CgroupnsMode = "private"
	}
	if h.LogConfig.Type == "" {
		h.LogConfig.Type = "json-file"
	}
	if h.LogConfig.Config == nil {
		h.LogConfig.Config = map[string]string{}
	}
	if h.RestartPolicy.Name == "" {
		h.RestartPolicy.Name = container.RestartPolicyDisabled
	}
	if h.MaskedPaths == nil && !h.Privileged {
		h.MaskedPaths = ocispec.DefaultMaskedPaths()
	}
	if h.ReadonlyPaths == nil && !h.Privileged {
		h.ReadonlyPaths = ocispec.DefaultReadonlyPaths()
	}
	if h.Memory > 0 && h.MemorySwap == 0 {
		h.MemorySwap = 2 * h.Memory
	}
	if h.PidsLimit != nil && *h.PidsLimit <= 0 {
		h.PidsLimit = nil
	}
}

// mergeConfig is pure: what the request leaves open comes from the image, as Docker merges it.
func mergeConfig(c container.Config, img image.Image) container.Config {
	from := img.Config
	if c.User == "" {
		c.User = from.User
	}
	if c.WorkingDir == "" {
		c.WorkingDir = from.WorkingDir
	}
	if c.StopSignal == "" {
		c.StopSignal = from.StopSignal
	}
	c.Env = MergeEnv(from.Env, c.Env)
	c.Labels = mergeMaps(from.Labels, c.Labels)
	if len(c.Entrypoint) == 0 && c.Entrypoint == nil {
		if len(c.Cmd) == 0 {
			c.Cmd = from.Cmd
		}
		c.Entrypoint = from.Entrypoint
	}
	// The client sends [""] to ask for no entrypoint at all.
	if len(c.Entrypoint) == 1 && c.Entrypoint[0] == "" {
		c.Entrypoint = nil
	}
	for p := range from.ExposedPorts {
		port, err := network.ParsePort(p)
		if err != nil {
			continue
		}
		if c.ExposedPorts == nil {
			c.ExposedPorts = network.PortSet{}
		}
		c.ExposedPorts[port] = struct{}{}
	}
	return c
}

// MergeEnv is pure: over, then what base has besides.
func MergeEnv(base, over []string) []string {
	out := slices.Clone(over)
	for _, kv := range base {
		key, _, _ := strings.Cut(kv, "=")
		if !slices.ContainsFunc(over, func(o string) bool { k, _, _ := strings.Cut(o, "="); return k == key }) {
			out = append(out, kv)
		}
	}
	return out
}

func mergeMaps(base, over map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range base {
		out[k] = v
	}
	for k, v := range over {
		out[k] = v
	}
	return out
}
