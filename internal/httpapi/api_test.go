package httpapi_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/auth"
	"github.com/atollhq/atoll/internal/httpapi"
	"github.com/atollhq/atoll/internal/layout"
	"github.com/atollhq/atoll/internal/machine"
	"github.com/atollhq/atoll/internal/obs"
	"github.com/atollhq/atoll/internal/sandbox"
	"github.com/atollhq/atoll/internal/sandbox/sandboxtest"
	"github.com/atollhq/atoll/internal/store"
	"github.com/atollhq/atoll/internal/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const maxMessage = 1 << 20

type auditLog struct {
	mu     sync.Mutex
	events []obs.Event
}

func (a *auditLog) Record(e obs.Event) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.events = append(a.events, e)
}

func (a *auditLog) find(action string) (out []obs.Event) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, e := range a.events {
		if e.Action == action {
			out = append(out, e)
		}
	}
	return out
}

// logBuffer is written to also by connections that outlive the server.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

type observer struct{ *obs.Metrics }

func (o observer) SandboxStopped(_, _, reason string) { o.Metrics.SandboxStopped(reason) }

func (o observer) PowerChanged(_, _, power string, took time.Duration) {
	o.Metrics.PowerChanged(power, took)
}

// world is a whole daemon without machines.
type world struct {
	t        *testing.T
	url      string
	token    string // of the organisation "default"
	other    string // of another organisation
	personal string
	launcher *sandboxtest.Launcher
	store    *storetest.Memory
	audit    *auditLog
	data     layout.Data
	limits   sandbox.Limits
	logs     *logBuffer
}

func newWorld(t *testing.T) *world { return newWorldWith(t, nil) }

func newWorldWith(t *testing.T, change func(*world)) *world {
	w := &world{
		t: t, launcher: &sandboxtest.Launcher{}, store: storetest.NewMemory(), audit: &auditLog{}, logs: &logBuffer{},
		data: layout.Data{Dir: t.TempDir()},
		limits: sandbox.Limits{
			MemoryMinMiB: 768, MemoryMaxMiB: 4096, MemoryDefaultMiB: 1280, Labels: 5, Forks: 4,
			Regions: []string{"ord", "ams"}, Isolations: []string{"fake"},
		},
	}
	if change != nil {
		change(w)
	}
	log := slog.New(slog.NewTextHandler(w.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	metrics := obs.NewMetrics()
	manager := sandbox.NewManager(sandbox.Options{
		Store: w.store, Launcher: w.launcher, Observer: observer{metrics}, Log: log,
		Template: sandbox.ShimSpec{Driver: "fake"}, Features: map[string]machine.Features{"fake": {Pause: true, Save: true}}, Data: w.data, MaxSandboxes: 1000, Starts: 4,
		StartTimeout: 10 * time.Second, StopTimeout: 10 * time.Second,
		MaxExtend: 30 * time.Minute, SessionGrace: time.Minute, Retention: time.Hour,
	})
	keeper := auth.NewKeeper(w.store, log)
	_, err := keeper.EnsureOrg(t.Context())
	w.must(err)
	w.must(w.store.CreateOrg(t.Context(), store.Org{ID: "org_other", Slug: "other"}))
	w.token, _, err = keeper.Create(t.Context(), auth.DefaultOrg, "", false)
	w.must(err)
	w.other, _, err = keeper.Create(t.Context(), "other", "", false)
	w.must(err)
	w.personal, _, err = keeper.Create(t.Context(), "", "", true)
	w.must(err)
	server := httptest.NewServer(httpapi.New(httpapi.Options{
		Sandboxes: manager, Auth: keeper, Audit: w.audit, Metrics: metrics, Log: log,
		Limits: w.limits, MaxMessage: maxMessage, DeadAfter: time.Minute, Version: "test",
	}))
	w.url = server.URL
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := manager.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		server.Close()
		http.DefaultClient.CloseIdleConnections()
		if logs := w.logs.String(); strings.Contains(logs, "panic") || strings.Contains(logs, "misplaced") {
			t.Error(logs)
		}
	})
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) dial(path, token, config string) (*websocket.Conn, *http.Response, error) {
	h := http.Header{"Authorization": {"Bearer " + token}}
	if config != "" {
		h.Set(api.HeaderConfig, base64.StdEncoding.EncodeToString([]byte(config)))
	}
	return websocket.Dial(w.t.Context(), w.url+path, &websocket.DialOptions{HTTPHeader: h})
}

