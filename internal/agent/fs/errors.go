package fs

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/atollhq/atoll/api"
)

// opError is a failed system call together with what was asked for, in Deno's
// words: "open '/tmp/x'".
type opError struct {
	op  string
	err syscall.Errno
}

func (e *opError) Error() string { return e.op + ": " + e.err.Error() }
func (e *opError) Unwrap() error { return e.err }

// failed names the operation and the path that a system error belongs to. Any
// other error, such as the end of ctx, is left as it is.
func failed(err error, op, path string) error {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return &opError{op: fmt.Sprintf("%s '%s'", op, path), err: errno}
	}
	return err
}

// failedBetween is failed for operations on two paths.
func failedBetween(err error, op, from, to string) error {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return &opError{op: fmt.Sprintf("%s '%s' -> '%s'", op, from, to), err: errno}
	}
	return err
}

func is(err error, errno syscall.Errno) bool { return errors.Is(err, errno) }

// newError makes an error of a JavaScript class; an empty code is left out.
func newError(class, code, format string, args ...any) *api.RemoteError {
	e := &api.RemoteError{ConstructorName: class, Message: fmt.Sprintf(format, args...)}
	if code != "" {
		e.Code = &code
	}
	return e
}

// Codes of errors that are not the system's.
const (
	codeTooLarge   = "ERR_MESSAGE_TOO_LARGE"
	codeTooMany    = "ERR_TOO_MANY_HANDLES"
	codeOutOfRange = "ERR_OUT_OF_RANGE"
	codeBadPattern = "ERR_BAD_PATTERN"
)

func badResource() error { return newError("BadResource", "", "Bad resource ID") }

func tooManyHandles(limit int) error {
	return newError("Error", codeTooMany, "this connection has %d open files, which is the limit; close some first", limit)
}

func tooLarge(path string, size, limit int64) error {
	return newError("RangeError", codeTooLarge,
		"'%s' has %d bytes and at most %d fit into one message; open() it and read it in parts", path, size, limit)
}

func dirTooLarge(path string) error {
	return newError("RangeError", codeTooLarge,
		"'%s' has more entries than fit into one message; use walk() with maxDepth 1", path)
}

func tooManyMatches(limit int) error {
	return newError("RangeError", codeOutOfRange, "the glob has over %d matches while it follows links or contains '..'; make it narrower", limit)
}

func tooManyPatterns(n int) error {
	return newError("RangeError", codeOutOfRange, "%d patterns are over the limit of %d", n, maxPatterns)
}

func badRegexp(r api.Regexp, why string) error {
	return newError("SyntaxError", codeBadPattern, "Invalid regular expression: /%s/%s: %s", r.Source, r.Flags, why)
}

func badGlob(glob, why string) error {
	return newError("SyntaxError", codeBadPattern, "Invalid glob '%s': %s", glob, why)
}

func matchTooSlow(expr string) error {
	return newError("RangeError", codeBadPattern, "matching /%s/ took over %v for one path; simplify it", expr, matchTimeout)
}

func badOption(format string, args ...any) error { return newError("Error", "", format, args...) }

func outOfRange(format string, args ...any) error {
	return newError("RangeError", codeOutOfRange, format, args...)
}
