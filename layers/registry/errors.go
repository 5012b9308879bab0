package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// What went wrong, by what the caller can do about it.
var (
	ErrNotFound      = errors.New("not found")
	ErrUnauthorized  = errors.New("unauthorized")
	ErrNoCredentials = errors.New("no basic auth credentials") // Docker's words: log in first
	ErrNotRegistry   = errors.New("not a registry of version 2")
	ErrUnsupported   = errors.New("not supported")
	ErrInvalid       = errors.New("invalid answer of a registry")
)

// Error is an answer of a registry that was no success (distribution
// specification, "Error Codes").
type Error struct {
	Method, URL string
	Status      int // of HTTP
	Codes       []Code
	Text        string // beginning of an answer that has no codes
}

// Code is one of the reasons in it.
type Code struct {
	Code    string `json:"code"` // MANIFEST_UNKNOWN
	Message string `json:"message"`
}

// Error reads as Docker's do: manifest unknown: manifest unknown.
func (e *Error) Error() string {
	var out []string
	for _, c := range e.Codes {
		s := strings.ToLower(strings.ReplaceAll(c.Code, "_", " "))
		if c.Message != "" {
			s += ": " + c.Message
		}
		out = append(out, s)
	}
	if len(out) > 0 {
		return strings.Join(out, "; ")
	}
	s := fmt.Sprintf("%s %q: unexpected status %d %s", e.Method, e.URL, e.Status, http.StatusText(e.Status))
	if e.Text != "" {
		s += ": " + e.Text
	}
	return s
}

// Is tells the kinds apart.
func (e *Error) Is(target error) bool {
	switch target {
	case ErrNotFound:
		return e.Status == http.StatusNotFound
	case ErrUnauthorized:
		return e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden
	}
	return false
}

const maxErrorText = 64 << 10 // bytes of an answer that are read to explain an error

// readError makes an error of an answer, whose body it closes.
func readError(resp *http.Response) error {
	defer resp.Body.Close()
	e := &Error{Method: resp.Request.Method, URL: resp.Request.URL.Redacted(), Status: resp.StatusCode}
	raw, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorText)) // what came is enough
	e.parse(raw)
	return e
}

func (e *Error) parse(raw []byte) {
	var body struct {
		Errors  []Code `json:"errors"`
		Details string `json:"details"` // of token servers
	}
	if json.Unmarshal(raw, &body) == nil {
		e.Codes = body.Errors
		if len(e.Codes) == 0 && body.Details != "" {
			e.Text = body.Details
		}
	}
	if len(e.Codes) == 0 && e.Text == "" {
		text := strings.ToValidUTF8(strings.TrimSpace(string(raw)), "?")
		e.Text = text[:min(len(text), 200)]
	}
	if len(e.Codes) == 0 && e.Method == http.MethodHead {
		// A HEAD has no body to explain itself with.
		switch e.Status {
		case http.StatusUnauthorized:
			e.Codes = []Code{{"UNAUTHORIZED", "authentication required"}}
		case http.StatusForbidden:
			e.Codes = []Code{{"DENIED", "requested access to the resource is denied"}}
		}
	}
}
