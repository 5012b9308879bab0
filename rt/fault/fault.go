// Package fault is what kinds of errors jobs end with.
package fault

import (
	"errors"
	"fmt"
)

// Kind groups errors by what the caller can do about them. Only rt/api turns a kind into an HTTP status.
type Kind int

const (
	Internal     Kind = iota // a fault of coble or of the machine
	Invalid                  // the request can never work as it is
	NotFound                 // what it names does not exist
	Conflict                 // what it names is in the wrong state
	NotModified              // it is already so
	Unsupported              // coble does not do this
	Unauthorized             // a registry does not know who asks
	Forbidden                // nobody may do this to it
)

// Error is an error that a user can act on.
type Error struct {
	Kind Kind
	Err  error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// KindOf returns the error's kind, Internal where it has none.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Internal
}

// New makes an error of a kind.
func New(k Kind, format string, args ...any) error {
	return &Error{Kind: k, Err: fmt.Errorf(format, args...)}
}

// As gives an error a kind; nil stays nil.
func As(k Kind, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Kind: k, Err: err}
}
