package graph

import (
	"fmt"
	"strings"

	"go.etcd.io/bbolt"
)

// Check looks at every edge and says what is wrong: ends that are no nodes,
// and edges that only one of the two directions knows.
func (g Graph) Check() (bad []string) {
	one := func(from, other *bbolt.Bucket, way string) {
		if from == nil {
			return
		}
		c := from.Cursor()
		for k, _ := c.First(); k != nil; k, _ = c.Next() {
			f := strings.SplitN(string(k), "\x00", 3)
			if len(f) != 3 {
				bad = append(bad, fmt.Sprintf("%q is no edge", k))
				continue
			}
			for _, n := range []string{f[0], f[2]} {
				if !g.Has(n) {
					bad = append(bad, fmt.Sprintf("edge %q %s %s %s: there is no %s", f[1], f[0], way, f[2], n))
				}
			}
			if other == nil || other.Get(key(f[2], f[1], f[0])) == nil {
				bad = append(bad, fmt.Sprintf("edge %q %s %s %s is known in one direction only", f[1], f[0], way, f[2]))
			}
		}
	}
	one(g.out, g.in, "to")
	one(g.in, g.out, "from")
	return bad
}
