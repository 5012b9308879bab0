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
	s.route("GET /volumes/{name}", func(w http.ResponseWriter, r *http.Request) error {
		return &fault.Error{Kind: fault.NotFound, Err: fmt.Errorf("volume %s not found", r.PathValue("name"))}
	})
	for _, kind := range []string{"nodes", "services", "tasks", "secrets", "configs", "swarm"} {
		s.route("GET /"+kind, func(w http.ResponseWriter, r *http.Request) error {
			return reply(w, http.StatusServiceUnavailable, map[string]string{"message": "This node is not a swarm manager. coble has no swarm mode."})
		})
	}
}
