package render

import (
	"fmt"
	"io"
	"strings"
)

// Mark is a step of the boot, in milliseconds since the kernel started.
type Mark struct {
	Name       string
	Start, End float64
}

func span(marks []Mark) (from, to float64) {
	if len(marks) == 0 {
		return 0, 1
	}
	from, to = marks[0].Start, marks[0].End
	for _, m := range marks {
		from, to = min(from, m.Start), max(to, m.End)
	}
	return from, max(to, from+1)
}

// Chart draws a bar for each step.
func Chart(w io.Writer, marks []Mark) {
	const width = 50
	from, to := span(marks)
	fmt.Fprintf(w, "%10s %9s  %-22s\n", "ms", "took ms", "step")
	for _, m := range marks {
		start := int((m.Start - from) / (to - from) * width)
		length := max(1, int((m.End-m.Start)/(to-from)*width))
		fmt.Fprintf(w, "%10.1f %9.1f  %-22s %s%s\n", m.Start-from, m.End-m.Start, m.Name, strings.Repeat(" ", start), strings.Repeat("█", length))
	}
}

// ChartSVG draws the same as a picture.
func ChartSVG(w io.Writer, marks []Mark) {
	const left, width, row = 210, 700, 22
	from, to := span(marks)
	fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="13">`+"\n", left+width+110, row*len(marks)+40)
	fmt.Fprintf(w, `<rect width="100%%" height="100%%" fill="white"/><text x="8" y="18" font-weight="bold">boot: %.0f ms from hand-off</text>`+"\n", to-from)
	for i, m := range marks {
		y := 30 + i*row
		x := left + (m.Start-from)/(to-from)*width
		length := max(2, (m.End-m.Start)/(to-from)*width)
		fmt.Fprintf(w, `<text x="8" y="%d">%s</text><rect x="%.1f" y="%d" width="%.1f" height="16" fill="#3b7dd8"/><text x="%.1f" y="%d" fill="#555">%.1f ms</text>`+"\n",
			y+13, escape(m.Name), x, y, length, x+length+4, y+13, m.End-m.Start)
	}
	fmt.Fprintln(w, "</svg>")
}

func escape(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(s)
}
