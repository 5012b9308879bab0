// Package reference reads the names of images as Docker writes them: [host[:port]/]path[:tag][@digest], with docker.io
// and library/ left out. It accepts what github.com/distribution/reference accepts and normalises it alike, which its fuzz
// test holds it to; that package compiles regular expressions before main, for half a millisecond of every process's start.
package reference

import (
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Errors, in Docker's words.
var (
	ErrFormat    = errors.New("invalid reference format")
	ErrUppercase = errors.New("repository name must be lowercase")
	ErrTooLong   = errors.New("repository name must not be more than 255 characters")
)

const (
	hub      = "docker.io"
	oldHub   = "index.docker.io"
	official = "library/"
)

// Named is a normalised name. The zero Named is none.
type Named struct {
	Domain string // of the registry, with its port if one is given: docker.io
	Path   string // of the repository there: library/busybox
	Tag    string // may be empty
	Digest digest.Digest
}

// Parse reads and normalises a name. A missing tag stays missing (see Latest).
func Parse(s string) (Named, error) {
	if len(s) == 64 && all(s, hexDigit) {
		return Named{}, fmt.Errorf("invalid repository name (%s), cannot specify 64-byte hexadecimal strings", s)
	}
	domain, rest := splitDomain(s)
	if name, _, _ := strings.Cut(rest, ":"); strings.ToLower(name) != name {
		return Named{}, fmt.Errorf("%w: %w", ErrFormat, ErrUppercase)
	}
	rest, sum, digested := strings.Cut(rest, "@")
	path, tag, tagged := strings.Cut(rest, ":")
	n := Named{Domain: domain, Path: path, Tag: tag, Digest: digest.Digest(sum)}
	switch {
	case !validDomain(domain), !validPath(path), tagged && !validTag(tag):
		return Named{}, ErrFormat
	case len(path) > 255:
		return Named{}, ErrTooLong
	case digested:
		if err := n.Digest.Validate(); err != nil {
			return Named{}, fmt.Errorf("%w: %w", ErrFormat, err)
		}
	}
	return n, nil
}

// splitDomain tells a registry from the first part of a path: it has a dot, a colon or an upper-case letter, or is localhost.
func splitDomain(s string) (domain, rest string) {
	first, rest, several := strings.Cut(s, "/")
	switch {
	case !several:
		return hub, official + s
	case first == oldHub:
		first = hub
	case first != "localhost" && !strings.ContainsAny(first, ".:") && strings.ToLower(first) == first:
		first, rest = hub, s
	}
	if first == hub && !strings.Contains(rest, "/") {
		rest = official + rest
	}
	return first, rest
}

// Name is the repository with its registry: docker.io/library/busybox.
func (n Named) Name() string { return n.Domain + "/" + n.Path }

// String is the whole normalised form.
func (n Named) String() string { return n.Name() + n.suffix() }

// Familiar is the form shown to people: busybox:1.36.
func (n Named) Familiar() string { return n.FamiliarName() + n.suffix() }

// FamiliarName is the repository as shown to people: busybox.
func (n Named) FamiliarName() string {
	if n.Domain != hub {
		return n.Name()
	}
	if short, ok := strings.CutPrefix(n.Path, official); ok && !strings.Contains(short, "/") {
		return short
	}
	return n.Path
}

func (n Named) suffix() string {
	var s string
	if n.Tag != "" {
		s = ":" + n.Tag
	}
	if n.Digest != "" {
		s += "@" + n.Digest.String()
	}
	return s
}

// NameOnly tells whether there is neither tag nor digest.
func (n Named) NameOnly() bool { return n.Tag == "" && n.Digest == "" }

// Latest is n, with the tag latest if it had neither tag nor digest.
func (n Named) Latest() Named {
	if n.NameOnly() {
		n.Tag = "latest"
	}
	return n
}

func hexDigit(c byte) bool { return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' }
func digit(c byte) bool    { return '0' <= c && c <= '9' }
func lower(c byte) bool    { return 'a' <= c && c <= 'z' || digit(c) }
func letter(c byte) bool   { return lower(c) || 'A' <= c && c <= 'Z' }
func word(c byte) bool     { return letter(c) || c == '_' }

func all(s string, of func(byte) bool) bool {
	for i := range len(s) {
		if !of(s[i]) {
			return false
		}
	}
	return true
}

// validDomain takes names by the rules of DNS, addresses, [IPv6], each with a port or without.
func validDomain(s string) bool {
	host, port := s, ""
	if i := strings.LastIndexByte(s, ':'); i >= 0 && !strings.HasSuffix(s, "]") {
		if host, port = s[:i], s[i+1:]; port == "" || !all(port, digit) {
			return false
		}
	}
	if six, ok := strings.CutPrefix(host, "["); ok {
		six, ok = strings.CutSuffix(six, "]")
		return ok && six != "" && all(six, func(c byte) bool { return hexDigit(c) || 'A' <= c && c <= 'F' || c == ':' })
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || label[0] == '-' || label[len(label)-1] == '-' || !all(label, func(c byte) bool { return letter(c) || c == '-' }) {
			return false
		}
	}
	return true
}

// validPath takes components of lower-case letters and digits, with ".", "_", "__" or any number of "-" between them.
func validPath(s string) bool {
	for part := range strings.SplitSeq(s, "/") {
		if part == "" || !lower(part[0]) || !lower(part[len(part)-1]) {
			return false
		}
		for i := 0; i < len(part); i++ {
			from := i
			for !lower(part[i]) {
				i++ // ends at the last byte, which is a letter or a digit
			}
			switch between := part[from:i]; {
			case between == "", between == ".", between == "_", between == "__", strings.Trim(between, "-") == "":
			default:
				return false
			}
		}
	}
	return true
}

// validTag: [\w][\w.-]{0,127}.
func validTag(s string) bool {
	return s != "" && len(s) <= 128 && word(s[0]) && all(s, func(c byte) bool { return word(c) || c == '.' || c == '-' })
}
