package configs

import (
	"bytes"
	"errors"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// document is the text on its way to a Config.
type document struct {
	name     string
	text     []byte // sections that are lost are blanked, so that positions stay true
	at       map[string]place
	problems []Problem
}

type place struct{ line, column int }

// section is a run of lines from a table's header to the next one's.
type section struct {
	path       []string
	start, end int // byte offsets
	line       int // of the header, from 1
}

func newDocument(name string, text []byte) *document {
	return &document{name: name, text: slices.Clone(text)}
}

// decode reads what it can: an error inside a container's or image's section costs that section.
func (d *document) decode() Config {
	for {
		var c Config
		dec := toml.NewDecoder(bytes.NewReader(d.text))
		dec.DisallowUnknownFields()
		err := dec.Decode(&c)
		if err == nil {
			d.index()
			return c
		}
		if !d.take(err) {
			d.index()
			c = Config{}
			toml.Unmarshal(d.text, &c)
			return c
		}
	}
}

// take notes an error; true means that something was blanked and decoding may be tried again.
func (d *document) take(err error) bool {
	var missing *toml.StrictMissingError
	if errors.As(err, &missing) {
		again := false
		for _, e := range missing.Errors {
			again = d.unknown(&e) || again
		}
		return again
	}
	var e *toml.DecodeError
	if !errors.As(err, &e) {
		d.problems = append(d.problems, Problem{File: d.name, Text: err.Error()})
		return false
	}
	line, col := e.Position()
	text := strings.TrimPrefix(e.Error(), "toml: ")
	if key := strings.Join(e.Key(), "."); key != "" {
		text = "key " + key + ": " + text
	}
	return d.lose(Problem{File: d.name, Line: line, Column: col, Text: text})
}

// unknown notes a key that the schema does not have.
func (d *document) unknown(e *toml.DecodeError) bool {
	line, col := e.Position()
	key := e.Key()
	text := "unknown key " + strings.Join(key, ".")
	if near := nearest(key[len(key)-1], knownKeys(key[:len(key)-1])); near != "" {
		text += `; did you mean "` + near + `"?`
	}
	return d.lose(Problem{File: d.name, Line: line, Column: col, Text: text})
}

// lose notes a problem and blanks what it spoils: the section of a container or an image, or else the line.
func (d *document) lose(p Problem) bool {
	for _, s := range d.sections() {
		if len(s.path) == 2 && (s.path[0] == "container" || s.path[0] == "image") && d.lineOf(s.start) <= p.Line && p.Line <= d.lineOf(s.end-1) {
			p.Section = strings.Join(s.path, ".")
			d.problems = append(d.problems, p)
			return blank(d.text[s.start:s.end])
		}
	}
	d.problems = append(d.problems, p)
	if p.Line == 0 {
		return false
	}
	start, end := d.lineBounds(p.Line)
	return blank(d.text[start:end])
}

func blank(b []byte) (changed bool) {
	for i := range b {
		if b[i] != '\n' && b[i] != ' ' {
			b[i], changed = ' ', true
		}
	}
	return changed
}

func (d *document) lineOf(offset int) int {
	return 1 + bytes.Count(d.text[:max(0, min(offset, len(d.text)))], []byte("\n"))
}

func (d *document) lineBounds(line int) (start, end int) {
	for range line - 1 {
		i := bytes.IndexByte(d.text[start:], '\n')
		if i < 0 {
			break
		}
		start += i + 1
	}
	if i := bytes.IndexByte(d.text[start:], '\n'); i >= 0 {
		return start, start + i
	}
	return start, len(d.text)
}

// sections finds the tables by their header lines, which works in a broken file too.
func (d *document) sections() []section {
	var all []section
	off, line := 0, 0
	for l := range bytes.Lines(d.text) {
		line++
		t := strings.TrimSpace(string(l))
		if path := headerPath(t); path != nil {
			if n := len(all); n > 0 {
				all[n-1].end = off
			}
			all = append(all, section{path: path, start: off, end: len(d.text), line: line})
		}
		off += len(l)
	}
	// [container.web.env] belongs to the section before it.
	var merged []section
	for _, s := range all {
		if n := len(merged); n > 0 && len(s.path) > 2 && slices.Equal(s.path[:2], merged[n-1].path) {
			merged[n-1].end = s.end
			continue
		}
		merged = append(merged, s)
	}
	return merged
}

// headerPath reads "[container.web] # text"; nil where the line is no header of a known table.
func headerPath(line string) []string {
	inner := strings.TrimLeft(line, "[") // [[x]] is one of several
	if inner == line {
		return nil
	}
	inner, _, ok := strings.Cut(inner, "]")
	if !ok {
		inner, _, _ = strings.Cut(inner, "#")
	}
	var path []string
	for part := range strings.SplitSeq(inner, ".") {
		path = append(path, strings.Trim(strings.TrimSpace(part), `"'`))
	}
	if !slices.Contains(knownKeys(nil), path[0]) {
		return nil
	}
	return path
}

// index notes where each key stands, and each table of a list by its number: link.eth0.routes.0.to.
func (d *document) index() {
	d.at = map[string]place{}
	var p unstable.Parser
	p.Reset(d.text)
	var table []string
	count := map[string]int{}
	for p.NextExpression() {
		e := p.Expression()
		if e.Kind == unstable.KeyValue {
			d.indexValue(&p, e, table)
			continue
		}
		var first unstable.Range
		table, first = keyOf(e, nil)
		if e.Kind == unstable.ArrayTable {
			name := strings.Join(table, ".")
			table = append(table, strconv.Itoa(count[name]))
			count[name]++
		}
		d.note(&p, table, first)
	}
}

func (d *document) note(p *unstable.Parser, key []string, at unstable.Range) {
	s := p.Shape(at)
	d.at[strings.Join(key, ".")] = place{s.Start.Line, s.Start.Column}
}

// keyOf is a node's key behind those of its table, and where it begins.
func keyOf(n *unstable.Node, table []string) (key []string, first unstable.Range) {
	key = slices.Clone(table)
	for it := n.Key(); it.Next(); {
		if first.Length == 0 {
			first = it.Node().Raw
		}
		key = append(key, string(it.Node().Data))
	}
	return key, first
}

func (d *document) indexValue(p *unstable.Parser, n *unstable.Node, table []string) {
	key, first := keyOf(n, table)
	d.note(p, key, first)
	v := n.Value()
	switch v.Kind {
	case unstable.InlineTable:
		for it := v.Children(); it.Next(); {
			d.indexValue(p, it.Node(), key)
		}
	case unstable.Array:
		i := 0
		for it := v.Children(); it.Next(); i++ {
			if it.Node().Kind != unstable.InlineTable {
				continue
			}
			one := append(slices.Clone(key), strconv.Itoa(i))
			for kv := it.Node().Children(); kv.Next(); {
				_, first := keyOf(kv.Node(), nil)
				if _, has := d.at[strings.Join(one, ".")]; !has {
					d.note(p, one, first)
				}
				d.indexValue(p, kv.Node(), one)
			}
		}
	}
}

// knownKeys are the schema's keys in the table at path, where maps stand for any name.
func knownKeys(path []string) []string {
	t := reflect.TypeFor[Config]()
	for _, p := range path {
		for t.Kind() == reflect.Slice {
			t = t.Elem()
		}
		if t.Kind() == reflect.Map {
			t = t.Elem()
			continue
		}
		f, ok := fieldByKey(t, p)
		if !ok {
			return nil
		}
		t = f.Type
	}
	for t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	var keys []string
	for i := range t.NumField() {
		keys = append(keys, t.Field(i).Tag.Get("toml"))
	}
	return keys
}

func fieldByKey(t reflect.Type, key string) (reflect.StructField, bool) {
	if t.Kind() != reflect.Struct {
		return reflect.StructField{}, false
	}
	for i := range t.NumField() {
		if t.Field(i).Tag.Get("toml") == key {
			return t.Field(i), true
		}
	}
	return reflect.StructField{}, false
}
