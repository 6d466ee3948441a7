package httpapi_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/sandbox"
)

// post makes a call on a sandbox and reads its answer into v.
func (w *world) post(id, verb, body string, v any) {
	w.t.Helper()
	status, _, text := w.call("POST", "/api/v3/sandbox/"+id+"/"+verb, w.token, body)
	if status != 200 {
		w.t.Fatalf("%s: %d %s", verb, status, text)
	}
	w.must(json.Unmarshal([]byte(text), v))
}

func (w *world) wantPower(id, power string) {
	w.t.Helper()
	if sb := w.get(id); sb.Status != api.StatusRunning || sb.Power != power {
		w.t.Errorf("it is %s and %s, want %s", sb.Status, sb.Power, power)
	}
}

func TestMessageResumes(t *testing.T) {
	w := newWorld(t)
	ws, id := w.create(`{"timeout":"5m"}`)
	w.roundTrip(ws)
	var paused api.PauseResult
	w.post(id, "pause", "", &paused)
	if paused.Power != api.PowerPaused {
		t.Errorf("got %+v", paused)
	}
	w.wantPower(id, api.PowerPaused)
	if sb := w.get(id); sb.StopAt != nil || sb.RemainingMS == nil {
		t.Errorf("got %+v", sb)
	}
	w.must(ws.Write(t.Context(), websocket.MessageText, []byte("ping"))) // is no traffic
	if _, msg, err := ws.Read(t.Context()); err != nil || string(msg) != "pong" {
		t.Errorf("ping: %q %v", msg, err)
	}
	w.wantPower(id, api.PowerPaused)
	w.roundTrip(ws)
	w.wantPower(id, api.PowerRunning)
	var sb api.Sandbox
	w.post(id, "resume", `{}`, &sb) // it runs
	if sb.ID != id || sb.Power != api.PowerRunning || sb.StopAt == nil {
		t.Errorf("got %+v", sb)
	}
	for action, want := range map[string]int{"pause": 1, "resume": 1} {
		events := w.audit.find(action)
		if len(events) != want || events[0].Sandbox != id || events[0].Outcome != "ok" || events[0].Token == "" {
			t.Errorf("%s is audited as %+v", action, events)
		}
	}
	_, _, metrics := w.call("GET", "/metrics", "", "")
	for _, line := range []string{
		`atoll_sandbox_power_changes_total{to="paused"} 1`, `atoll_sandbox_power_changes_total{to="running"} 1`, `atoll_sandbox_resume_seconds_count 1`,
		`atoll_http_requests_total{class="2xx",route="/api/v3/sandbox/{id}/pause"} 1`,
	} {
		if !strings.Contains(metrics, line) {
			t.Errorf("there is no %s", line)
		}
	}
}

func TestPauseToDiskAndConnect(t *testing.T) {
	w := newWorld(t)
	ws, id := w.create("")
	var paused api.PauseResult
	w.post(id, "pause", `{"to_disk":true}`, &paused)
	if paused.Power != api.PowerSuspended || paused.Bytes == 0 || paused.StoodStillMS == 0 {
		t.Errorf("got %+v", paused)
	}
	w.wantClosed(ws, 1001, "sandbox paused")
	w.wantPower(id, api.PowerSuspended)
	second, _, err := w.dial("/api/v3/sandbox/"+id+"/connect", w.token, "")
	w.must(err)
	w.roundTrip(second)
	w.wantPower(id, api.PowerRunning)
	w.must(second.Close(websocket.StatusNormalClosure, "")) // it took the session over
	w.eventually("the session ends", func() bool { return w.get(id).StopReason == api.StopSessionClosed })
}

