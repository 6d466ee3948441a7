package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/atollhq/atoll/api"
	"golang.org/x/sys/unix"
)

// NewError returns an error of a JavaScript class ("TypeError", or the name
// of a Deno.errors class) with a system code ("ENOENT"; empty for none).
func NewError(constructor, code, format string, args ...any) *api.RemoteError {
	e := &api.RemoteError{ConstructorName: constructor, Message: fmt.Sprintf(format, args...)}
	if code != "" {
		e.Code = &code
	}
	return e
}

// aborted is what an aborted call answers, as an AbortSignal's reason.
func aborted() *api.RemoteError {
	name := "AbortError"
	return &api.RemoteError{ConstructorName: "DOMException", Name: &name, Message: "The signal has been aborted"}
}

// classes maps a system error to the class under which Deno throws it. What
// is missing is a plain Error with the system's code.
var classes = map[syscall.Errno]string{
	unix.ENOENT:        "NotFound",
	unix.EACCES:        "PermissionDenied",
	unix.EPERM:         "PermissionDenied",
	unix.EEXIST:        "AlreadyExists",
	unix.EISDIR:        "IsADirectory",
	unix.ENOTDIR:       "NotADirectory",
	unix.ELOOP:         "FilesystemLoop",
	unix.EBUSY:         "Busy",
	unix.ETXTBSY:       "Busy",
	unix.EINVAL:        "TypeError",
	unix.EINTR:         "Interrupted",
	unix.EAGAIN:        "WouldBlock",
	unix.EPIPE:         "BrokenPipe",
	unix.ETIMEDOUT:     "TimedOut",
	unix.EBADF:         "BadResource",
	unix.EOPNOTSUPP:    "NotSupported",
	unix.ENOSYS:        "NotSupported",
	unix.ECONNREFUSED:  "ConnectionRefused",
	unix.ECONNRESET:    "ConnectionReset",
	unix.ECONNABORTED:  "ConnectionAborted",
	unix.ENOTCONN:      "NotConnected",
	unix.EADDRINUSE:    "AddrInUse",
	unix.EADDRNOTAVAIL: "AddrNotAvailable",
	unix.ENETUNREACH:   "NetworkUnreachable",
	unix.EHOSTUNREACH:  "NetworkUnreachable",
}

// FromOS turns any error into what Deno would throw: class, system code and
// "No such file or directory (os error 2): stat '/x'". The operation may be
// empty; then that of a *fs.PathError is taken. An error that is a
// *api.RemoteError already stays as it is.
func FromOS(op string, err error) *api.RemoteError {
	if e, ok := errors.AsType[*api.RemoteError](err); ok {
		return e
	}
	if op == "" {
		op = operationOf(err)
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return fromErrno(op, errno)
	}
	return withOperation(fromKnown(err), op)
}

func fromErrno(op string, errno syscall.Errno) *api.RemoteError {
	class, ok := classes[errno]
	if !ok {
		class = "Error"
	}
	text := errno.Error()
	text = strings.ToUpper(text[:1]) + text[1:]
	e := NewError(class, unix.ErrnoName(errno), "%s (os error %d)", text, int(errno))
	return withOperation(e, op)
}

// fromKnown maps the errors that carry no system error number.
func fromKnown(err error) *api.RemoteError {
	switch {
	case errors.Is(err, context.Canceled):
		return aborted()
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return NewError("TimedOut", "ETIMEDOUT", "Operation timed out")
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return NewError("UnexpectedEof", "", "Unexpected end of input")
	case errors.Is(err, fs.ErrNotExist):
		return NewError("NotFound", "ENOENT", "No such file or directory (os error 2)")
	case errors.Is(err, fs.ErrExist):
		return NewError("AlreadyExists", "EEXIST", "File exists (os error 17)")
	case errors.Is(err, fs.ErrPermission):
		return NewError("PermissionDenied", "EACCES", "Permission denied (os error 13)")
	case errors.Is(err, os.ErrClosed), errors.Is(err, net.ErrClosed):
		return NewError("BadResource", "EBADF", "Bad resource ID")
	case errors.Is(err, io.ErrClosedPipe):
		return NewError("BrokenPipe", "EPIPE", "Broken pipe (os error 32)")
	case errors.Is(err, io.ErrShortWrite):
		return NewError("WriteZero", "", "failed to write whole buffer")
	default:
		return NewError("Error", "", "%s", err.Error())
	}
}

func withOperation(e *api.RemoteError, op string) *api.RemoteError {
	if op != "" && e.Name == nil {
		e.Message += ": " + op
	}
	return e
}

func operationOf(err error) string {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Sprintf("%s '%s'", e.Op, e.Path)
	}
	if e, ok := errors.AsType[*os.LinkError](err); ok {
		return fmt.Sprintf("%s '%s' -> '%s'", e.Op, e.Old, e.New)
	}
	return ""
}
