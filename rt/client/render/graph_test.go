package render

import (
	"bytes"
	"encoding/xml"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func sample() *Graph {
	g := &Graph{
		Nodes: []Node{
			{Name: "container:c", Kind: "container", Label: "c"},
			{Name: "image:i", Kind: "image", Label: "i"},
			{Name: "layer:1", Kind: "layer", Label: "1 2MB"},
			{Name: "layer:2", Kind: "layer", Label: "2 3MB"},
			{Name: "name:a<b>:\"1\"", Kind: "name", Label: "a<b>:\"1\""},
			{Name: "path:/web", Kind: "path", Label: "/web"},
			{Name: "rw:c", Kind: "rw", Label: "c"},
		},
		Edges: []Use{
			{"path:/web", "is", "container:c"},
			{"container:c", "writes", "rw:c"},
			{"rw:c", "from", "image:i"},
			{"rw:c", "over", "layer:2"},
			{"name:a<b>:\"1\"", "names", "image:i"},
			{"image:i", "top", "layer:2"},
			{"layer:2", "parent", "layer:1"},
		},
	}
	g.index()
	return g
}

func TestGraphText(t *testing.T) {
	var b bytes.Buffer
	sample().Text(&b)
	require.Equal(t, `name a<b>:"1"
  names image i
    top layer 2 3MB
      parent layer 1 2MB
path /web
  is container c
    writes writable layer c
      from image i (see above)
      over layer 2 3MB (see above)
`, b.String())
	b.Reset()
	g := sample()
	g.About = "image:i"
	g.Text(&b)
	require.Equal(t, `image i (image:i)
is used by:
  from writable layer c
    writes container c
      is path /web
  names name a<b>:"1"
uses:
  top layer 2 3MB
    parent layer 1 2MB
`, b.String())
}

func TestGraphPictures(t *testing.T) {
	g := sample()
	require.Equal(t, map[string]int{"path:/web": 0, "container:c": 1, "rw:c": 2, "image:i": 3, "layer:2": 4, "layer:1": 5, "name:a<b>:\"1\"": 0}, g.ranks())
	g.Edges = append(g.Edges, Use{"layer:1", "odd", "layer:2"}) // a circle must not hang it
	g.index()
	var b bytes.Buffer
	g.SVG(&b)
	d := xml.NewDecoder(bytes.NewReader(b.Bytes()))
	boxes := 0
	for {
		tok, err := d.Token()
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		if e, ok := tok.(xml.StartElement); ok && e.Name.Local == "g" {
			boxes++
		}
	}
	require.Equal(t, len(g.Nodes), boxes)
	b.Reset()
	g.DOT(&b)
	dot, err := exec.LookPath("dot")
	if err != nil {
		require.Equal(t, len(g.Edges), strings.Count(b.String(), " -> "))
		return
	}
	c := exec.Command(dot, "-Tplain")
	c.Stdin = &b
	out, err := c.CombinedOutput()
	require.NoError(t, err, string(out))
	require.Equal(t, len(g.Edges), strings.Count(string(out), "\nedge "))
}
