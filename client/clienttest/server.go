// Package clienttest is an in-memory server for tests of the SDK and of the
// programs built on it. It speaks the sandbox protocol over real WebSockets
// on a loopback listener; a sandbox is a temporary directory, and its
// processes are the host's own programs started in it. It isolates nothing.
//
// A Server is safe for concurrent use. Close it at the end of the test: it
// ends all connections and processes and waits for them.
package clienttest

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/atollhq/atoll/api"
)

// Token is the one that a Server accepts.
const Token = "ddo_test"

// TraceID is what every answer carries.
const TraceID = "0123456789abcdef"

// home is where relative paths and processes start.
const home = "/home/app"

// Method answers one JSON-RPC method in place of the built-in one. The result
// is the "ok" value; an error becomes the "error" value if it is an
// *api.RemoteError and a JSON-RPC error otherwise.
type Method func(ctx context.Context, c *Conn, params json.RawMessage) (any, error)

// Server is the fake.
type Server struct {
	URL string

	http  *httptest.Server
	dir   string
	conns sync.WaitGroup
	ctx   context.Context
	stop  context.CancelFunc

	mu        sync.Mutex // guards the rest
	methods   map[string]Method
	sandboxes map[string]*sandbox
	created   int
}

type sandbox struct {
	info    api.Sandbox
	root    string
	env     map[string]string
	session bool
	conns   map[*Conn]bool

	policy  api.NetworkPolicy
	secrets map[string]api.Secret
	records []api.AuditRecord
	changed chan struct{} // closed and replaced with each record, and at the end
}

// New starts a server whose sandboxes live below dir.
func New(dir string) *Server {
	ctx, stop := context.WithCancel(context.Background())
	s := &Server{
		dir: dir, ctx: ctx, stop: stop,
		methods:   map[string]Method{},
		sandboxes: map[string]*sandbox{},
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v3/sandboxes/create", s.create)
	mux.HandleFunc("GET /api/v3/sandbox/{id}/connect", s.connect)
	mux.HandleFunc("GET /api/v3/sandbox/{id}", s.get)
	mux.HandleFunc("DELETE /api/v3/sandbox/{id}", s.kill)
	mux.HandleFunc("PATCH /api/v3/sandbox/{id}", s.patch)
	mux.HandleFunc("GET /api/v3/sandbox/{id}/network", s.network)
	mux.HandleFunc("GET /api/v3/sandbox/{id}/audit", s.audit)
	mux.HandleFunc("POST /api/v3/sandbox/{id}/pause", s.pause)
	mux.HandleFunc("POST /api/v3/sandbox/{id}/resume", s.resume)
	mux.HandleFunc("POST /api/v3/sandbox/{id}/fork", s.fork)
	mux.HandleFunc("GET /api/v2/sandboxes", s.list)
	s.http = httptest.NewServer(s.authorized(mux))
	s.URL = s.http.URL
	return s
}

// Handle replaces a JSON-RPC method.
func (s *Server) Handle(method string, m Method) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.methods[method] = m
}

// Root is the directory that stands for the file system of a sandbox.
func (s *Server) Root(id string) string { return filepath.Join(s.dir, id) }

// CloseConns closes all connections of a sandbox.
func (s *Server) CloseConns(id string, code int, reason string) {
	s.mu.Lock()
	var open []*Conn
	if sb := s.sandboxes[id]; sb != nil {
		for c := range sb.conns {
			open = append(open, c)
		}
	}
	s.mu.Unlock()
	for _, c := range open {
		_ = c.ws.Close(websocket.StatusCode(code), reason)
	}
}

// Close ends everything.
func (s *Server) Close() {
	s.stop()
	s.http.CloseClientConnections()
	s.conns.Wait()
	s.http.Close()
}

func (s *Server) authorized(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(api.HeaderTraceID, TraceID)
		if r.Header.Get("Authorization") != "Bearer "+Token {
			fail(w, http.StatusUnauthorized, "INVALID_TOKEN", "The token is invalid.")
			return
		}
		next.ServeHTTP(w, r)
	})
}

func fail(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(api.Error{Code: code, Message: message})
}

func (s *Server) create(w http.ResponseWriter, r *http.Request) {
	raw, err := base64.StdEncoding.DecodeString(r.Header.Get(api.HeaderConfig))
	var config api.SandboxConfig
	if err != nil || json.Unmarshal(raw, &config) != nil {
		fail(w, http.StatusBadRequest, "INVALID_CONFIG", "The configuration header is malformed.")
		return
	}
	if m := config.MemoryMB; m != nil && (*m < api.MinMemoryMiB || *m > api.MaxMemoryMiB) {
		fail(w, http.StatusBadRequest, "INVALID_MEMORY", fmt.Sprintf("memory_mb must be between %d and %d.", api.MinMemoryMiB, api.MaxMemoryMiB))
		return
	}
	sb, err := s.add(config)
	if err != nil {
		fail(w, http.StatusInternalServerError, "INTERNAL_ERROR", err.Error())
		return
	}
	s.serve(w, r, sb, true)
}

