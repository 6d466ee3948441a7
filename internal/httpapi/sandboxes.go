package httpapi

import (
	"net/http"
	"slices"
	"time"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/errs"
	"github.com/atollhq/atoll/internal/obs"
	"github.com/atollhq/atoll/internal/sandbox"
)

func (a *server) getSandbox(w http.ResponseWriter, r *request) error {
	sb, err := a.Sandboxes.Get(r.Context(), r.identity.Org, r.PathValue("id"))
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, sb)
}

func (a *server) listSandboxes(w http.ResponseWriter, r *request) error {
	filter, err := readFilter(r)
	if err != nil {
		return err
	}
	list, err := a.Sandboxes.List(r.Context(), r.identity.Org, filter)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, list)
}

func readFilter(r *request) (sandbox.Filter, error) {
	q := r.URL.Query()
	labels, err := readLabels(q)
	if err != nil {
		return sandbox.Filter{}, err
	}
	f := sandbox.Filter{Labels: labels, Status: q.Get("status")}
	if !slices.Contains([]string{"", api.StatusRunning, api.StatusStopped}, f.Status) {
		return f, errs.New(errs.Invalid, "INVALID_FILTER", "status must be %s or %s", api.StatusRunning, api.StatusStopped)
	}
	return f, nil
}

func (a *server) killSandbox(w http.ResponseWriter, r *request) error {
	err := a.Sandboxes.Kill(r.Context(), r.identity.Org, r.PathValue("id"))
	a.audit(r, "kill", r.PathValue("id"), err)
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *server) patchSandbox(w http.ResponseWriter, r *request) error {
	var patch api.PatchSandbox
	if err := decode(w, r, &patch); err != nil {
		return err
	}
	if err := checkPatch(patch); err != nil {
		return err
	}
	change, err := readIdleChange(patch)
	if err != nil {
		return err
	}
	granted, err := a.patch(r, patch, change)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, granted)
}

// checkPatch finds what is wrong with a change whatever the sandbox.
func checkPatch(patch api.PatchSandbox) error {
	const year9999 = 253_402_300_799_999
	at := patch.StopAtMS
	switch {
	case at == nil && !patch.AllowNet.Given && !changesIdle(patch):
		return errs.New(errs.Invalid, "INVALID_BODY", `the body needs the field "stop_at_ms", "allow_net" or "idle_pause"`)
	case at != nil && (*at < 0 || *at > year9999):
		return errs.New(errs.Invalid, "INVALID_TIMEOUT", "stop_at_ms is not a time in the future, in milliseconds since 1970")
	}
	return sandbox.CheckList(patch.AllowNet.List)
}

// patch makes all changes, or none if one of them is refused.
func (a *server) patch(r *request, patch api.PatchSandbox, change sandbox.IdleChange) (granted api.PatchSandboxResult, err error) {
	ctx, org, id := r.Context(), r.identity.Org, r.PathValue("id")
	if changesIdle(patch) {
		if err := a.Sandboxes.MaySetIdle(ctx, org, id, change); err != nil {
			a.audit(r, "set_idle", id, err)
			return granted, err
		}
	}
	var until time.Time
	if patch.StopAtMS != nil {
		until = time.UnixMilli(*patch.StopAtMS)
		if err := a.Sandboxes.MayExtend(ctx, org, id, until); err != nil {
			a.audit(r, "extend", id, err)
			return granted, err
		}
	}
	if patch.AllowNet.Given {
		network, err := a.Sandboxes.SetNetwork(ctx, org, id, patch.AllowNet.List)
		a.audit(r, "set_network", id, err)
		if err != nil {
			return granted, err
		}
		granted.Network = &network
	}
	if changesIdle(patch) {
		if err := a.setIdle(r, change, &granted); err != nil {
			return granted, err
		}
	}
	if patch.StopAtMS != nil {
		end, err := a.Sandboxes.Extend(ctx, org, id, until)
		a.audit(r, "extend", id, err)
		if err != nil {
			return granted, err
		}
		granted.StopAtMS = end.UnixMilli()
	}
	return granted, nil
}

// exposeLater answers what a later version brings; that the sandbox exists is
// checked all the same.
func (a *server) exposeLater(_ http.ResponseWriter, r *request) error {
	if _, err := a.Sandboxes.Get(r.Context(), r.identity.Org, r.PathValue("id")); err != nil {
		return err
	}
	return errs.New(errs.Unsupported, sandbox.CodeNotSupported, "exposing a sandbox is not supported yet by this version")
}

// audit records one permitted call on a sandbox and how it went.
func (a *server) audit(r *request, action, id string, err error) {
	if !sandbox.ValidID(id) {
		id = "" // what callers make up stays out of the log
	}
	a.Audit.Record(obs.Event{
		Action: action, Org: r.identity.Org, Token: r.identity.Token, Trace: r.trace, Sandbox: id, Outcome: outcome(err),
	})
}

func outcome(err error) string {
	if err == nil {
		return "ok"
	}
	return errs.Public(err).Code
}

func (a *server) health(w http.ResponseWriter, _ *request) error {
	return answer(w, http.StatusOK, map[string]string{"status": "ok", "version": a.Version})
}

func (a *server) metrics(w http.ResponseWriter, r *request) error {
	a.Metrics.Handler().ServeHTTP(w, r.Request)
	return nil
}
