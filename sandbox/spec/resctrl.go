package spec

import (
	"fmt"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/coble-os/coble/sandbox/plan"
)

// ResctrlGroup turns the spec's wish for a container into a group (OCI runtime spec, config-linux.md, "Intel RDT").
func ResctrlGroup(id string, r *specs.LinuxIntelRdt) (*plan.Resctrl, error) {
	g := &plan.Resctrl{Group: r.ClosID, Given: r.ClosID != "", Schemata: r.Schemata}
	if !g.Given {
		g.Group = id
	}
	if len(g.Schemata) == 0 {
		for _, s := range []string{r.L3CacheSchema, r.MemBwSchema} {
			if s != "" {
				g.Schemata = append(g.Schemata, s)
			}
		}
	}
	if r.EnableMonitoring {
		g.Monitor = id
	}
	for _, name := range []string{g.Group, g.Monitor} {
		if !resctrlName(name) && (name != "" || name == g.Group) {
			return nil, fmt.Errorf("linux.intelRdt: %q is no name of a group", name)
		}
	}
	for _, s := range g.Schemata {
		if strings.ContainsAny(s, "\n\x00") {
			return nil, fmt.Errorf("linux.intelRdt: schema %q has more than one line", s)
		}
	}
	return g, nil
}

func resctrlName(s string) bool {
	switch s {
	case "", ".", "..", "info", "mon_groups", "mon_data":
		return false
	}
	return !strings.ContainsAny(s, "/\n\x00")
}
