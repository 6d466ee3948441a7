package client

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/atollhq/atoll/api"
)

// Pause lets a sandbox stand still. In memory, connections stay open; to disk
// its memory is given back and its connections end. The next call on an open
// connection, or a new connection, resumes it. Meanwhile its lifetime stands
// still, too.
func (s *Sandboxes) Pause(ctx context.Context, id string, toDisk bool) (*api.PauseResult, error) {
	var out api.PauseResult
	if err := s.client.do(ctx, http.MethodPost, s.url(id)+"/pause", api.PauseRequest{ToDisk: toDisk}, &out); err != nil {
		return nil, err
	}
	return &out, nil
}

// Resume lets a paused sandbox go on and returns when it runs. It is no error
// if it did.
func (s *Sandboxes) Resume(ctx context.Context, id string) (*api.Sandbox, error) {
	var out api.Sandbox
	if err := s.client.do(ctx, http.MethodPost, s.url(id)+"/resume", nil, &out); err != nil {
		return nil, err
	}
	return &out, nil
}

// ForkOptions describes the children of a fork. The zero value asks for one
// like its parent.
type ForkOptions struct {
	Count  int               // children; 0 is 1
	Labels map[string]string // in place of the parent's; nil: the parent's
	// Timeout is the lifetime; it is rounded up to whole seconds. Zero means
	// what is left of the parent's, or "session" with Session.
	Timeout time.Duration
	Session bool
}

func (o ForkOptions) request() api.ForkRequest {
	r := api.ForkRequest{Labels: o.Labels}
	if o.Count != 0 {
		r.Count = &o.Count
	}
	switch {
	case o.Timeout > 0:
		r.Timeout = seconds(o.Timeout)
	case o.Session:
		r.Timeout = "session"
	}
	return r
}

// Fork makes sandboxes that continue from where one stands: with its memory,
// processes and files, each from then on for itself. It makes all of them or
// none. Connect to them by their ids; the first connection to a child with a
// session lifetime is its primary one, and must come soon.
func (s *Sandboxes) Fork(ctx context.Context, id string, o ForkOptions) ([]api.Sandbox, error) {
	var out []api.Sandbox
	err := s.client.do(ctx, http.MethodPost, s.url(id)+"/fork", o.request(), &out)
	return out, err
}

// SetIdlePause has a sandbox paused, to disk or in memory, when nothing has
// happened for so long; it is rounded up to whole seconds, and 0 is never.
func (s *Sandboxes) SetIdlePause(ctx context.Context, id string, after time.Duration, toDisk bool) error {
	patch := api.PatchSandbox{IdlePause: api.OptionalText{Given: true}, IdlePauseToDisk: &toDisk}
	if after > 0 {
		patch.IdlePause.Text = seconds(after)
	}
	var granted api.PatchSandboxResult
	if err := s.client.do(ctx, http.MethodPatch, s.url(id), patch, &granted); err != nil {
		return err
	}
	if !granted.IdlePause.Given {
		return fmt.Errorf("read the server's answer: it says nothing of the idle policy")
	}
	return nil
}

// Pause lets the sandbox stand still in memory. The next call resumes it.
func (s *Sandbox) Pause(ctx context.Context) (*api.PauseResult, error) {
	return s.sandboxes.Pause(ctx, s.id, false)
}

// Fork makes sandboxes that continue from where this one stands. See
// Sandboxes.Fork.
func (s *Sandbox) Fork(ctx context.Context, o ForkOptions) ([]api.Sandbox, error) {
	return s.sandboxes.Fork(ctx, s.id, o)
}
