package launch

import (
	"context"
	"errors"
	"fmt"

	"github.com/atollhq/atoll/internal/errs"
	"github.com/atollhq/atoll/internal/sandbox"
	"github.com/atollhq/atoll/internal/shim/wire"
)

// classes are those of a shim's errors that have a code.
var classes = map[wire.Code]errs.Class{
	wire.CodePaused:       errs.Precondition,
	wire.CodeCannotPause:  errs.Unsupported,
	wire.CodeCannotFork:   errs.Unsupported,
	wire.CodeSaveFailed:   errs.Unavailable,
	wire.CodeTooManyForks: errs.Exhausted,
}

// refusal is the error of a reply. With a code, its text is written for the
// caller.
func refusal(r wire.Reply) error {
	class, ok := classes[r.Code]
	switch {
	case !ok:
		return errors.New(r.Error)
	case r.Cause == "":
		return errs.New(class, string(r.Code), "%s", r.Error)
	}
	return errs.Wrap(errors.New(r.Cause), class, string(r.Code), "%s", r.Error)
}

// Status says whether the machine runs, and what it used.
func (s *Shim) Status(ctx context.Context) (sandbox.ShimStatus, error) {
	conn, _, reply, err := s.request(ctx, wire.Request{Op: wire.OpStatus})
	if err != nil {
		return sandbox.ShimStatus{}, fmt.Errorf("ask for status: %w", err)
	}
	if err := conn.Close(); err != nil || reply.Status == nil {
		return sandbox.ShimStatus{}, errors.Join(errors.New("ask for status: the answer holds none"), err)
	}
	st := reply.Status
	return sandbox.ShimStatus{Power: sandbox.Power(st.Power), CPUTime: st.CPUTime, CopyBytes: st.CopyBytes}, nil
}

// Pause returns when the machine stands still.
func (s *Shim) Pause(ctx context.Context, toDisk bool) (sandbox.Paused, error) {
	conn, _, reply, err := s.request(ctx, wire.Request{Op: wire.OpPause, ToDisk: toDisk})
	if err != nil {
		return sandbox.Paused{}, fmt.Errorf("pause sandbox: %w", err)
	}
	if err := conn.Close(); err != nil || reply.Pause == nil {
		return sandbox.Paused{}, errors.Join(errors.New("pause sandbox: the answer says nothing"), err)
	}
	return sandbox.Paused(*reply.Pause), nil
}

// Resume returns when the machine runs again and its agent knows.
func (s *Shim) Resume(ctx context.Context) error {
	conn, _, _, err := s.request(ctx, wire.Request{Op: wire.OpResume})
	if err != nil {
		return fmt.Errorf("resume sandbox: %w", err)
	}
	return conn.Close()
}

// Fork writes down the machine for others to continue from. The connection is
// the lease: the shim frees the saved machine when it is closed.
func (s *Shim) Fork(ctx context.Context) (*sandbox.Fork, error) {
	conn, _, reply, err := s.request(ctx, wire.Request{Op: wire.OpFork})
	if err != nil {
		return nil, fmt.Errorf("fork sandbox: %w", err)
	}
	if reply.Fork == nil {
		return nil, errors.Join(errors.New("fork sandbox: the answer holds none"), conn.Close())
	}
	p := reply.Fork.Personal
	return sandbox.NewFork(sandbox.Origin(reply.Fork.Origin), sandbox.Personal{
		Env: p.Env, AllowNet: p.AllowNet, Ceiling: p.Ceiling, Secrets: sandbox.NewSecrets(p.Secrets),
	}, conn.Close), nil
}
