package keeper

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/init/keeper/reap"
)

// MaxExits is how many exits are remembered for the engine.
const MaxExits = 4096

// exitTable remembers exits in the order in which they happened.
type exitTable struct {
	entries []reap.Exit
	sent    int  // entries[:sent] went to the running engine
	marked  bool // READY was sent
	mark    int  // READY goes out once sent >= mark
}

func (t *exitTable) add(e reap.Exit) {
	if len(t.entries) >= MaxExits {
		t.remove(0)
	}
	t.entries = append(t.entries, e)
}

func (t *exitTable) remove(i int) {
	t.entries = append(t.entries[:i], t.entries[i+1:]...)
	if i < t.sent {
		t.sent--
	}
	if i < t.mark {
		t.mark--
	}
}

func (t *exitTable) forget(pid int, start uint64) {
	for i, e := range t.entries {
		if e.PID == pid && e.Start == start {
			t.remove(i)
			return
		}
	}
}

// rewind makes send begin anew, for a new engine.
func (t *exitTable) rewind() {
	t.sent, t.marked, t.mark = 0, false, len(t.entries)
}

func (t *exitTable) pending() bool { return !t.marked || t.sent < len(t.entries) }

// send writes as much to sock as goes without waiting.
func (t *exitTable) send(sock int) {
	if sock < 0 {
		return
	}
	for t.pending() {
		if !t.marked && t.sent >= t.mark {
			if !trySend(sock, "READY\n") {
				return
			}
			t.marked = true
			continue
		}
		e := t.entries[t.sent]
		if !trySend(sock, fmt.Sprintf("EXIT %d %d %d\n", e.PID, e.Start, e.Status)) {
			return
		}
		t.sent++
	}
}

func trySend(sock int, s string) bool {
	return unix.Send(sock, []byte(s), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL) == nil
}
