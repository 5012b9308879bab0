package api

import (
	"fmt"
	"net/http"

	"github.com/coble-os/coble/rt/fault"
)

// emptyRoutes answer for objects that this engine does not keep: lists are empty and names are not found, so that
// clients which look everywhere for a name get on.
func (s *Server) emptyRoutes() {
	s.route("GET /volumes", func(w http.ResponseWriter, r *http.Request) error {
		return reply(w, http.StatusOK, map[string]any{"Volumes": []string{}, "Warnings": nil})
	})
	s.route("GET /networks", s.listNetworks)
	for _, kind := range []string{"volume", "network"} {
		s.route("GET /"+kind+"s/{name}", func(w http.ResponseWriter, r *http.Request) error {
			return &fault.Error{Kind: fault.NotFound, Err: fmt.Errorf("%s %s not found", kind, r.PathValue("name"))}
		})
	}
	for _, kind := range []string{"nodes", "services", "tasks", "secrets", "configs", "swarm"} {
		s.route("GET /"+kind, func(w http.ResponseWriter, r *http.Request) error {
			return reply(w, http.StatusServiceUnavailable, map[string]string{"message": "This node is not a swarm manager. coble has no swarm mode."})
		})
	}
}

func (s *Server) listNetworks(w http.ResponseWriter, r *http.Request) error {
	subnet, gateway := s.e.Network()
	type ipam struct{ Subnet, Gateway string }
	list := []map[string]any{}
	for _, name := range []string{"bridge", "host", "none"} {
		driver, conf := name, []ipam{}
		switch name {
		case "bridge":
			conf = []ipam{{subnet.String(), gateway.String()}}
		case "none":
			driver = "null"
		}
		list = append(list, map[string]any{
			"Name": name, "Id": s.e.NetworkID(name), "Scope": "local", "Driver": driver, "EnableIPv6": false, "Internal": false,
			"IPAM": map[string]any{"Driver": "default", "Config": conf}, "Containers": map[string]any{}, "Options": map[string]string{}, "Labels": map[string]string{},
		})
	}
	return reply(w, http.StatusOK, list)
}
