package httpapi

import (
	"net/http"
	"time"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/sandbox"
)

func (a *server) pauseSandbox(w http.ResponseWriter, r *request) error {
	var body api.PauseRequest
	if err := decodeOptional(w, r, &body); err != nil {
		return err
	}
	id := r.PathValue("id")
	result, err := a.Sandboxes.Pause(r.Context(), r.identity.Org, id, body.ToDisk)
	a.audit(r, "pause", id, err)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, result)
}

func (a *server) resumeSandbox(w http.ResponseWriter, r *request) error {
	if err := decodeOptional(w, r, &struct{}{}); err != nil {
		return err
	}
	id := r.PathValue("id")
	err := a.Sandboxes.Resume(r.Context(), r.identity.Org, id)
	a.audit(r, "resume", id, err)
	if err != nil {
		return err
	}
	sb, err := a.Sandboxes.Get(r.Context(), r.identity.Org, id)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, sb)
}

func (a *server) forkSandbox(w http.ResponseWriter, r *request) error {
	var body api.ForkRequest
	if err := decodeOptional(w, r, &body); err != nil {
		return err
	}
	spec, err := sandbox.NewForkSpec(body, a.Limits, time.Now())
	if err != nil {
		return err
	}
	id := r.PathValue("id")
	children, err := a.Sandboxes.Fork(r.Context(), r.identity.Org, id, spec)
	a.audit(r, "fork", id, err)
	if err != nil {
		return err
	}
	for _, child := range children {
		a.audit(r, "create", child.ID, nil)
	}
	return answer(w, http.StatusOK, children)
}

func changesIdle(patch api.PatchSandbox) bool {
	return patch.IdlePause.Given || patch.IdlePauseToDisk != nil
}

func readIdleChange(patch api.PatchSandbox) (sandbox.IdleChange, error) {
	var after *string
	if patch.IdlePause.Given {
		after = &patch.IdlePause.Text
	}
	return sandbox.ReadIdleChange(after, patch.IdlePauseToDisk)
}

func (a *server) setIdle(r *request, change sandbox.IdleChange, granted *api.PatchSandboxResult) error {
	id := r.PathValue("id")
	after, toDisk, err := a.Sandboxes.SetIdle(r.Context(), r.identity.Org, id, change)
	a.audit(r, "set_idle", id, err)
	if err != nil {
		return err
	}
	granted.IdlePause, granted.IdlePauseToDisk = api.OptionalText{Given: true, Text: after}, &toDisk
	return nil
}
