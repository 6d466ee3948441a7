//go:build e2e

// Package api tests the server's HTTP and WebSocket surface with raw requests:
// what the official SDKs never send, and what they can't show.
package api

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/auth"
	"github.com/atollhq/atoll/internal/store"
	"github.com/atollhq/atoll/test/e2e/harness"
)

func encode(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }

// tokenOf makes an organisation of another name and returns its token. There
// is no call for that yet: it is written into the running server's store.
func tokenOf(ctx context.Context, t *testing.T, s *harness.Server, org string) string {
	t.Helper()
	db, err := store.Open(ctx, s.Data.Database())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.CreateOrg(ctx, store.Org{ID: "org_" + org, Slug: org, Created: time.Now()}); err != nil {
		t.Fatal(err)
	}
	token, _, err := auth.NewKeeper(db, slog.New(slog.DiscardHandler)).Create(ctx, org, "test", false)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestWhoMayCall(t *testing.T) {
	s := harness.New(t)
	ctx := harness.Context(t, harness.TestLimit)
	c := s.MustCreate(ctx, t, nil)
	for _, token := range []string{"", "ddo_wrong", "x", s.Token + "x", s.Token[:len(s.Token)-1], strings.ToUpper(s.Token)} {
		_, err := s.CreateRaw(ctx, token, encode("{}"))
		harness.WantRefusal(t, err, http.StatusUnauthorized, "INVALID_TOKEN")
		_, err = s.ConnectAs(ctx, token, c.ID)
		harness.WantRefusal(t, err, http.StatusUnauthorized, "INVALID_TOKEN")
		for _, call := range [][2]string{{"GET", "/api/v2/sandboxes"}, {"GET", "/api/v3/sandboxes"}, {"DELETE", "/api/v3/sandbox/" + c.ID}, {"PATCH", "/api/v3/sandbox/" + c.ID}} {
			status, raw, err := s.DoAs(ctx, token, call[0], call[1], map[string]any{"stop_at_ms": time.Now().Add(time.Hour).UnixMilli()})
			if err != nil || status != http.StatusUnauthorized || codeOf(raw) != "INVALID_TOKEN" {
				t.Errorf("%s %s with token %q: %d %s %v", call[0], call[1], token, status, raw, err)
			}
		}
	}
	if out := c.MustShell(ctx, t, "echo untouched"); out != "untouched\n" {
		t.Errorf("%q", out)
	}
}

func codeOf(raw []byte) string {
	var e api.Error
	_ = json.Unmarshal(raw, &e)
	return e.Code
}

func TestOtherOrganisationsSandboxIsNotFound(t *testing.T) {
	s := harness.New(t)
	ctx := harness.Context(t, harness.TestLimit)
	other := tokenOf(ctx, t, s, "other")
	c := s.MustCreate(ctx, t, map[string]any{"labels": map[string]string{"a": "b"}})
	_, err := s.ConnectAs(ctx, other, c.ID)
	mine := harness.WantRefusal(t, err, http.StatusNotFound, "SANDBOX_NOT_FOUND")
	const unknown = "sbx_ord_00000000000000000000"
	_, err = s.ConnectAs(ctx, other, unknown)
	none := harness.WantRefusal(t, err, http.StatusNotFound, "SANDBOX_NOT_FOUND")
	if strings.ReplaceAll(mine.Message, c.ID, unknown) != none.Message {
		t.Errorf("the answers tell a foreign sandbox from none: %q and %q", mine.Message, none.Message)
	}
	for _, method := range []string{"DELETE", "PATCH", "GET"} {
		status, raw, err := s.DoAs(ctx, other, method, "/api/v3/sandbox/"+c.ID, map[string]any{"stop_at_ms": time.Now().Add(time.Minute).UnixMilli()})
		if err != nil || status != http.StatusNotFound || codeOf(raw) != "SANDBOX_NOT_FOUND" {
			t.Errorf("%s: %d %s %v", method, status, raw, err)
		}
	}
	if status, raw, _ := s.DoAs(ctx, other, "GET", "/api/v2/sandboxes", nil); status != http.StatusOK || strings.TrimSpace(string(raw)) != "[]" {
		t.Errorf("the other organisation's list: %d %s", status, raw)
	}
	if out := c.MustShell(ctx, t, "echo alive"); out != "alive\n" {
		t.Errorf("%q", out)
	}
}

func TestUnknownPathsAndIDs(t *testing.T) {
	s := harness.New(t)
	ctx := harness.Context(t, harness.TestLimit)
	for _, id := range []string{"sbx_ord_00000000000000000000", "nonsense", "sbx_ord_0000000000000000000O", strings.Repeat("x", 3000), "%2e%2e%2f", "a%00b"} {
		_, err := s.Connect(ctx, id)
		harness.WantRefusal(t, err, http.StatusNotFound, "SANDBOX_NOT_FOUND")
		if status, raw, err := s.Do(ctx, "DELETE", "/api/v3/sandbox/"+id, nil); err != nil || status != http.StatusNotFound {
			t.Errorf("DELETE %.20s: %d %s %v", id, status, raw, err)
		}
	}
	for _, call := range [][2]string{{"GET", "/"}, {"GET", "/api/v9/x"}, {"POST", "/api/v2/sandboxes"}, {"GET", "/api/v3/sandboxes/create"}} {
		status, raw, err := s.Do(ctx, call[0], call[1], nil)
		if err != nil || status/100 != 4 || codeOf(raw) == "" {
			t.Errorf("%v: %d %s %v", call, status, raw, err)
		}
	}
}

func TestBadConfiguration(t *testing.T) {
	s := harness.New(t)
	ctx := harness.Context(t, harness.TestLimit)
	many := `{"labels":{"a":"","b":"","c":"","d":"","e":"","f":""}}`
	env := map[string]string{}
	for i := range 300 {
		env[fmt.Sprint("V", i)] = "x"
	}
	tooManyEnv, _ := json.Marshal(map[string]any{"env": env})
	for _, test := range []struct{ header, code, mention string }{
		{"!!!", "INVALID_SANDBOX_CONFIG", "base64"},
		{encode("{"), "INVALID_SANDBOX_CONFIG", "JSON"},
		{encode("[]"), "INVALID_SANDBOX_CONFIG", "object"},
		{encode("null"), "INVALID_SANDBOX_CONFIG", "object"},
		{encode(`{"memory_mb":"lots"}`), "INVALID_SANDBOX_CONFIG", "memory_mb"},
		{encode(`{"memory_mb":1.5}`), "INVALID_SANDBOX_CONFIG", "memory_mb"},
		{encode(`{"labels":["a"]}`), "INVALID_SANDBOX_CONFIG", "labels"},
		{encode(`{"labels":{"a":1}}`), "INVALID_SANDBOX_CONFIG", "labels"},
		{encode(`{"env":{"a":{}}}`), "INVALID_SANDBOX_CONFIG", "env"},
		{encode(`{"stop_at_ms":"soon"}`), "INVALID_SANDBOX_CONFIG", "stop_at_ms"},
		{encode(`{"x":"` + strings.Repeat("x", 60<<10) + `"}`), "INVALID_SANDBOX_CONFIG", "larger"},
		{encode(`{"memory_mb":767}`), "MEMORY_OUT_OF_RANGE", "768"},
		{encode(`{"memory_mb":4097}`), "MEMORY_OUT_OF_RANGE", "4096"},
		{encode(`{"memory_mb":-1}`), "MEMORY_OUT_OF_RANGE", "768"},
		{encode(`{"stop_at_ms":1}`), "INVALID_TIMEOUT", "stop_at_ms"},
		{encode(`{"timeout":"yesterday"}`), "INVALID_TIMEOUT", "timeout"},
		{encode(`{"timeout":"0s"}`), "INVALID_TIMEOUT", "timeout"},
		{encode(`{"region":"xyz"}`), "UNKNOWN_REGION", "ord"},
		{encode(many), "INVALID_LABELS", "5"},
		{encode(`{"labels":{"` + strings.Repeat("k", 65) + `":"v"}}`), "INVALID_LABELS", "64"},
		{encode(`{"labels":{"k":"` + strings.Repeat("v", 129) + `"}}`), "INVALID_LABELS", "128"},
		{encode(`{"labels":{"":"v"}}`), "INVALID_LABELS", "empty"},
		{encode(string(tooManyEnv)), "INVALID_ENV", "256"},
		{encode(`{"env":{"A=B":"v"}}`), "INVALID_ENV", "A=B"},
		{encode(`{"env":{"A":"x\u0000y"}}`), "INVALID_ENV", "A"},
		{encode(`{"env":{"A":"` + strings.Repeat("v", 33<<10) + `"}}`), "INVALID_ENV", "32 KiB"},
	} {
		_, err := s.CreateRaw(ctx, s.Token, test.header)
		if r := harness.WantRefusal(t, err, http.StatusBadRequest, test.code); !strings.Contains(r.Message, test.mention) {
			t.Errorf("%.60s: the message does not mention %q: %s", test.header, test.mention, r.Message)
		}
	}
	if list, err := s.List(ctx); err != nil || len(list) != 0 {
		t.Errorf("refused calls left sandboxes: %v %v", list, err)
	}
}

func TestWhatLaterVersionsBring(t *testing.T) {
	s := harness.New(t)
	ctx := harness.Context(t, harness.TestLimit)
	for field, config := range map[string]string{
		"root":    `{"root":{"volume":"v"}}`,
		"volumes": `{"volumes":[{"volume":"v","path":"/data"}]}`,
		"ssh":     `{"ssh":true}`,
		"port":    `{"port":8000}`,
	} {
		_, err := s.CreateRaw(ctx, s.Token, encode(config))
		refusal, _ := err.(*harness.Refusal)
		if refusal == nil || refusal.Status/100 == 2 || refusal.Code != "NOT_SUPPORTED_YET" || !strings.Contains(refusal.Message, field) {
			t.Errorf("%s: %v", config, err)
		}
	}
	// What asks for nothing is no request for it; the SDKs send it always.
	c, err := s.CreateRaw(ctx, s.Token, encode(`{"volumes":[],"root":null,"ssh":false,"debug":false,"memory_mb":1280,"unknown_field":1}`))
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func TestJSONRPCMistakes(t *testing.T) {
	s := harness.New(t)
	ctx := harness.Context(t, harness.TestLimit)
	c := s.MustCreate(ctx, t, nil)

	if r, err := c.Request(ctx, "noSuchMethod", map[string]any{}); err != nil || r.Error == nil || r.Error.Code != api.RPCMethodNotFound || r.Error.Message != "Method not found" {
		t.Errorf("unknown method: %+v %v", r.Error, err)
	}
	for _, test := range []struct {
		method string
		params any
		path   string
	}{
		{"readFile", map[string]any{}, "path"},
		{"readFile", map[string]any{"path": 5}, "path"},
		{"spawn", map[string]any{"args": []string{}}, "command"},
		{"spawn", map[string]any{"command": "true", "args": "x", "stdout": "null", "stderr": "null"}, "args"},
		{"chmod", map[string]any{"path": "x", "mode": "rwx"}, "mode"},
		{"envSet", map[string]any{"key": "k"}, "value"},
		{"fileRead", map[string]any{"fileHandleId": "1", "length": 1}, "fileHandleId"},
		{"writeFile", map[string]any{"path": "x", "content": 1}, "content"},
	} {
		r, err := c.Request(ctx, test.method, test.params)
		if err != nil || r.Error == nil || r.Error.Code != api.RPCInvalidParams {
			t.Errorf("%s %v: %+v %s %v", test.method, test.params, r.Error, r.Result, err)
			continue
		}
		var data api.RemoteError
		var issues []struct {
			Path    []any  `json:"path"`
			Message string `json:"message"`
		}
		if err := json.Unmarshal(r.Error.Data, &data); err != nil || data.ConstructorName != "ZodError" {
			t.Errorf("%s: data %s: %v", test.method, r.Error.Data, err)
		} else if err := json.Unmarshal([]byte(data.Message), &issues); err != nil || len(issues) == 0 || len(issues[0].Path) == 0 || issues[0].Path[0] != test.path {
			t.Errorf("%s: issues %s: %v", test.method, data.Message, err)
		}
	}
	// Binary in a text call, a handle and a stream that nobody opened, ids of
	// processes that are not: each is an answer.
	for method, params := range map[string]any{
		"fileRead": map[string]any{"fileHandleId": 99999, "length": 1}, "processWait": map[string]any{"pid": 999999},
		"writeFile": map[string]any{"path": "x", "content": "%%%"}, "denoReplEval": map[string]any{"pid": 1, "code": "1"},
	} {
		if err := c.Call(ctx, method, params, nil); err == nil {
			t.Errorf("%s %v: no error", method, params)
		}
	}
	if out := c.MustShell(ctx, t, "echo on"); out != "on\n" {
		t.Errorf("%q", out)
	}
}

func TestMalformedMessages(t *testing.T) {
	s := harness.New(t)
	ctx := harness.Context(t, harness.TestLimit)
	for name, text := range map[string]string{"not JSON": "{nope", "a number": "5", "no method": `{"jsonrpc":"2.0","id":1}`, "a list": "[]", "bad id": `{"jsonrpc":"2.0","id":{},"method":"envGet"}`} {
		t.Run(name, func(t *testing.T) {
			c := s.MustCreate(ctx, t, nil)
			ws := s.Socket(ctx, t, c.ID)
			if err := ws.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
				t.Fatal(err)
			}
			_, raw, err := ws.Read(ctx)
			var r api.Response
			switch {
			case err != nil:
				if code := websocket.CloseStatus(err); code != 4000 && code != 4001 {
					t.Errorf("closed with %d: %v", code, err)
				}
			case json.Unmarshal(raw, &r) != nil || r.Error == nil:
				t.Errorf("answer: %s", raw)
			case name == "not JSON" && r.Error.Code != api.RPCParseError:
				t.Errorf("code %d", r.Error.Code)
			case name != "not JSON" && r.Error.Code != api.RPCInvalidRequest:
				t.Errorf("code %d", r.Error.Code)
			}
			if out := c.MustShell(ctx, t, "echo on"); out != "on\n" {
				t.Errorf("the other client: %q", out)
			}
			c.Close()
		})
	}
}

func TestFrames(t *testing.T) {
	s := harness.New(t)
	ctx := harness.Context(t, harness.TestLimit)
	c := s.MustCreate(ctx, t, nil)

	t.Run("ping", func(t *testing.T) {
		ws := s.Socket(ctx, t, c.ID)
		if err := ws.Write(ctx, websocket.MessageText, []byte("ping")); err != nil {
			t.Fatal(err)
		}
		if kind, raw, err := ws.Read(ctx); err != nil || kind != websocket.MessageText || string(raw) != "pong" {
			t.Errorf("%v %q %v", kind, raw, err)
		}
	})
	t.Run("binary", func(t *testing.T) {
		ws := s.Socket(ctx, t, c.ID)
		if err := ws.Write(ctx, websocket.MessageBinary, []byte("ping")); err != nil {
			t.Fatal(err)
		}
		if _, _, err := ws.Read(ctx); websocket.CloseStatus(err) != websocket.StatusUnsupportedData {
			t.Errorf("%v", err)
		}
	})
	t.Run("too large", func(t *testing.T) {
		ws := s.Socket(ctx, t, c.ID)
		w, err := ws.Writer(ctx, websocket.MessageText)
		if err != nil {
			t.Fatal(err)
		}
		piece := []byte(strings.Repeat("x", 1<<20))
		_, _ = w.Write([]byte(`{"jsonrpc":"2.0","id":1,"method":"writeTextFile","params":{"path":"x","content":"`))
		for range api.MaxClientMessage>>20 + 1 {
			if _, err := w.Write(piece); err != nil {
				break // the server has had enough
			}
		}
		if _, _, err := ws.Read(ctx); websocket.CloseStatus(err) != websocket.StatusMessageTooBig {
			t.Errorf("%v", err)
		}
	})
	if out := c.MustShell(ctx, t, "echo on"); out != "on\n" {
		t.Errorf("the first client: %q", out)
	}
}

func TestCloseCodes(t *testing.T) {
	s := harness.New(t)
	ctx := harness.Context(t, harness.TestLimit)
	wantClose := func(c *harness.Conn, code websocket.StatusCode, reason string) {
		t.Helper()
		got, text, err := c.AwaitClose(ctx)
		if err != nil || got != code || text != reason {
			t.Errorf("closed with %d %q %v, want %d %q", got, text, err, code, reason)
		}
	}
	wantReason := func(c *harness.Conn, reason string) {
		t.Helper()
		if sb := s.AwaitStopped(ctx, t, c.ID); sb.StopReason != reason || sb.StoppedAt == nil {
			t.Errorf("%+v, want reason %s", sb, reason)
		}
	}
	t.Run("timeout", func(t *testing.T) {
		c, _ := s.MustCreateBrief(ctx, t, 2*time.Second)
		wantClose(c, 1001, "sandbox timeout")
		wantReason(c, api.StopTimeout)
		_, err := s.Connect(ctx, c.ID)
		harness.WantRefusal(t, err, http.StatusNotFound, "SANDBOX_STOPPED")
	})
	t.Run("kill", func(t *testing.T) {
		c := s.MustCreate(ctx, t, map[string]any{"timeout": "10m"})
		second := s.MustConnect(ctx, t, c.ID)
		if err := s.Delete(ctx, c.ID); err != nil {
			t.Fatal(err)
		}
		wantClose(c, 1000, "sandbox killed")
		wantClose(second, 1000, "sandbox killed")
		wantReason(c, api.StopKilled)
	})
	t.Run("session", func(t *testing.T) {
		c := s.MustCreate(ctx, t, nil)
		second := s.MustConnect(ctx, t, c.ID)
		c.Close()
		wantClose(second, 1000, "session closed")
		wantReason(c, api.StopSessionClosed)
	})
	t.Run("crash", func(t *testing.T) {
		c := s.MustCreate(ctx, t, nil)
		if err := s.KillMachine(c.ID); err != nil {
			t.Fatal(err)
		}
		wantClose(c, 1011, "sandbox crashed")
		wantReason(c, api.StopCrashed)
	})
}

// A client whose network is lost in the middle of streams in both directions
// ends its session, and everything is freed.
func TestClientVanishes(t *testing.T) {
	s := harness.New(t)
	ctx := harness.Context(t, harness.TestLimit)
	before, err := s.Count(ctx)
	if err != nil {
		t.Fatal(err)
	}
	c := s.MustCreate(ctx, t, nil)
	if _, err := c.Spawn(ctx, "yes"); err != nil {
		t.Fatal(err)
	}
	if err := c.Notify(ctx, api.NotifyStreamStart, api.StreamParams{StreamID: 7}); err != nil {
		t.Fatal(err)
	}
	go func() { _ = c.Call(ctx, "writeFile", map[string]any{"path": "half", "contentStreamId": 7}, nil) }()
	for range 20 {
		_ = c.Notify(ctx, api.NotifyStreamEnqueue, api.StreamParams{StreamID: 7, Data: make([]byte, 64<<10)})
	}
	c.Vanish()
	if sb := s.AwaitStopped(ctx, t, c.ID); sb.StopReason != api.StopSessionClosed {
		t.Errorf("reason %s", sb.StopReason)
	}
	if err := s.AwaitCensus(ctx, before, harness.Slack{FDs: 4, Goroutines: 8, HeapBytes: 64 << 20}); err != nil {
		t.Error(err)
	}
}

// A secondary client that vanishes takes its processes' streams with it, and
// nothing else.
func TestSecondClientVanishes(t *testing.T) {
	s := harness.New(t)
	ctx := harness.Context(t, harness.TestLimit)
	c := s.MustCreate(ctx, t, nil)
	second := s.MustConnect(ctx, t, c.ID)
	if _, err := second.Spawn(ctx, "yes"); err != nil {
		t.Fatal(err)
	}
	second.Vanish()
	for range 20 {
		if out := c.MustShell(ctx, t, "echo on"); out != "on\n" {
			t.Fatalf("%q", out)
		}
	}
}

func TestTenThousandTinyFiles(t *testing.T) {
	s := harness.New(t)
	ctx := harness.Context(t, 2*harness.TestLimit)
	c := s.MustCreate(ctx, t, nil)
	const files, workers = 10_000, 64
	if err := c.Call(ctx, "mkdir", map[string]any{"path": "tiny"}, nil); err != nil {
		t.Fatal(err)
	}
	next := make(chan int)
	var work sync.WaitGroup
	began := time.Now()
	for range workers {
		work.Go(func() {
			for n := range next {
				if err := c.Call(ctx, "writeTextFile", map[string]any{"path": fmt.Sprintf("tiny/%d", n), "content": fmt.Sprint(n)}, nil); err != nil {
					t.Errorf("file %d: %v", n, err)
				}
			}
		})
	}
	for n := range files {
		next <- n
	}
	close(next)
	work.Wait()
	t.Logf("%d files in %v", files, time.Since(began).Round(time.Millisecond))
	var entries []api.DirEntry
	if err := c.Call(ctx, "readDir", map[string]any{"path": "tiny"}, &entries); err != nil || len(entries) != files {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
	var text string
	if err := c.Call(ctx, "readTextFile", map[string]any{"path": "tiny/9999"}, &text); err != nil || text != "9999" {
		t.Errorf("%q %v", text, err)
	}
}

func TestExtend(t *testing.T) {
	s := harness.New(t)
	ctx := harness.Context(t, harness.TestLimit)
	c := s.MustCreate(ctx, t, map[string]any{"timeout": "5m"})
	patch := func(body any) (int, int64, string) {
		status, raw, err := s.Do(ctx, "PATCH", "/api/v3/sandbox/"+c.ID, body)
		if err != nil {
			t.Fatal(err)
		}
		var out api.PatchSandboxResult
		_ = json.Unmarshal(raw, &out)
		return status, out.StopAtMS, codeOf(raw)
	}
	want := time.Now().Add(10 * time.Minute).UnixMilli()
	if status, got, _ := patch(map[string]any{"stop_at_ms": want}); status != http.StatusOK || got != want {
		t.Errorf("10 minutes: %d %d", status, got)
	}
	most := time.Now().Add(31 * time.Minute).UnixMilli()
	if status, got, code := patch(map[string]any{"stop_at_ms": time.Now().Add(5 * time.Hour).UnixMilli()}); status == http.StatusOK && got > most {
		t.Errorf("5 hours: %d %d %s", status, got, code)
	}
	for _, body := range []any{map[string]any{}, map[string]any{"stop_at_ms": "x"}, []int{1}, map[string]any{"stop_at_ms": -1}} {
		if status, _, code := patch(body); status != http.StatusBadRequest || code == "" {
			t.Errorf("%v: %d %s", body, status, code)
		}
	}
	session := s.MustCreate(ctx, t, nil)
	if status, raw, _ := s.Do(ctx, "PATCH", "/api/v3/sandbox/"+session.ID, map[string]any{"stop_at_ms": want}); status/100 != 4 || codeOf(raw) == "" {
		t.Errorf("a session: %d %s", status, raw)
	}
	if err := s.Delete(ctx, c.ID); err != nil {
		t.Fatal(err)
	}
}
