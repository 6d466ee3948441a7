package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"syscall"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/client"
	"github.com/atollhq/atoll/internal/errs"
)

// Exit codes. They are API; "atoll help exit-codes" documents them.
const (
	exitOK           = 0
	exitFailure      = 1
	exitUsage        = 2
	exitUnauthorized = 3
	exitNotFound     = 4
	exitConflict     = 5
	exitExhausted    = 6
	exitUnavailable  = 7
	exitTimeout      = 8
	exitOwn          = 125 // run, exec: atoll itself failed
	exitCannotRun    = 126 // run, exec: the command cannot be executed
	exitNoCommand    = 127 // run, exec: the command was not found
	exitInterrupted  = 130
)

const exitCodesText = `Exit codes of atoll:

    0    success
    1    failure of no other class; for doctor: something fatal was found
    2    the command line is wrong, or the server calls the input invalid
    3    the token is missing, wrong or not allowed to do this
    4    there is no such sandbox, file or other thing
    5    it exists already, or its state does not allow this
    6    a limit is reached
    7    the server cannot be reached or is not able to serve
    8    it took too long
  130    interrupted

"atoll run", "atoll exec" and "atoll create" with a command exit with the
command's own code, or with 128 + n when signal n ended it. They keep

  125    for failures of atoll itself: no server, no sandbox, a bad flag
  126    for a command that cannot be executed
  127    for a command that does not exist

for themselves, as shells and container tools do.
`

func newExitCodesTopic() *cobra.Command {
	return &cobra.Command{Use: "exit-codes", Short: "What the exit codes mean", Long: exitCodesText}
}

// exitError ends the program with a code. With a nil err nothing is printed.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// asOwn gives an error of run and exec the code that cannot be mistaken for
// the command's.
func asOwn(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*exitError](err); ok {
		return err
	}
	return &exitError{exitOwn, err}
}

// hinted adds what to do to an error.
type hinted struct {
	error
	hint string
}

func (e *hinted) Unwrap() error { return e.error }

func withHint(err error, hint string) error { return &hinted{err, hint} }

// failure is the form in which errors are shown; with --json as it stands.
type failure struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	TraceID string `json:"traceId,omitempty"`
	Hint    string `json:"hint,omitempty"`
}

// report prints err and returns its exit code.
func report(err error, asJSON bool, io IO) int {
	code := exitCodeOf(err)
	if e, ok := errors.AsType[*exitError](err); ok {
		if e.err == nil {
			return e.code
		}
		err = e.err
	}
	f := describe(err)
	if asJSON {
		_ = json.NewEncoder(io.Err).Encode(map[string]failure{"error": f})
		return code
	}
	fmt.Fprintln(io.Err, "atoll: "+printable(f.line()))
	if f.Hint != "" {
		fmt.Fprintln(io.Err, "  hint: "+f.Hint)
	}
	return code
}

func (f failure) line() string {
	switch {
	case f.Code == "":
		return f.Message
	case f.TraceID == "":
		return fmt.Sprintf("%s (%s)", f.Message, f.Code)
	}
	return fmt.Sprintf("%s (%s, trace %s)", f.Message, f.Code, f.TraceID)
}

// printable keeps text that a sandbox may have chosen from steering the
// terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

// describe finds the words for an error.
func describe(err error) failure {
	f := failure{Message: err.Error(), Hint: hintFor(err)}
	if e, ok := errors.AsType[*client.APIError](err); ok {
		f.Code, f.Message, f.TraceID = e.Code, e.Message, e.TraceID
	} else if e, ok := errors.AsType[*client.Error](err); ok {
		f.Code = e.Code()
		f.Message = e.Remote.Message
	} else if e, ok := errors.AsType[*errs.Error](err); ok {
		f.Code, f.Message = e.Code, e.Message
	} else if _, ok := errors.AsType[*usageError](err); ok {
		f.Code = "USAGE"
	}
	return f
}