// create makes a sandbox and returns its primary connection and id.
func (w *world) create(config string) (*websocket.Conn, string) {
	w.t.Helper()
	ws, resp, err := w.dial("/api/v3/sandboxes/create", w.token, config)
	w.must(err)
	w.t.Cleanup(func() { _ = ws.CloseNow() })
	id := resp.Header.Get("x-deno-sandbox-id")
	if !sandbox.ValidID(id) || len(resp.Header.Get("x-deno-trace-id")) != 32 {
		w.t.Fatalf("headers %v", resp.Header)
	}
	return ws, id
}

// call makes a plain request and returns status and body.
func (w *world) call(method, path, token, body string) (int, http.Header, string) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.url+path, strings.NewReader(body))
	w.must(err)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	w.must(err)
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	w.must(err)
	return resp.StatusCode, resp.Header, string(raw)
}

func (w *world) wantError(status, wantStatus int, h http.Header, body, code string) {
	w.t.Helper()
	var e api.Error
	if err := json.Unmarshal([]byte(body), &e); err != nil || e.Code != code || status != wantStatus || e.Message == "" {
		w.t.Errorf("got %d %s, want %d %s", status, body, wantStatus, code)
	}
	if h.Get("x-deno-trace-id") == "" || !strings.HasPrefix(h.Get("Content-Type"), "application/json") {
		w.t.Errorf("headers %v", h)
	}
}

// wantDialError checks how a WebSocket request is refused.
func (w *world) wantDialError(path, token, config string, status int, code string) {
	w.t.Helper()
	ws, resp, err := w.dial(path, token, config)
	if err == nil {
		_ = ws.CloseNow()
		w.t.Errorf("%s %s: accepted", path, config)
		return
	}
	raw, _ := io.ReadAll(resp.Body)
	w.wantError(resp.StatusCode, status, resp.Header, string(raw), code)
}

func (w *world) roundTrip(ws *websocket.Conn) {
	w.t.Helper()
	w.must(ws.Write(w.t.Context(), websocket.MessageText, []byte(`{"jsonrpc":"2.0","id":7,"method":"envGet","params":{"key":"A"}}`)))
	_, msg, err := ws.Read(w.t.Context())
	w.must(err)
	if got, want := string(msg), `{"jsonrpc":"2.0","id":7,"result":{"ok":{"key":"A"}}}`; got != want {
		w.t.Errorf("got %s, want %s", got, want)
	}
}

func (w *world) wantClosed(ws *websocket.Conn, code websocket.StatusCode, text string) {
	w.t.Helper()
	_, _, err := ws.Read(w.t.Context())
	var ce websocket.CloseError
	if !errors.As(err, &ce) || ce.Code != code || ce.Reason != text {
		w.t.Errorf("closed with %v, want %d %q", err, code, text)
	}
}

// eventually waits for something that another goroutine brings about.
func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			w.t.Fatalf("it never happened: %s", what)
		}
	}
}

func (w *world) get(id string) (sb api.Sandbox) {
	w.t.Helper()
	status, _, body := w.call("GET", "/api/v3/sandbox/"+id, w.token, "")
	if status != 200 {
		w.t.Fatalf("get: %d %s", status, body)
	}
	w.must(json.Unmarshal([]byte(body), &sb))
	return sb
}

