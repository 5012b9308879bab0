package daemon_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/moby/moby/api/types/network"
	"github.com/stretchr/testify/require"
)

const (
	manyPorts   = 1000
	portsBudget = 50 * time.Millisecond // of a start, for so many published ports rather than one
	portRounds  = 15
)

// TestThousandPorts measures starts with one and with a thousand ports in turns.
func TestThousandPorts(t *testing.T) {
	m := newMachine(t, "")
	m.loadBox()
	one, many := m.createPublished("one", 20000, 1), m.createPublished("many", 20001, manyPorts)
	var singles, costs []time.Duration
	for range portRounds {
		alone := m.timeStart(one)
		singles = append(singles, alone)
		costs = append(costs, m.timeStart(many)-alone)
	}
	t.Logf("a start with one port: %v; with %d: %v more (medians of %d)", middle(singles), manyPorts, middle(costs), portRounds)
	require.Less(t, middle(costs), portsBudget)
}

// createPublished makes a container in the default network that publishes n of the host's ports from first on.
func (m *machine) createPublished(name string, first, n int) string {
	return m.create(name, func(r *request) {
		r.HostConfig.NetworkMode = "bridge"
		r.HostConfig.PortBindings = network.PortMap{}
		for i := range n {
			p := network.MustParsePort(fmt.Sprintf("%d/tcp", 1+i))
			r.HostConfig.PortBindings[p] = []network.PortBinding{{HostPort: fmt.Sprint(first + i)}}
		}
	}, "sleep", "1000")
}

// timeStart starts a container that is stopped, and stops it again.
func (m *machine) timeStart(id string) time.Duration {
	began := time.Now()
	m.do("POST", "/containers/"+id+"/start", nil)
	took := time.Since(began)
	m.do("POST", "/containers/"+id+"/stop", nil)
	return took
}

func middle(d []time.Duration) time.Duration {
	return slices.Sorted(slices.Values(d))[len(d)/2]
}