func TestResumeThatFails(t *testing.T) {
	w := newWorld(t)
	ws, id := w.create("")
	var paused api.PauseResult
	w.post(id, "pause", "", &paused)
	w.launcher.FailPower = func(string, string) error { return errors.New("no") }
	w.must(ws.Write(t.Context(), websocket.MessageText, []byte(`{"method":"envGet"}`)))
	w.wantClosed(ws, 1011, "the sandbox could not be resumed")
	status, h, body := w.call("POST", "/api/v3/sandbox/"+id+"/resume", w.token, "")
	w.wantError(status, 503, h, body, "RESUME_FAILED")
	w.wantDialError("/api/v3/sandbox/"+id+"/connect", w.token, "", 503, "RESUME_FAILED")
	w.wantPower(id, api.PowerPaused)
	w.launcher.FailPower = nil
	again, _, err := w.dial("/api/v3/sandbox/"+id+"/connect", w.token, "")
	w.must(err)
	w.roundTrip(again)
}

func TestFork(t *testing.T) {
	w := newWorld(t)
	_, id := w.create(`{"timeout":"5m","labels":{"a":"b"},"secrets":{"KEY":{"hosts":["a.test"],"value":"hunter2"}}}`)
	var children []api.Sandbox
	w.post(id, "fork", `{"count":3,"labels":{"c":"d"},"timeout":"1m"}`, &children)
	if len(children) != 3 {
		t.Fatalf("%d children", len(children))
	}
	for _, child := range children {
		if diff := cmp.Diff(child, w.get(child.ID)); diff != "" {
			t.Error(diff)
		}
		if child.ForkedFrom != id || child.Labels["c"] != "d" || len(child.Labels) != 1 || child.Timeout != "duration" {
			t.Errorf("got %+v", child)
		}
		ws, _, err := w.dial("/api/v3/sandbox/"+child.ID+"/connect", w.token, "")
		w.must(err)
		w.roundTrip(ws)
		w.must(ws.CloseNow())
	}
	w.post(id, "fork", "", &children)
	if len(children) != 1 || children[0].Labels["a"] != "b" {
		t.Errorf("got %+v", children)
	}
	if n, c := len(w.audit.find("fork")), len(w.audit.find("create")); n != 2 || c != 5 {
		t.Errorf("%d forks and %d creations are audited", n, c)
	}
	_, h, list := w.call("GET", "/api/v2/sandboxes", w.token, "")
	if strings.Contains(list, "hunter2") || strings.Contains(fmt.Sprint(h), "hunter2") || strings.Contains(w.logs.String(), "hunter2") {
		t.Error("a value is shown")
	}
}

func TestBadPowerCalls(t *testing.T) {
	w := newWorld(t)
	_, id := w.create(`{"timeout":"5m"}`)
	for _, c := range []struct {
		verb, body string
		status     int
		code       string
	}{
		{"pause", `{"to_disk":"yes"}`, 400, "INVALID_BODY"},
		{"pause", `{`, 400, "INVALID_BODY"},
		{"pause", `[]`, 400, "INVALID_BODY"},
		{"resume", `7`, 400, "INVALID_BODY"},
		{"fork", `{"count":0}`, 400, "FORK_COUNT_OUT_OF_RANGE"},
		{"fork", `{"count":-1}`, 400, "FORK_COUNT_OUT_OF_RANGE"},
		{"fork", `{"count":5}`, 400, "FORK_COUNT_OUT_OF_RANGE"},
		{"fork", `{"count":1e99}`, 400, "INVALID_BODY"},
		{"fork", `{"count":"2"}`, 400, "INVALID_BODY"},
		{"fork", `{"count":1.5}`, 400, "INVALID_BODY"},
		{"fork", `{"labels":["a"]}`, 400, "INVALID_BODY"},
		{"fork", `{"labels":{"":"a"}}`, 400, "INVALID_LABELS"},
		{"fork", `{"timeout":"later"}`, 400, "INVALID_TIMEOUT"},
		{"fork", `{"timeout":5}`, 400, "INVALID_BODY"},
		{"fork", `{"stop_at_ms":5}`, 400, "INVALID_TIMEOUT"},
		{"fork", strings.Repeat(" ", 70<<10), 413, "BODY_TOO_LARGE"},
	} {
		status, h, body := w.call("POST", "/api/v3/sandbox/"+id+"/"+c.verb, w.token, c.body)
		w.wantError(status, c.status, h, body, c.code)
	}
	for _, verb := range []string{"pause", "resume", "fork"} {
		path := "/api/v3/sandbox/" + id + "/" + verb
		status, h, body := w.call("GET", path, w.token, "")
		w.wantError(status, 405, h, body, "METHOD_NOT_ALLOWED")
		status, h, body = w.call("POST", path, "", "")
		w.wantError(status, 401, h, body, "INVALID_TOKEN")
		status, h, body = w.call("POST", path, w.other, "")
		w.wantError(status, 404, h, body, "SANDBOX_NOT_FOUND")
		status, h, body = w.call("POST", "/api/v3/sandbox/sbx_x/"+verb, w.token, "")
		w.wantError(status, 404, h, body, "SANDBOX_NOT_FOUND")
	}
	w.wantPower(id, api.PowerRunning)
	w.call("DELETE", "/api/v3/sandbox/"+id, w.token, "")
	for _, verb := range []string{"pause", "resume", "fork"} {
		status, h, body := w.call("POST", "/api/v3/sandbox/"+id+"/"+verb, w.token, "")
		w.wantError(status, 404, h, body, "SANDBOX_STOPPED")
	}
}