func TestSessionFromCreateToEnd(t *testing.T) {
	w := newWorld(t)
	ws, id := w.create(`{"memory_mb":1280,"volumes":[],"labels":{"a":"b"}}`)
	w.roundTrip(ws)
	w.must(ws.Write(t.Context(), websocket.MessageText, []byte("ping")))
	if _, msg, err := ws.Read(t.Context()); err != nil || string(msg) != "pong" {
		t.Errorf("ping: %q %v", msg, err)
	}
	sb := w.get(id)
	if sb.Status != api.StatusRunning || sb.Region != "ord" || sb.Timeout != "session" || sb.Labels["a"] != "b" {
		t.Errorf("got %+v", sb)
	}
	w.must(ws.Close(websocket.StatusNormalClosure, ""))
	w.eventually("the session ends", func() bool { return w.get(id).StopReason == api.StopSessionClosed })
	w.wantDialError("/api/v3/sandbox/"+id+"/connect", w.token, "", 404, "SANDBOX_STOPPED")
	w.eventually("the call is audited", func() bool {
		rpc, bye := w.audit.find("rpc"), w.audit.find("disconnect")
		return len(rpc) == 1 && rpc[0].Method == "envGet" && len(bye) == 1 && bye[0].MessagesIn == 1 && bye[0].Sandbox == id
	})
}

func TestVanishingClientEndsTheSession(t *testing.T) {
	w := newWorld(t)
	ws, id := w.create("")
	w.must(ws.CloseNow())
	w.eventually("the session ends", func() bool { return w.get(id).StopReason == api.StopSessionClosed && w.launcher.Running() == 0 })
}

func TestDurationAndConnect(t *testing.T) {
	w := newWorld(t)
	ws, id := w.create(`{"timeout":"5m","region":"ams"}`)
	w.must(ws.Close(websocket.StatusNormalClosure, ""))
	second, resp, err := w.dial("/api/v3/sandbox/"+id+"/connect", w.token, "")
	w.must(err)
	if resp.Header.Get("x-deno-sandbox-id") != id {
		t.Errorf("headers %v", resp.Header)
	}
	w.roundTrip(second)
	w.must(second.Close(websocket.StatusNormalClosure, ""))
	if sb := w.get(id); sb.Status != api.StatusRunning || sb.Timeout != "duration" || sb.StopAt == nil || sb.Region != "ams" {
		t.Errorf("got %+v", sb)
	}
}

func TestKillClosesSockets(t *testing.T) {
	w := newWorld(t)
	for _, path := range []string{"/api/v3/sandbox/", "/api/v3/sandboxes/"} {
		ws, id := w.create(`{"timeout":"5m"}`)
		if status, _, body := w.call("DELETE", path+id, w.token, ""); status != 204 {
			t.Errorf("kill: %d %s", status, body)
		}
		w.wantClosed(ws, 1000, "sandbox killed")
		if status, _, _ := w.call("DELETE", path+id, w.token, ""); status != 204 {
			t.Errorf("second kill: %d", status)
		}
		if sb := w.get(id); sb.Status != api.StatusStopped || sb.StopReason != api.StopKilled {
			t.Errorf("got %+v", sb)
		}
	}
}

func TestTimeoutAndExitsCloseSockets(t *testing.T) {
	w := newWorld(t)
	ws, _ := w.create(`{"timeout":"1s"}`)
	w.wantClosed(ws, 1001, "sandbox timeout")
	ws, id := w.create("")
	w.launcher.Shim(id).Crash(api.StopOOM)
	w.wantClosed(ws, 1011, "sandbox out of memory")
	ws, _ = w.create("")
	w.must(ws.Write(t.Context(), websocket.MessageText, []byte(`{"method":"exit"}`)))
	w.wantClosed(ws, 1011, "connection to the sandbox lost")
}

