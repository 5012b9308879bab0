// Package render shows what the engine answered: as tables, trees and charts of text, in Graphviz's language, and as
// pictures (SVG). It is pure: data in, text out, and an error of the writer is not looked at.
package render

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Table writes aligned columns.
func Table(w io.Writer, rows [][]string) {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	for _, r := range rows {
		fmt.Fprintln(t, strings.Join(r, "\t"))
	}
	t.Flush()
}
