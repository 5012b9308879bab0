package api

import (
	"context"
	"net/http"
	"strings"

	"github.com/moby/moby/api/types/network"

	"github.com/coble-os/coble/rt/job"
	"github.com/coble-os/coble/rt/networkdriver"
	"github.com/coble-os/coble/rt/networks"
)

func (s *Server) networkRoutes() {
	s.route("GET /networks", s.listNetworks)
	s.route("GET /networks/{name}", s.inspectNetwork)
	s.route("POST /networks/create", s.createNetwork)
	s.route("DELETE /networks/{name}", s.byName("network-rm"))
	s.route("POST /networks/{name}/connect", s.connectNetwork)
	s.route("POST /networks/{name}/disconnect", s.disconnectNetwork)
	s.route("POST /networks/prune", s.pruneNetworks)
	s.route("GET /coble/net", s.netView)
}

// netView is coble's own: who is connected to what, with counts.
func (s *Server) netView(w http.ResponseWriter, r *http.Request) error {
	v, err := s.e.Net.View()
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, v)
}

func (s *Server) listNetworks(w http.ResponseWriter, r *http.Request) error {
	f, err := readFilters(r, "dangling", "driver", "id", "label", "name", "scope", "type")
	if err != nil {
		return err
	}
	list := []network.Inspect{}
	for _, n := range s.e.Net.Networks() {
		kind := "custom"
		if networks.Predefined(n.Name) {
			kind = "builtin"
		}
		unused := "true"
		if kind == "builtin" || len(s.e.Net.Members(n.ID)) > 0 {
			unused = "false"
		}
		if f.any("driver", n.Driver) && f.has("id", n.ID) && f.labels("label", n.Labels) && f.has("name", n.Name) && f.any("scope", n.Scope) &&
			f.any("type", kind) && f.anyBool("dangling", unused) {
			list = append(list, network.Inspect{Network: n, Containers: map[string]network.EndpointResource{}})
		}
	}
	return reply(w, http.StatusOK, list)
}

// has says whether the filter is not set, or one of its values is a part of s, as Docker looks for networks.
func (f filters) has(key, s string) bool {
	for _, v := range f[key] {
		if strings.Contains(s, v) {
			return true
		}
	}
	return len(f[key]) == 0
}

// anyBool is any for "true" and "false", which may also be 1 and 0.
func (f filters) anyBool(key, value string) bool {
	digit := map[string]string{"true": "1", "false": "0"}[value]
	return f.any(key, value) || f.any(key, digit)
}

func (s *Server) inspectNetwork(w http.ResponseWriter, r *http.Request) error {
	n, err := s.e.Net.Network(r.PathValue("name"))
	if err != nil {
		return err
	}
	out := network.Inspect{Network: n, Containers: map[string]network.EndpointResource{}}
	for _, m := range s.e.Net.Members(n.ID) {
		out.Containers[m.ID] = network.EndpointResource{
			Name: m.Name, EndpointID: s.e.Net.EndpointID(m.ID, n.ID), MacAddress: hardwareAddr(m.End.MAC), IPv4Address: m.End.V4, IPv6Address: m.End.V6,
		}
	}
	return reply(w, http.StatusOK, out)
}

// createNetworkRequest is the API's, whose two switches may be left out.
type createNetworkRequest struct {
	network.Network
	EnableIPv4, EnableIPv6 *bool
	IPAM                   *network.IPAM
}

func (s *Server) createNetwork(w http.ResponseWriter, r *http.Request) error {
	var req createNetworkRequest
	if err := decode(r, &req); err != nil {
		return err
	}
	n := req.Network
	n.EnableIPv4 = req.EnableIPv4 == nil || *req.EnableIPv4
	n.EnableIPv6 = req.EnableIPv6 != nil && *req.EnableIPv6
	if req.IPAM != nil {
		n.IPAM = *req.IPAM
	}
	n, err := job.Run[network.Network](r.Context(), s.e.Jobs, "network-create", n, job.Streams{}, n.Name)
	if err != nil {
		return err
	}
	return reply(w, http.StatusCreated, network.CreateResponse{ID: n.ID})
}

func (s *Server) connectNetwork(w http.ResponseWriter, r *http.Request) error {
	var req network.ConnectRequest
	if err := decode(r, &req); err != nil {
		return err
	}
	in := networkdriver.ConnectIn{Network: r.PathValue("name"), Container: req.Container, Settings: req.EndpointConfig}
	return s.ok(w, r, "network-connect", in, in.Network, in.Container)
}

func (s *Server) disconnectNetwork(w http.ResponseWriter, r *http.Request) error {
	var req struct {
		Container string
		Force     bool
	}
	if err := decode(r, &req); err != nil {
		return err
	}
	in := networkdriver.DisconnectIn{Network: r.PathValue("name"), Container: req.Container, Force: req.Force}
	return s.ok(w, r, "network-disconnect", in, in.Network, in.Container)
}

// ok runs a job without a result and answers 200.
func (s *Server) ok(w http.ResponseWriter, r *http.Request, name string, in any, args ...string) error {
	if err := job.Do(context.WithoutCancel(r.Context()), s.e.Jobs, name, in, args...); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

func (s *Server) pruneNetworks(w http.ResponseWriter, r *http.Request) error {
	f, err := readFilters(r, "label", "label!", "until")
	if err != nil {
		return err
	}
	until, err := pruneUntil(f)
	if err != nil {
		return err
	}
	gone, err := job.Run[[]string](r.Context(), s.e.Jobs, "network-prune", networkdriver.PruneNetworksIn{Until: until, Want: f.wantLabels}, job.Streams{})
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, network.PruneReport{NetworksDeleted: gone})
}