func TestExtend(t *testing.T) {
	w := newWorld(t)
	_, id := w.create(`{"timeout":"1m"}`)
	path := "/api/v3/sandbox/" + id
	patch := func(at time.Time) string { return fmt.Sprintf(`{"stop_at_ms":%d}`, at.UnixMilli()) }
	status, _, body := w.call("PATCH", path, w.token, patch(time.Now().Add(10*time.Hour)))
	var got api.PatchSandboxResult
	w.must(json.Unmarshal([]byte(body), &got))
	if left := time.Until(time.UnixMilli(got.StopAtMS)); status != 200 || left > 30*time.Minute || left < 29*time.Minute {
		t.Errorf("%d %s", status, body)
	}
	for text, code := range map[string]string{
		"":                                    "INVALID_BODY",
		"[]":                                  "INVALID_BODY",
		"{}":                                  "INVALID_BODY",
		`{"stop_at_ms":"x"}`:                  "INVALID_BODY",
		`{"stop_at_ms":5}`:                    "INVALID_TIMEOUT",
		`{"stop_at_ms":-9223372036854775808}`: "INVALID_TIMEOUT",
	} {
		status, h, body := w.call("PATCH", path, w.token, text)
		w.wantError(status, 400, h, body, code)
	}
	status, h, body := w.call("PATCH", path, w.token, strings.Repeat(" ", 70<<10))
	w.wantError(status, 413, h, body, "BODY_TOO_LARGE")
	_, session := w.create("")
	status, h, body = w.call("PATCH", "/api/v3/sandbox/"+session, w.token, patch(time.Now().Add(time.Minute)))
	w.wantError(status, 409, h, body, "SESSION_LIFETIME")
}

func TestList(t *testing.T) {
	w := newWorld(t)
	_, a := w.create(`{"labels":{"env":"prod","odd":"it's \"ü\""}}`)
	_, b := w.create(`{"labels":{"env":"test"}}`)
	for query, want := range map[string][]string{
		"":                                      {a, b},
		"?labels%5Benv%5D=prod":                 {a},
		"?labels[env]=test":                     {b},
		"?labels[env]=none":                     {},
		"?labels=%7B%27env%27%3A+%27prod%27%7D": {a},
		"?labels=%7B%27odd%27%3A+%27it%5C%27s+%22%C3%BC%22%27%7D": {a},
		"?status=running": {a, b},
		"?status=stopped": {},
	} {
		for _, path := range []string{"/api/v2/sandboxes", "/api/v3/sandboxes"} {
			status, _, body := w.call("GET", path+query, w.token, "")
			var list []api.Sandbox
			if err := json.Unmarshal([]byte(body), &list); err != nil || status != 200 || !strings.HasPrefix(body, "[") {
				t.Errorf("%s: %d %s", query, status, body)
			}
			got := map[string]bool{}
			for _, sb := range list {
				got[sb.ID] = true
			}
			for _, id := range want {
				if !got[id] || len(got) != len(want) {
					t.Errorf("%s: got %v, want %v", query, got, want)
				}
			}
		}
	}
	for _, bad := range []string{"?labels=nonsense", "?labels={'a':1}", "?status=sleeping", "?labels={'a':'b'"} {
		status, h, body := w.call("GET", "/api/v2/sandboxes"+strings.ReplaceAll(bad, "'", "%27"), w.token, "")
		w.wantError(status, 400, h, body, "INVALID_FILTER")
	}
}