func TestIdlePolicyIsSetAndChanged(t *testing.T) {
	w := newWorld(t)
	_, id := w.create(`{"timeout":"5m","idle_pause":"10m","idle_pause_to_disk":true}`)
	if sb := w.get(id); sb.IdlePause != "10m" || !sb.IdlePauseToDisk {
		t.Errorf("got %+v", sb)
	}
	yes, no := true, false
	for _, c := range []struct {
		body, idle string
		disk       *bool
	}{
		{`{"idle_pause":"30s"}`, "30s", &yes},
		{`{"idle_pause_to_disk":false}`, "30s", &no},
		{`{"idle_pause":"2h","allow_net":[]}`, "2h", &no},
		{`{"idle_pause":null}`, "", &no},
	} {
		got := w.patch(id, c.body)
		want := api.PatchSandboxResult{IdlePause: api.OptionalText{Given: true, Text: c.idle}, IdlePauseToDisk: c.disk, Network: got.Network}
		if diff := cmp.Diff(want, got); diff != "" || w.get(id).IdlePause != c.idle {
			t.Errorf("%s: %s", c.body, diff)
		}
	}
	for body, code := range map[string]string{
		`{"idle_pause":"1s"}`:                          sandbox.CodeInvalidIdle,
		`{"idle_pause":"session","allow_net":["a b"]}`: sandbox.CodeInvalidAllowNet,
		`{"idle_pause":600}`:                           "INVALID_BODY",
		`{"idle_pause_to_disk":"yes"}`:                 "INVALID_BODY",
		`{"idle_pause":"1m","stop_at_ms":5}`:           "INVALID_TIMEOUT",
	} {
		status, h, text := w.call("PATCH", "/api/v3/sandbox/"+id, w.token, body)
		w.wantError(status, 400, h, text, code)
	}
	if got := w.get(id).IdlePause; got != "" {
		t.Errorf("a change that was refused set %q", got)
	}
	for config, code := range map[string]string{
		`{"idle_pause":"9s"}`:         sandbox.CodeInvalidIdle,
		`{"idle_pause":600}`:          sandbox.CodeInvalidIdle,
		`{"idle_pause_to_disk":"no"}`: sandbox.CodeInvalidIdle,
	} {
		w.wantDialError("/api/v3/sandboxes/create", w.token, config, 400, code)
	}
	if n := len(w.audit.find("set_idle")); n != 4 {
		t.Errorf("%d changes are audited", n)
	}
}
