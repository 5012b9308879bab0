// Package render shows what the engine answered: as tables, trees and charts of text, in Graphviz's language, and as
// pictures (SVG). It is pure: data in, text out, and an error of the writer is not looked at.
package render

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
)

// Table writes aligned columns.
func Table(w io.Writer, rows [][]string) {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	for _, r := range rows {
		fmt.Fprintln(t, strings.Join(r, "\t"))
	}
	t.Flush()
}

// Ago is how long ago a time was, in words.
func Ago(t time.Time) string { return units.HumanDuration(time.Since(t)) + " ago" }

// Size is a number of bytes in four digits, with the unit of a thousand that fits.
func Size(n int64) string { return units.HumanSizeWithPrecision(float64(n), 4) }