func TestTokens(t *testing.T) {
	w := newWorld(t)
	_, id := w.create(`{"timeout":"5m"}`)
	paths := []struct{ method, path string }{
		{"GET", "/api/v3/sandboxes/create"}, {"GET", "/api/v3/sandbox/" + id + "/connect"}, {"GET", "/api/v3/sandbox/" + id},
		{"DELETE", "/api/v3/sandbox/" + id}, {"DELETE", "/api/v3/sandboxes/" + id}, {"PATCH", "/api/v3/sandbox/" + id},
		{"GET", "/api/v2/sandboxes"}, {"GET", "/api/v3/sandboxes"}, {"POST", "/api/v3/sandbox/" + id + "/expose/http"},
		{"GET", "/api/v3/sandbox/" + id + "/network"}, {"GET", "/api/v3/sandbox/" + id + "/audit"},
	}
	for _, p := range paths {
		for _, token := range []string{"", "ddo_wrong", w.token + "x", w.token[:10]} {
			status, h, body := w.call(p.method, p.path, token, "{}")
			w.wantError(status, 401, h, body, "INVALID_TOKEN")
		}
		status, h, body := w.call(p.method, p.path, w.personal, "{}")
		w.wantError(status, 400, h, body, "MISSING_ORG")
	}
	w.wantDialError("/api/v3/sandboxes/create", "bad", "", 401, "INVALID_TOKEN")

	w.wantDialError("/api/v3/sandbox/"+id+"/connect", w.other, "", 404, "SANDBOX_NOT_FOUND")
	for _, p := range paths[2:6] {
		status, h, body := w.call(p.method, p.path, w.other, fmt.Sprintf(`{"stop_at_ms":%d}`, time.Now().Add(time.Minute).UnixMilli()))
		w.wantError(status, 404, h, body, "SANDBOX_NOT_FOUND")
	}
	if sb := w.get(id); sb.Status != api.StatusRunning {
		t.Errorf("got %+v", sb)
	}
}

func TestPersonalToken(t *testing.T) {
	w := newWorld(t)
	h := http.Header{"Authorization": {"Bearer " + w.personal}, "X-Deno-Org": {"default"}}
	ws, _, err := websocket.Dial(t.Context(), w.url+"/api/v3/sandboxes/create", &websocket.DialOptions{HTTPHeader: h})
	w.must(err)
	w.roundTrip(ws)
	w.must(ws.CloseNow())
}

func TestBadConfigurations(t *testing.T) {
	w := newWorld(t)
	const path = "/api/v3/sandboxes/create"
	w.wantDialError(path, w.token, `{"memory_mb":1}`, 400, "MEMORY_OUT_OF_RANGE")
	w.wantDialError(path, w.token, `{`, 400, "INVALID_SANDBOX_CONFIG")
	w.wantDialError(path, w.token, `{"ssh":true}`, 501, "NOT_SUPPORTED_YET")
	w.wantDialError(path, w.token, `{"secrets":{"KEY":{"hosts":["sk/misplaced"],"value":"api.test"}}}`, 400, "INVALID_SECRETS")
	w.wantDialError(path, w.token, `{"x":"`+strings.Repeat("x", 60<<10)+`"}`, 400, "INVALID_SANDBOX_CONFIG")
	h := http.Header{"Authorization": {"Bearer " + w.token}, api.HeaderConfig: {"%%%"}}
	_, resp, err := websocket.Dial(t.Context(), w.url+path, &websocket.DialOptions{HTTPHeader: h})
	if err == nil {
		t.Fatal("accepted")
	}
	raw, _ := io.ReadAll(resp.Body)
	w.wantError(resp.StatusCode, 400, resp.Header, string(raw), "INVALID_SANDBOX_CONFIG")
	if w.launcher.Running() != 0 {
		t.Error("a refused configuration started something")
	}
}

