package retention

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/layers/image"
)

func TestExceeding(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	day := 24 * time.Hour
	sizes := map[string]int64{"base": 100, "a": 10, "b": 20, "c": 30}
	h := func(id string, age time.Duration, layers ...string) Holding {
		return Holding{ID: image.ID(id), Used: now.Add(-age), Layers: layers}
	}
	kept := func(h Holding) Holding { h.Kept = true; return h }
	a, b, c := h("a", 3*day, "base", "a"), h("b", 2*day, "base", "b"), h("c", day, "c")
	for _, tc := range []struct {
		name string
		l    Limits
		now  time.Time
		all  []Holding
		want []string
		over int64
	}{
		{name: "no limits", all: []Holding{a, b, c}},
		{name: "it holds", l: Limits{Max: 160, Unused: 4 * day}, all: []Holding{a, b, c}},
		{name: "a byte too many: the longest unused goes", l: Limits{Max: 159}, all: []Holding{c, b, a}, want: []string{"a " + string(TooMuch)}},
		{name: "a shared layer is freed by its last image only", l: Limits{Max: 149}, all: []Holding{a, b, c}, want: []string{"a " + string(TooMuch), "b " + string(TooMuch)}},
		{name: "one that is needed stays", l: Limits{Max: 155}, all: []Holding{kept(a), b, c}, want: []string{"b " + string(TooMuch)}},
		{name: "the limit can't hold", l: Limits{Max: 50}, all: []Holding{kept(a), b, c}, want: []string{"b " + string(TooMuch), "c " + string(TooMuch)}, over: 60},
		{name: "removing it frees nothing", l: Limits{Max: 120}, all: []Holding{kept(a), h("twin", 9*day, "base", "a"), c}, want: []string{"c " + string(TooMuch)}},
		{name: "an image without layers frees nothing", l: Limits{Max: 109}, all: []Holding{kept(a), h("empty", 9*day)}, over: 1},
		{name: "by age", l: Limits{Unused: 36 * time.Hour}, all: []Holding{a, b, c}, want: []string{"a " + string(TooOld), "b " + string(TooOld)}},
		{name: "just as old", l: Limits{Unused: 2 * day}, all: []Holding{b, c}},
		{name: "by age, but needed", l: Limits{Unused: day}, all: []Holding{kept(a), b}, want: []string{"b " + string(TooOld)}},
		{name: "age first, then size is measured", l: Limits{Max: 150, Unused: 60 * time.Hour}, all: []Holding{a, b, c}, want: []string{"a " + string(TooOld)}},
		{name: "just pulled", l: Limits{Max: 1, Unused: time.Minute}, all: []Holding{h("a", 9*time.Minute, "a")}, over: 9},
		{name: "settled", l: Limits{Max: 1}, all: []Holding{h("a", 11*time.Minute, "a")}, want: []string{"a " + string(TooMuch)}},
		{name: "a clock that was not set when it was used", l: Limits{Unused: day}, all: []Holding{{ID: "a", Used: time.Unix(100, 0), Layers: []string{"a"}}}},
		{name: "a clock that is not set", l: Limits{Unused: time.Second}, now: time.Unix(1e6, 0), all: []Holding{{ID: "a", Used: time.Unix(100, 0), Layers: []string{"a"}}}},
		{name: "a clock that ran ahead", l: Limits{Max: 1, Unused: day}, all: []Holding{h("a", -400*day, "a")}, want: []string{"a " + string(TooMuch)}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.now.IsZero() {
				tc.now = now
			}
			out, over := Exceeding(tc.l, tc.now, tc.all, sizes)
			var got []string
			for _, x := range out {
				got = append(got, x.ID.String()+" "+string(x.Why))
			}
			require.Equal(t, tc.want, got)
			require.Equal(t, tc.over, over)
		})
	}
}