func (s *Server) add(config api.SandboxConfig) (*sandbox, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.created++
	id := fmt.Sprintf("sbx_ord_%020d", s.created)
	sb := &sandbox{
		root: filepath.Join(s.dir, id), env: map[string]string{}, conns: map[*Conn]bool{},
		policy: policyOf(config), secrets: config.Secrets, changed: make(chan struct{}),
		session: config.Timeout == "session" || config.Timeout == "",
		info: api.Sandbox{
			ID: id, Region: "ord", Status: api.StatusRunning, Labels: config.Labels,
			CreatedAt: api.Date{Time: time.Unix(1700000000+int64(s.created), 0)},
			MemoryMiB: api.DefaultMemoryMiB, Isolation: "fake", Timeout: "session",
			Power: api.PowerRunning, IdlePause: config.IdlePause, IdlePauseToDisk: config.IdlePauseToDisk != nil && *config.IdlePauseToDisk,
		},
	}
	for k, v := range config.Env {
		sb.env[k] = v
	}
	for k := range config.Secrets {
		sb.env[k] = "placeholder of " + k
	}
	if config.MemoryMB != nil {
		sb.info.MemoryMiB = *config.MemoryMB
	}
	if !sb.session {
		d, err := time.ParseDuration(config.Timeout)
		if err != nil {
			return nil, err
		}
		sb.info.Timeout, sb.info.StopAt = "duration", &api.Date{Time: sb.info.CreatedAt.Add(d)}
	}
	s.sandboxes[id] = sb
	return sb, os.MkdirAll(filepath.Join(sb.root, home), 0o755)
}

func (s *Server) connect(w http.ResponseWriter, r *http.Request) {
	if sb := s.find(w, r); sb != nil {
		s.wake(sb)
		s.serve(w, r, sb, false)
	}
}

// find answers 404 for sandboxes that are unknown or stopped.
func (s *Server) find(w http.ResponseWriter, r *http.Request) *sandbox {
	s.mu.Lock()
	defer s.mu.Unlock()
	sb := s.sandboxes[r.PathValue("id")]
	if sb == nil || sb.info.Status != api.StatusRunning {
		fail(w, http.StatusNotFound, "SANDBOX_NOT_FOUND", "There is no running sandbox "+r.PathValue("id")+".")
		return nil
	}
	return sb
}

func (s *Server) kill(w http.ResponseWriter, r *http.Request) {
	sb := s.find(w, r)
	if sb == nil {
		return
	}
	s.end(sb, api.StopKilled)
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) end(sb *sandbox, reason string) {
	s.mu.Lock()
	if sb.info.Status == api.StatusStopped {
		s.mu.Unlock()
		return
	}
	sb.info.Status, sb.info.StopReason, sb.info.Power = api.StatusStopped, reason, ""
	sb.info.StoppedAt = &api.Date{Time: sb.info.CreatedAt.Time}
	sb.tell()
	s.mu.Unlock()
	s.CloseConns(sb.info.ID, int(websocket.StatusNormalClosure), closeText(reason))
}

// closeText is what the close frame says.
func closeText(reason string) string {
	if reason == api.StopKilled {
		return "sandbox killed"
	}
	return "session closed"
}

func (s *Server) list(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []api.Sandbox{}
	for _, sb := range s.sandboxes {
		if labelsMatch(sb.info.Labels, r.URL.Query()) {
			out = append(out, sb.info)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].ID < out[j].ID })
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out)
}

func (s *Server) get(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sb := s.sandboxes[r.PathValue("id")]
	if sb == nil {
		fail(w, http.StatusNotFound, "SANDBOX_NOT_FOUND", "There is no sandbox "+r.PathValue("id")+".")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(sb.info)
}

func labelsMatch(labels map[string]string, query map[string][]string) bool {
	for key, values := range query {
		name, ok := strings.CutPrefix(strings.TrimSuffix(key, "]"), "labels[")
		if ok && labels[name] != values[0] {
			return false
		}
	}
	return true
}

// serve runs one connection until it ends.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, sb *sandbox, primary bool) {
	w.Header().Set(api.HeaderSandboxID, sb.info.ID)
	ws, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	s.conns.Add(1)
	defer s.conns.Done()
	ws.SetReadLimit(api.MaxClientMessage)
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	c := newConn(s, sb, ws)
	s.mu.Lock()
	sb.conns[c] = true
	late, reason := sb.info.Status == api.StatusStopped, sb.info.StopReason
	s.mu.Unlock()
	if late { // ended while this connection was being made
		_ = ws.Close(websocket.StatusNormalClosure, closeText(reason))
	}
	c.run(ctx)
	s.mu.Lock()
	delete(sb.conns, c)
	suspended := sb.info.Power == api.PowerSuspended
	s.mu.Unlock()
	if primary && sb.session && !suspended {
		s.end(sb, api.StopSessionClosed)
	}
}
