package obs

import (
	"bytes"
	"encoding/json"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestLogger(t *testing.T) {
	var out bytes.Buffer
	log, err := NewLogger(&out, "warn", "json")
	if err != nil {
		t.Fatal(err)
	}
	log.Info("quiet")
	log.Warn("loud")
	if s := out.String(); strings.Contains(s, "quiet") || !strings.Contains(s, `"msg":"loud"`) {
		t.Errorf("log = %s", s)
	}
	if _, err := NewLogger(&out, "loud", "text"); err == nil {
		t.Error("unknown level accepted")
	}
	if _, err := NewLogger(&out, "info", "xml"); err == nil {
		t.Error("unknown format accepted")
	}
}

func lines(t *testing.T, path string) []Event {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []Event
	for line := range strings.Lines(string(raw)) {
		var e Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		out = append(out, e)
	}
	return out
}

func TestAudit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	a, err := OpenAudit(path, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() { a.Record(Event{Action: "rpc", Method: "spawn"}) })
	}
	wg.Wait()
	if err := a.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	events := lines(t, path)
	if len(events) != 50 || events[0].Method != "spawn" || time.Since(events[0].Time) > time.Minute {
		t.Errorf("%d events, first %+v", len(events), events[0])
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
}

func TestAuditRotates(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	a, err := OpenAudit(path, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		a.Record(Event{Action: "create", Outcome: "ok"})
	}
	if err := a.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{path, path + ".1"} {
		info, err := os.Stat(p)
		if err != nil || info.Size() > 1000 || len(lines(t, p)) == 0 {
			t.Errorf("%s: %v %v", p, info, err)
		}
	}
}

func TestMetrics(t *testing.T) {
	m := NewMetrics()
	m.SandboxCreated("ok", time.Second)
	m.SandboxesLive(3)
	m.SandboxStopped("killed")
	m.Request("/x", 204)
	m.Call("spawn")
	m.Traffic("in").Message(100)
	done := m.ClientConnected()
	done()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{
		"atoll_sandboxes 3", `atoll_sandbox_creates_total{outcome="ok"} 1`, `atoll_sandbox_stops_total{reason="killed"} 1`,
		`atoll_http_requests_total{class="2xx",route="/x"} 1`, `atoll_rpc_bytes_total{direction="in"} 100`, "atoll_clients 0",
	} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("no %q in the metrics", want)
		}
	}
}
