package request

import (
	"fmt"
	"strings"
)

// words splits the arguments of a Dockerfile's instruction (Dockerfile reference, "Environment replacement" and "Parser
// directives"): spaces part words, quotes and backslashes keep them together, $NAME, ${NAME}, ${NAME:-word} and
// ${NAME:+word} are replaced by lookup outside of single quotes. lookup nil replaces nothing.
func words(s string, lookup func(string) string) ([]string, error) {
	w := wordReader{s: s, lookup: lookup}
	var out []string
	for {
		w.s = strings.TrimLeft(w.s, " \t")
		if w.s == "" {
			return out, nil
		}
		word, err := w.next()
		if err != nil {
			return nil, err
		}
		out = append(out, word)
	}
}

type wordReader struct {
	s      string
	lookup func(string) string
}

// next reads a word up to a space.
func (w *wordReader) next() (string, error) {
	var b strings.Builder
	for w.s != "" {
		switch c := w.s[0]; {
		case c == ' ' || c == '\t':
			return b.String(), nil
		case c == '\'':
			end := strings.IndexByte(w.s[1:], '\'')
			if end < 0 {
				return "", fmt.Errorf("quote is not closed: %s", w.s)
			}
			b.WriteString(w.s[1 : 1+end])
			w.s = w.s[end+2:]
		case c == '"':
			w.s = w.s[1:]
			if err := w.quoted(&b); err != nil {
				return "", err
			}
		case c == '\\' && len(w.s) > 1:
			b.WriteByte(w.s[1])
			w.s = w.s[2:]
		default:
			if err := w.plain(&b); err != nil {
				return "", err
			}
		}
	}
	return b.String(), nil
}

// quoted reads up to the closing double quote.
func (w *wordReader) quoted(b *strings.Builder) error {
	for w.s != "" {
		switch c := w.s[0]; {
		case c == '"':
			w.s = w.s[1:]
			return nil
		case c == '\\' && len(w.s) > 1 && strings.IndexByte(`"\$`, w.s[1]) >= 0:
			b.WriteByte(w.s[1])
			w.s = w.s[2:]
		default:
			if err := w.plain(b); err != nil {
				return err
			}
		}
	}
	return fmt.Errorf("quote is not closed")
}

// plain takes one character, or what a variable stands for.
func (w *wordReader) plain(b *strings.Builder) error {
	if w.s[0] != '$' || w.lookup == nil {
		b.WriteByte(w.s[0])
		w.s = w.s[1:]
		return nil
	}
	rest := w.s[1:]
	if strings.HasPrefix(rest, "{") {
		end := strings.IndexByte(rest, '}')
		if end < 0 {
			return fmt.Errorf("variable is not closed: %s", w.s)
		}
		w.s = rest[end+1:]
		v, err := w.braced(rest[1:end])
		b.WriteString(v)
		return err
	}
	n := 0
	for n < len(rest) && isName(rest[n], n) {
		n++
	}
	if n == 0 {
		b.WriteByte('$')
	} else {
		b.WriteString(w.lookup(rest[:n]))
	}
	w.s = rest[n:]
	return nil
}

func (w *wordReader) braced(s string) (string, error) {
	n := 0
	for n < len(s) && isName(s[n], n) {
		n++
	}
	name, op := s[:n], s[n:]
	value := w.lookup(name)
	switch {
	case n == 0:
	case op == "":
		return value, nil
	case strings.HasPrefix(op, ":-"):
		if value == "" {
			value = op[2:]
		}
		return value, nil
	case strings.HasPrefix(op, ":+"):
		if value != "" {
			value = op[2:]
		}
		return value, nil
	}
	return "", fmt.Errorf("variable ${%s} has another form than ${NAME}, ${NAME:-word} or ${NAME:+word}", s)
}

func isName(c byte, at int) bool {
	return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || at > 0 && c >= '0' && c <= '9'
}
