package client

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"

	"github.com/coder/websocket"

	"github.com/atollhq/atoll/api"
)

// APIError is a refusal by the server, before or beside any sandbox.
type APIError struct {
	Status  int    // HTTP status
	Code    string // stable, for example SANDBOX_NOT_FOUND
	Message string // a sentence for people
	TraceID string // finds the request in the server's log; may be empty
}

func (e *APIError) Error() string {
	s := fmt.Sprintf("%s (%s", e.Message, e.Code)
	if e.TraceID != "" {
		s += ", trace " + e.TraceID
	}
	return s + ")"
}

// Is matches fs.ErrNotExist and fs.ErrPermission by status.
func (e *APIError) Is(target error) bool {
	switch target {
	case fs.ErrNotExist:
		return e.Status == http.StatusNotFound
	case fs.ErrPermission:
		return e.Status == http.StatusForbidden || e.Status == http.StatusUnauthorized
	}
	return false
}

// Error is a failure inside the sandbox: a missing file, a refused
// connection, an exception of evaluated code.
type Error struct {
	Method string // the JSON-RPC method, for example "readFile"
	Remote *api.RemoteError
}

func (e *Error) Error() string {
	if code := e.Code(); code != "" {
		return fmt.Sprintf("%s: %s (%s)", e.Method, e.Remote.Message, code)
	}
	return e.Method + ": " + e.Remote.Message
}

// Unwrap returns the error as it came over the wire.
func (e *Error) Unwrap() error { return e.Remote }

// Code is the system's name of the error ("ENOENT") or "".
func (e *Error) Code() string {
	if e.Remote.Code == nil {
		return ""
	}
	return *e.Remote.Code
}

// remoteClasses maps the classes of Deno.errors and the system's codes to the
// errors that Go programs test for.
var remoteClasses = map[string]error{
	"NotFound": fs.ErrNotExist, "ENOENT": fs.ErrNotExist,
	"AlreadyExists": fs.ErrExist, "EEXIST": fs.ErrExist,
	"PermissionDenied": fs.ErrPermission, "NotCapable": fs.ErrPermission,
	"EACCES": fs.ErrPermission, "EPERM": fs.ErrPermission,
	"BadResource": fs.ErrClosed, "EBADF": fs.ErrClosed,
	"TimedOut": os.ErrDeadlineExceeded, "ETIMEDOUT": os.ErrDeadlineExceeded,
	"AbortError": context.Canceled,
}

// Is matches the io/fs errors, os.ErrDeadlineExceeded and, for an aborted
// call, context.Canceled.
func (e *Error) Is(target error) bool {
	if target == nil {
		return false
	}
	name := ""
	if e.Remote.Name != nil {
		name = *e.Remote.Name
	}
	for _, key := range []string{e.Code(), e.Remote.ConstructorName, name} {
		if remoteClasses[key] == target {
			return true
		}
	}
	return false
}

// CloseError says how a connection ended.
type CloseError struct {
	Code   int    // WebSocket close code; 1006 when there was no close frame
	Reason string // the server's words, for example "sandbox timeout"
	Err    error  // the transport's failure, if that was the cause
}

func (e *CloseError) Error() string {
	s := fmt.Sprintf("connection to the sandbox closed (code %d", e.Code)
	if e.Reason != "" {
		s += ", reason: " + e.Reason
	}
	return s + ")"
}

// Unwrap returns the transport's failure.
func (e *CloseError) Unwrap() error { return e.Err }

// closeErrorOf turns the read loop's last error into a CloseError.
func closeErrorOf(err error) *CloseError {
	if ce, ok := errors.AsType[*CloseError](err); ok {
		return ce
	}
	if frame, ok := errors.AsType[websocket.CloseError](err); ok {
		return &CloseError{Code: int(frame.Code), Reason: frame.Reason}
	}
	return &CloseError{Code: int(websocket.StatusAbnormalClosure), Reason: err.Error(), Err: err}
}
