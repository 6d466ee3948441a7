// Package errs holds the error classes of Atoll.
//
// Every error that a caller may act on belongs to one of a dozen classes,
// matched with errors.Is. A class is mapped once to an HTTP status (package
// httpapi) and once to an exit code (the CLI). An *Error additionally carries
// text that is written for the caller: a stable code, a sentence that says
// what to do, and nothing about the inside of the server. An error without
// such text reaches the caller as "internal" with its trace id; its text goes
// to the log only.
package errs

import (
	"errors"
	"fmt"
)

// Class is a kind of failure that callers tell apart with errors.Is.
type Class string

// Error makes a Class usable as the target of errors.Is.
func (c Class) Error() string { return string(c) }

// The classes. Anything that is none of the others is Internal.
const (
	NotFound      Class = "not found"
	AlreadyExists Class = "already exists"
	Invalid       Class = "invalid"
	Conflict      Class = "conflict"
	Precondition  Class = "precondition failed"
	Unauthorized  Class = "unauthorized"
	Denied        Class = "denied"
	Exhausted     Class = "exhausted"
	Unsupported   Class = "not supported"
	Unavailable   Class = "unavailable"
	Timeout       Class = "timeout"
	Internal      Class = "internal"
)

// Error is an error with text for the caller.
type Error struct {
	Class   Class
	Code    string // stable, upper snake case: "SANDBOX_NOT_FOUND"
	Message string // a sentence for the caller, with what to do about it
	Cause   error  // for the log only; may be nil
}

// New returns an error for the caller. The message is formatted as by
// fmt.Sprintf and must not contain anything the caller may not see.
func New(class Class, code, format string, args ...any) *Error {
	return &Error{Class: class, Code: code, Message: fmt.Sprintf(format, args...)}
}

// Wrap returns an error for the caller whose cause is kept for the log.
func Wrap(cause error, class Class, code, format string, args ...any) *Error {
	e := New(class, code, format, args...)
	e.Cause = cause
	return e
}

// Error returns the message and the cause: for logs, not for callers.
func (e *Error) Error() string {
	if e.Cause != nil {
		return e.Message + ": " + e.Cause.Error()
	}
	return e.Message
}

// Is matches the class.
func (e *Error) Is(target error) bool { return target == e.Class }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Public returns the caller's view of err: the first *Error in its chain, or
// a bare internal error when there is none.
func Public(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return &Error{Class: Internal, Code: "INTERNAL_ERROR", Message: "internal error; the server's log has the details under this trace id", Cause: err}
}
