package daemon_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
)

// BenchmarkCrowd measures what a client waits for, by the shipped binary, beside 1, 100 and 900 containers that sleep: from the
// request to start a container that is there until it runs, and until it has ended, without a network and with a bridge's. A bridge
// of Linux has room for 1,023 links. The kernel's clean-up after a container is waited for, since it would be timed as a part of the
// next start.
//
//	go test ./rt/daemon -run '^$' -bench Crowd -benchtime 60x
func BenchmarkCrowd(b *testing.B) {
	for _, network := range []string{"none", "bridge"} {
		b.Run(network, func(b *testing.B) { crowd(b, container.NetworkMode(network)) })
	}
}

func crowd(b *testing.B, network container.NetworkMode) {
	m := newMachine(b, "")
	m.stop()
	m.bootBinary(buildCoble(b))
	m.loadBox()
	on := func(r *request) { r.HostConfig.NetworkMode = network }
	sleeping := 0
	for _, n := range []int{1, 100, 900} {
		for ; sleeping < n; sleeping++ {
			m.start(fmt.Sprint("sleeper", sleeping), on, "sleep", "100000")
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var running, ended []time.Duration
			for b.Loop() {
				id := m.create("one", on, "true")
				time.Sleep(50 * time.Millisecond)
				began := time.Now()
				m.do("POST", "/containers/"+id+"/start", nil)
				running = append(running, time.Since(began))
				m.wait(id)
				ended = append(ended, time.Since(began))
				m.do("DELETE", "/containers/"+id, nil)
				time.Sleep(50 * time.Millisecond)
			}
			b.ReportMetric(middle(running).Seconds()*1000, "ms/start")
			b.ReportMetric(middle(ended).Seconds()*1000, "ms/exit")
		})
	}
}