func TestOtherRequests(t *testing.T) {
	w := newWorld(t)
	_, id := w.create("")
	for _, c := range []struct {
		method, path string
		status       int
		code         string
	}{
		{"GET", "/api/v3/sandboxes/create", 426, "UPGRADE_REQUIRED"},
		{"GET", "/api/v3/sandbox/" + id + "/connect", 426, "UPGRADE_REQUIRED"},
		{"POST", "/api/v3/sandboxes/create", 405, "METHOD_NOT_ALLOWED"},
		{"PUT", "/api/v3/sandbox/" + id, 405, "METHOD_NOT_ALLOWED"},
		{"GET", "/", 404, "ROUTE_NOT_FOUND"},
		{"GET", "/api/v2/apps", 404, "ROUTE_NOT_FOUND"},
		{"GET", "/api/v3/sandbox/sbx_ord_00000000000000000000", 404, "SANDBOX_NOT_FOUND"},
		{"DELETE", "/api/v3/sandbox/%2e%2e%2f%2e%2e%2fetc", 404, "SANDBOX_NOT_FOUND"},
		{"POST", "/api/v3/sandbox/" + id + "/expose/http", 501, "NOT_SUPPORTED_YET"},
		{"POST", "/api/v3/sandbox/" + id + "/expose/ssh", 501, "NOT_SUPPORTED_YET"},
		{"POST", "/api/v3/sandbox/" + id + "/expose/vscode", 501, "NOT_SUPPORTED_YET"},
	} {
		status, h, body := w.call(c.method, c.path, w.token, "{}")
		if status != c.status {
			t.Errorf("%s %s:", c.method, c.path)
		}
		w.wantError(status, c.status, h, body, c.code)
	}
	if status, _, body := w.call("GET", "/healthz", "", ""); status != 200 || !strings.Contains(body, `"ok"`) {
		t.Errorf("health: %d %s", status, body)
	}
	if status, _, body := w.call("GET", "/metrics", "", ""); status != 200 || !strings.Contains(body, "atoll_sandboxes 1") {
		t.Errorf("metrics: %d", status)
	}
}

func TestMetricsAreLocal(t *testing.T) {
	w := newWorld(t)
	req, _ := http.NewRequestWithContext(t.Context(), "GET", w.url+"/metrics", nil)
	req.Header.Set("X-Forwarded-For", "192.0.2.1")
	resp, err := http.DefaultClient.Do(req)
	w.must(err)
	defer resp.Body.Close()
	if resp.StatusCode != 403 {
		t.Errorf("status %d", resp.StatusCode)
	}
}

func TestFailedLaunchSaysNothingOfTheInside(t *testing.T) {
	w := newWorld(t)
	w.launcher.Fail = func(sandbox.ShimSpec) error { return errors.New("/var/lib/secret/path exploded") }
	_, resp, err := w.dial("/api/v3/sandboxes/create", w.token, "")
	if err == nil {
		t.Fatal("accepted")
	}
	raw, _ := io.ReadAll(resp.Body)
	w.wantError(resp.StatusCode, 500, resp.Header, string(raw), "INTERNAL_ERROR")
	if strings.Contains(string(raw), "exploded") {
		t.Errorf("body %s", raw)
	}
}

func TestOversizedMessage(t *testing.T) {
	w := newWorld(t)
	ws, _ := w.create("")
	// Its end can't be written any more: the server hangs up before.
	go func() { _ = ws.Write(context.Background(), websocket.MessageText, make([]byte, 2*maxMessage)) }()
	_, _, err := ws.Read(t.Context())
	if got := websocket.CloseStatus(err); got != websocket.StatusMessageTooBig {
		t.Errorf("closed with %v", err)
	}
}

func TestBinaryMessage(t *testing.T) {
	w := newWorld(t)
	ws, _ := w.create("")
	w.must(ws.Write(t.Context(), websocket.MessageBinary, []byte("x")))
	w.wantClosed(ws, 1003, "only text messages are accepted")
}

func TestCreatorThatLeavesEarly(t *testing.T) {
	w := newWorld(t)
	w.launcher.Delay = time.Minute
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	h := http.Header{"Authorization": {"Bearer " + w.token}}
	refused := make(chan error, 1)
	go func() {
		_, _, err := websocket.Dial(ctx, w.url+"/api/v3/sandboxes/create", &websocket.DialOptions{HTTPHeader: h})
		refused <- err
	}()
	w.eventually("the start has begun", func() bool { return w.launcher.Peak() == 1 })
	cancel()
	if err := <-refused; err == nil {
		t.Fatal("accepted")
	}
	w.eventually("the start is taken back", func() bool {
		return len(w.audit.find("create")) == 1 && w.launcher.Running() == 0
	})
}