func hintFor(err error) string {
	if e, ok := errors.AsType[*hinted](err); ok {
		return e.hint
	}
	if _, ok := errors.AsType[*usageError](err); ok {
		return `"atoll help" and "atoll help <command>" show what is understood`
	}
	if e, ok := errors.AsType[*client.APIError](err); ok {
		switch {
		case e.Status == http.StatusUnauthorized:
			return `set ATOLL_TOKEN, or make a token on the server with "atoll token create"`
		case e.Code == "SANDBOX_NOT_FOUND":
			return `"atoll list" shows the running sandboxes`
		}
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return `is the server running? start it with "atoll serve", check it with "atoll doctor"`
	}
	return ""
}

// exitCodeOf is the one place where errors become exit codes.
func exitCodeOf(err error) int {
	if e, ok := errors.AsType[*exitError](err); ok {
		return e.code
	}
	if e, ok := errors.AsType[*client.APIError](err); ok {
		return exitCodeOfStatus(e.Status)
	}
	if _, ok := errors.AsType[*usageError](err); ok {
		return exitUsage
	}
	if _, ok := errors.AsType[*net.OpError](err); ok && !errors.Is(err, context.Canceled) {
		return exitUnavailable
	}
	for _, c := range exitCodes() {
		if errors.Is(err, c.class) {
			return c.code
		}
	}
	return exitFailure
}

type classCode struct {
	class error
	code  int
}

// exitCodes lists classes in order: the first match counts.
func exitCodes() []classCode {
	return []classCode{
		{client.ErrNoToken, exitUnauthorized},
		{client.ErrNoEndpoint, exitUsage},
		{errs.NotFound, exitNotFound},
		{errs.Invalid, exitUsage},
		{errs.AlreadyExists, exitConflict},
		{errs.Conflict, exitConflict},
		{errs.Precondition, exitConflict},
		{errs.Unauthorized, exitUnauthorized},
		{errs.Denied, exitUnauthorized},
		{errs.Exhausted, exitExhausted},
		{errs.Unavailable, exitUnavailable},
		{errs.Timeout, exitTimeout},
		{context.Canceled, exitInterrupted},
		{context.DeadlineExceeded, exitTimeout},
		{fs.ErrNotExist, exitNotFound},
		{fs.ErrExist, exitConflict},
		{fs.ErrPermission, exitUnauthorized},
	}
}

func exitCodeOfStatus(status int) int {
	switch status {
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		return exitUsage
	case http.StatusUnauthorized, http.StatusForbidden:
		return exitUnauthorized
	case http.StatusNotFound:
		return exitNotFound
	case http.StatusConflict, http.StatusPreconditionFailed:
		return exitConflict
	case http.StatusTooManyRequests, http.StatusInsufficientStorage:
		return exitExhausted
	case http.StatusBadGateway, http.StatusServiceUnavailable:
		return exitUnavailable
	case http.StatusRequestTimeout, http.StatusGatewayTimeout:
		return exitTimeout
	}
	return exitFailure
}

// statusError turns the end of a command into the end of this program.
func statusError(st client.Status) error {
	if st.OOM {
		return &exitError{st.Code, withHint(
			errors.New("the command was ended because it ran out of memory"), "give the sandbox more with --memory")}
	}
	if st.Code == 0 && st.Signal != "" {
		return &exitError{exitFailure, fmt.Errorf("the command was ended by %s", st.Signal)}
	}
	if st.Code == 0 {
		return nil
	}
	return &exitError{code: st.Code}
}

// spawnError tells a command that cannot start from a failure of atoll.
func spawnError(command string, err error) error {
	e, ok := errors.AsType[*client.Error](err)
	if !ok {
		return asOwn(err)
	}
	// A working directory that is missing looks like a missing command, but
	// for the text.
	if errors.Is(err, fs.ErrNotExist) && !strings.Contains(e.Remote.Message, "No such cwd") {
		return &exitError{exitNoCommand, &client.Error{Method: e.Method, Remote: &api.RemoteError{
			Message: command + ": " + e.Remote.Message, Code: e.Remote.Code, ConstructorName: e.Remote.ConstructorName,
		}}}
	}
	return &exitError{exitCannotRun, err}
}
