package fetch

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"syscall"

	"github.com/atollhq/atoll/api"
	"golang.org/x/sys/unix"
)

// Error is why a request failed, as the client sees it: a JavaScript
// TypeError, like that of fetch().
type Error struct {
	Message string
	Code    string // the system's name, such as ECONNREFUSED; may be empty
	Cause   string // the lower layer's words; may be empty
}

func (e *Error) Error() string { return e.Message }

// invalid is the error for input that never becomes a request.
func invalid(format string, args ...any) *Error {
	return &Error{Message: fmt.Sprintf(format, args...)}
}

// failed is the error for a request that got no usable response.
func failed(u *url.URL, why string) *Error {
	return &Error{Message: fmt.Sprintf("error sending request for url (%s): %s", u.Redacted(), why), Cause: why}
}

// sendError describes a failure of the network. An aborted request fails
// with the context's cause instead.
func sendError(ctx context.Context, u *url.URL, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if own, ok := errors.AsType[*Error](err); ok {
		return own
	}
	if remote, ok := errors.AsType[*api.RemoteError](err); ok {
		return remote // from DialProcess
	}
	e := failed(u, err.Error())
	e.Code = systemCode(err)
	return e
}

// systemCode finds the name that Node.js and Deno give to an error.
func systemCode(err error) string {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return unix.ErrnoName(errno)
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		if dns.IsNotFound {
			return "ENOTFOUND"
		}
		return "EAI_AGAIN"
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return "ETIMEDOUT"
	}
	return ""
}
