package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/client"
	"github.com/atollhq/atoll/internal/errs"
)

// TestExitCodes pins the codes of every class.
func TestExitCodes(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want int
	}{
		{errors.New("x"), 1},
		{usage("x"), 2},
		{&client.APIError{Status: 400}, 2},
		{&client.APIError{Status: 401}, 3},
		{&client.APIError{Status: 404}, 4},
		{&client.APIError{Status: 409}, 5},
		{&client.APIError{Status: 429}, 6},
		{&client.APIError{Status: 503}, 7},
		{&client.APIError{Status: 504}, 8},
		{&client.APIError{Status: 500}, 1},
		{errs.New(errs.Exhausted, "X", "x"), 6},
		{errs.New(errs.Unsupported, "X", "x"), 1},
		{fmt.Errorf("wrapped: %w", fs.ErrNotExist), 4},
		{context.Canceled, 130},
		{context.DeadlineExceeded, 8},
		{asOwn(usage("x")), 125},
		{asOwn(&exitError{code: 9}), 9},
		{spawnError("x", &client.Error{Remote: &api.RemoteError{ConstructorName: "NotFound"}}), 127},
		{spawnError("x", &client.Error{Remote: &api.RemoteError{ConstructorName: "NotFound", Message: "No such cwd '/x'"}}), 126},
		{spawnError("x", &client.Error{Remote: &api.RemoteError{ConstructorName: "PermissionDenied"}}), 126},
		{spawnError("x", errors.New("x")), 125},
		{statusError(client.Status{Code: 137, Signal: "SIGKILL", OOM: true}), 137},
	} {
		if got := exitCodeOf(tt.err); got != tt.want {
			t.Errorf("%v: exit code %d, want %d", tt.err, got, tt.want)
		}
	}
}

func TestReport(t *testing.T) {
	err := &client.APIError{Status: 404, Code: "SANDBOX_NOT_FOUND", Message: "no \x1b[31msandbox", TraceID: "t1"}
	for _, tt := range []struct {
		json bool
		want string
	}{
		{false, "atoll: no \ufffd[31msandbox (SANDBOX_NOT_FOUND, trace t1)\n  hint: \"atoll list\" shows the running sandboxes\n"},
		{true, `{"error":{"code":"SANDBOX_NOT_FOUND","message":"no \u001b[31msandbox","traceId":"t1","hint":"\"atoll list\" shows the running sandboxes"}}` + "\n"},
	} {
		var out bytes.Buffer
		report(err, tt.json, IO{Err: &out})
		if out.String() != tt.want {
			t.Errorf("got  %q\nwant %q", out.String(), tt.want)
		}
	}
}
