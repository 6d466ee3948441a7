package httpapi

import (
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/errs"
)

// scope says who may call a route.
type scope int

const (
	scopeOrg    scope = iota // whoever has a valid token, for the token's organisation
	scopePublic              // anyone
	scopeLocal               // callers on this host
)

// route is one line of the table.
type route struct {
	method  string
	path    string // as http.ServeMux takes it, without the method
	scope   scope
	handler func(w http.ResponseWriter, r *request) error
}

// routes is the whole surface. What the official SDKs call by several names
// has several lines.
func (a *server) routes() []route {
	return []route{
		{"GET", "/healthz", scopePublic, a.health},
		{"GET", "/metrics", scopeLocal, a.metrics},

		{"GET", "/api/v3/sandboxes/create", scopeOrg, a.createSandbox},
		{"GET", "/api/v3/sandbox/{id}/connect", scopeOrg, a.connectSandbox},
		{"GET", "/api/v3/sandbox/{id}", scopeOrg, a.getSandbox},
		{"PATCH", "/api/v3/sandbox/{id}", scopeOrg, a.patchSandbox},
		{"DELETE", "/api/v3/sandbox/{id}", scopeOrg, a.killSandbox},
		{"DELETE", "/api/v3/sandboxes/{id}", scopeOrg, a.killSandbox}, // Python SDK
		{"GET", "/api/v2/sandboxes", scopeOrg, a.listSandboxes},
		{"GET", "/api/v3/sandboxes", scopeOrg, a.listSandboxes}, // Python SDK

		{"GET", "/api/v3/sandbox/{id}/network", scopeOrg, a.getNetwork},
		{"GET", "/api/v3/sandbox/{id}/audit", scopeOrg, a.readAudit},

		{"POST", "/api/v3/sandbox/{id}/pause", scopeOrg, a.pauseSandbox},
		{"POST", "/api/v3/sandbox/{id}/resume", scopeOrg, a.resumeSandbox},
		{"POST", "/api/v3/sandbox/{id}/fork", scopeOrg, a.forkSandbox},

		{"POST", "/api/v3/sandbox/{id}/expose/http", scopeOrg, a.exposeLater},
		{"POST", "/api/v3/sandbox/{id}/expose/ssh", scopeOrg, a.exposeLater},
		{"POST", "/api/v3/sandbox/{id}/expose/vscode", scopeOrg, a.exposeLater},
	}
}

// handler builds the mux. Each path is registered once for all methods, so
// that a wrong method is answered in JSON like every other mistake.
func (a *server) handler(table []route) http.Handler {
	byPath := map[string]map[string]route{}
	for _, rt := range table {
		if byPath[rt.path] == nil {
			byPath[rt.path] = map[string]route{}
		}
		byPath[rt.path][rt.method] = rt
	}
	mux := http.NewServeMux()
	for path, methods := range byPath {
		mux.Handle(path, a.begin(path, a.dispatch(methods)))
	}
	mux.Handle("/", a.begin("other", func(http.ResponseWriter, *request) error {
		return errs.New(errs.NotFound, "ROUTE_NOT_FOUND", "there is nothing at this path")
	}))
	return mux
}

func (a *server) dispatch(methods map[string]route) func(http.ResponseWriter, *request) error {
	allowed := strings.Join(slices.Sorted(maps.Keys(methods)), ", ")
	return func(w http.ResponseWriter, r *request) error {
		method := r.Method
		if method == http.MethodHead {
			method = http.MethodGet
		}
		rt, ok := methods[method]
		if !ok {
			w.Header().Set("Allow", allowed)
			return errs.New(errs.Invalid, codeMethod, "this path answers to %s only", allowed)
		}
		if err := a.permit(rt.scope, r); err != nil {
			return err
		}
		return rt.handler(w, r)
	}
}

// permit checks a request against a scope and notes who it acts for.
func (a *server) permit(s scope, r *request) error {
	switch s {
	case scopePublic:
		return nil
	case scopeLocal:
		if isLocal(r) {
			return nil
		}
		return errs.New(errs.Denied, "LOCAL_ONLY", "this path answers to callers on the server's host only")
	}
	id, err := a.Auth.Authenticate(r.Context(), bearer(r.Header.Get("Authorization")), r.Header.Get(api.HeaderOrg))
	r.identity = id
	return err
}

func bearer(header string) string {
	kind, token, _ := strings.Cut(strings.TrimSpace(header), " ")
	if !strings.EqualFold(kind, "bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// isLocal is true for a direct caller on this host. Behind a proxy on the same
// host everybody would look local, so what was forwarded is not.
func isLocal(r *request) bool {
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Real-Ip", "Via"} {
		if r.Header.Get(name) != "" {
			return false
		}
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return false
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}
