// Package retention decides which images go so that limits of size and age
// hold. It is pure: what images take, when they were used and what the time is
// are its caller's to say, and so is the removal.
package retention

import (
	"slices"
	"sort"
	"time"

	"github.com/coble-os/coble/layers/image"
)

// Limits of what is kept. Zero values are none.
type Limits struct {
	Max    int64         // bytes of all images' layers, each layer once (logical sizes)
	Unused time.Duration // since an image's last use
}

// Holding is an image as what it takes.
type Holding struct {
	ID     image.ID
	Names  []string // familiar
	Used   time.Time
	Layers []string // the ids of its layers' chains
	Kept   bool     // it must stay, whatever the limits say
}

// Excess is an image that a limit takes away, and which.
type Excess struct {
	Holding
	Why Why
}

// Why an image goes.
type Why string

// The limits' words.
const (
	TooOld  Why = "not used for too long"
	TooMuch Why = "images take too much room"
)

// UseEvery is how often at most an image's use is written down: a time of use
// may be wrong by that.
const UseEvery = 24 * time.Hour

// settle is how long an image stays after its last use in any case: whoever
// pulled it is about to make a container from it.
const settle = 10 * time.Minute

// clockSet is before any true time. A machine without a battery begins in 1970
// and learns the time later.
var clockSet = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)

// known tells whether a time of use can be compared with now.
func known(used, now time.Time) bool {
	return !now.Before(clockSet) && !used.Before(clockSet) && !used.After(now.Add(UseEvery))
}

// StaleUse tells whether a time of use says nothing, because the clock was not
// set then or ran ahead, though it is set now.
func (h Holding) StaleUse(now time.Time) bool {
	return !now.Before(clockSet) && !known(h.Used, now)
}

// Exceeding tells which images have to go so that the limits hold, the
// longest unused first. sizes are the bytes of each layer. An image whose
// removal would free nothing, since its layers are those of images that stay,
// goes by age alone. over is by how many bytes the limit does not hold even
// so.
func Exceeding(l Limits, now time.Time, all []Holding, sizes map[string]int64) (out []Excess, over int64) {
	all = slices.Clone(all)
	sort.SliceStable(all, func(i, j int) bool { return all[i].Used.Before(all[j].Used) })
	stays := func(h Holding) bool { return h.Kept || known(h.Used, now) && now.Sub(h.Used) < settle }
	users, needed := map[string]int{}, map[string]bool{}
	total := int64(0)
	for _, h := range all {
		for _, n := range h.Layers {
			if users[n]++; users[n] == 1 {
				total += sizes[n]
			}
			needed[n] = needed[n] || stays(h)
		}
	}
	drop := func(h Holding, why Why) {
		out = append(out, Excess{h, why})
		for _, n := range h.Layers {
			if users[n]--; users[n] == 0 {
				total -= sizes[n]
			}
		}
	}
	rest := all[:0]
	for _, h := range all {
		if l.Unused > 0 && !stays(h) && known(h.Used, now) && now.Sub(h.Used) > l.Unused {
			drop(h, TooOld)
			continue
		}
		rest = append(rest, h)
	}
	for _, h := range rest {
		frees := slices.ContainsFunc(h.Layers, func(n string) bool { return !needed[n] && sizes[n] > 0 })
		if l.Max > 0 && total > l.Max && !stays(h) && frees {
			drop(h, TooMuch)
		}
	}
	if l.Max > 0 && total > l.Max {
		over = total - l.Max
	}
	return out, over
}
