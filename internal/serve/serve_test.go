package serve

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/auth"
	"github.com/atollhq/atoll/internal/config"
	"github.com/atollhq/atoll/internal/errs"
	"github.com/atollhq/atoll/internal/machine"
	"github.com/atollhq/atoll/internal/sandbox/sandboxtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is one run of a daemon on a data directory.
type server struct {
	t    *testing.T
	url  string
	stop func()
}

func settings(t *testing.T) config.Server {
	cfg := config.Default()
	cfg.DataDir = t.TempDir()
	cfg.Listen = "127.0.0.1:0"
	cfg.Limits.FreeMemoryMiB = 0
	return cfg
}

var quiet = slog.New(slog.DiscardHandler)

func start(t *testing.T, cfg config.Server, l *sandboxtest.Launcher) *server {
	t.Helper()
	return startLogging(t, cfg, l, quiet)
}

func startLogging(t *testing.T, cfg config.Server, l *sandboxtest.Launcher, log *slog.Logger) *server {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan string, 1), make(chan error, 1)
	go func() {
		ended <- RunWith(ctx, cfg, log, Options{Launcher: l, Version: "test", Ready: func(url string) { ready <- url }})
	}()
	s := &server{t: t}
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("server ended with %v", err)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	select {
	case s.url = <-ready:
	case err := <-ended:
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(s.stop)
	return s
}

func token(t *testing.T, cfg config.Server) string {
	t.Helper()
	raw, err := os.ReadFile(cfg.Data().TokenFile())
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(raw))
}

func (s *server) dial(path, token string) (*websocket.Conn, string) {
	s.t.Helper()
	h := http.Header{"Authorization": {"Bearer " + token}}
	ws, resp, err := websocket.Dial(s.t.Context(), s.url+path, &websocket.DialOptions{HTTPHeader: h})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = ws.CloseNow() })
	return ws, resp.Header.Get(api.HeaderSandboxID)
}

func roundTrip(t *testing.T, ws *websocket.Conn) {
	t.Helper()
	if err := ws.Write(t.Context(), websocket.MessageText, []byte(`{"jsonrpc":"2.0","id":1,"method":"envGet","params":{}}`)); err != nil {
		t.Fatal(err)
	}
	if _, msg, err := ws.Read(t.Context()); err != nil || !bytes.Contains(msg, []byte(`"ok"`)) {
		t.Fatalf("%s %v", msg, err)
	}
}

func TestTemplateHasAllOfTheImage(t *testing.T) {
	d := &daemon{cfg: config.Server{ImageDir: "/i", Image: "builtin:debian-13"}}
	spec, err := d.template()
	if err != nil {
		t.Fatal(err)
	}
	want := machine.Image{File: "/i/debian-13.erofs", Kernel: "/i/debian-13.vmlinuz", Modules: "/i/debian-13.modules"}
	if spec.Image != want {
		t.Errorf("image = %+v", spec.Image)
	}
}

func TestFirstStartAndRestart(t *testing.T) {
	cfg, launcher := settings(t), &sandboxtest.Launcher{}
	first := start(t, cfg, launcher)
	secret := token(t, cfg)
	if info, err := os.Stat(cfg.Data().TokenFile()); err != nil || info.Mode().Perm() != 0o600 || !strings.HasPrefix(secret, "ddo_") {
		t.Errorf("token file: %v %v", info.Mode(), err)
	}
	if raw, err := os.ReadFile(cfg.Data().EndpointFile()); err != nil || strings.TrimSpace(string(raw)) != first.url {
		t.Errorf("endpoint file: %q %v, want %s", raw, err, first.url)
	}
	ws, id := first.dial("/api/v3/sandboxes/create", secret)
	roundTrip(t, ws)

	closed := make(chan error, 1)
	go func() { _, _, err := ws.Read(context.Background()); closed <- err }()
	first.stop()
	if err := <-closed; websocket.CloseStatus(err) != websocket.StatusServiceRestart {
		t.Errorf("client saw %v", err)
	}
	if launcher.Running() != 1 {
		t.Fatal("the sandbox did not outlive its daemon")
	}

	second := start(t, cfg, launcher)
	if token(t, cfg) != secret {
		t.Error("the second start made another token")
	}
	ws, _ = second.dial("/api/v3/sandbox/"+id+"/connect", secret)
	roundTrip(t, ws)
}

func TestStopSandboxes(t *testing.T) {
	cfg, launcher := settings(t), &sandboxtest.Launcher{}
	cfg.StopSandboxes = true
	s := start(t, cfg, launcher)
	ws, _ := s.dial("/api/v3/sandboxes/create", token(t, cfg))
	closed := make(chan error, 1)
	go func() { _, _, err := ws.Read(context.Background()); closed <- err }()
	s.stop()
	if err := <-closed; websocket.CloseStatus(err) != websocket.StatusGoingAway {
		t.Errorf("client saw %v", err)
	}
	if launcher.Running() != 0 {
		t.Error("a sandbox goes on")
	}
}

func TestOneDaemonPerDirectory(t *testing.T) {
	cfg := settings(t)
	start(t, cfg, &sandboxtest.Launcher{})
	err := RunWith(t.Context(), cfg, quiet, Options{Launcher: &sandboxtest.Launcher{}})
	if !errors.Is(err, errs.Conflict) {
		t.Errorf("error = %v", err)
	}
}

func TestStartFailsCleanly(t *testing.T) {
	cfg := settings(t)
	other := start(t, cfg, &sandboxtest.Launcher{})
	second := settings(t)
	second.Listen = strings.TrimPrefix(other.url, "http://")
	if err := RunWith(t.Context(), second, quiet, Options{Launcher: &sandboxtest.Launcher{}}); err == nil {
		t.Error("two servers on one address")
	}
	second.Listen = "127.0.0.1:0"
	second.BinDir = t.TempDir()
	if err := Run(t.Context(), second, quiet); errs.Public(err).Code != "PROGRAM_MISSING" {
		t.Errorf("error = %v", err)
	}
	second.Limits.CPUs = 0
	if err := Run(t.Context(), second, quiet); err == nil {
		t.Error("wrong settings are accepted")
	}
}

func TestCeilingThatIsNone(t *testing.T) {
	for _, bad := range []string{"a b", "nobody=example.com"} {
		cfg := settings(t)
		cfg.Network.Ceiling = []string{bad}
		err := RunWith(t.Context(), cfg, quiet, Options{Launcher: &sandboxtest.Launcher{}})
		if !errors.Is(err, errs.Invalid) || !strings.Contains(err.Error(), "net_ceiling") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestTokensBesideARunningServer(t *testing.T) {
	cfg := settings(t)
	if _, err := OpenTokens(t.Context(), cfg, quiet); !errors.Is(err, errs.NotFound) {
		t.Errorf("error = %v", err)
	}
	s := start(t, cfg, &sandboxtest.Launcher{})
	tokens, err := OpenTokens(t.Context(), cfg, quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer tokens.Close()
	secret, row, err := tokens.Create(t.Context(), auth.DefaultOrg, "ci", false)
	if err != nil {
		t.Fatal(err)
	}
	status := func() int {
		req, _ := http.NewRequestWithContext(t.Context(), "GET", s.url+"/api/v2/sandboxes", nil)
		req.Header.Set("Authorization", "Bearer "+secret)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	if got := status(); got != 200 {
		t.Errorf("new token: %d", got)
	}
	if _, err := tokens.Revoke(t.Context(), row.ID); err != nil {
		t.Fatal(err)
	}
	if got := status(); got != 401 {
		t.Errorf("revoked token: %d", got)
	}
	if list, err := tokens.List(t.Context()); err != nil || len(list) != 2 {
		t.Errorf("%v %v", list, err)
	}
}

// TestNoSecretOnDisk looks through all that the server has written and logged.
func TestNoSecretOnDisk(t *testing.T) {
	const value = "correct-horse-battery"
	cfg := settings(t)
	cfg.Network.Proxy = "http://user:" + value + "@proxy:3128"
	var logged bytes.Buffer
	log := slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s := startLogging(t, cfg, &sandboxtest.Launcher{}, log)
	access := token(t, cfg)
	for _, config := range []string{
		`{"secrets":{"K":{"hosts":["h.example"],"value":"` + value + `"}}}`,
		`{"secrets":{"K":{"hosts":["h.example"],"value":"` + value + `\n"}}}`,
		`{"allow_net":[],"secrets":{"K":{"hosts":["h.example"],"value":"` + value + `"}}}`,
	} {
		h := http.Header{"Authorization": {"Bearer " + access}, api.HeaderConfig: {base64.StdEncoding.EncodeToString([]byte(config))}}
		ws, resp, err := websocket.Dial(t.Context(), s.url+"/api/v3/sandboxes/create", &websocket.DialOptions{HTTPHeader: h})
		if err == nil {
			roundTrip(t, ws)
			_ = ws.CloseNow()
			continue
		}
		body, _ := io.ReadAll(resp.Body)
		refused := resp.StatusCode == http.StatusBadRequest || resp.StatusCode == http.StatusNotImplemented
		if !refused || bytes.Contains(body, []byte(value)) {
			t.Errorf("%s: %d %s", config, resp.StatusCode, body)
		}
	}
	s.stop()
	err := filepath.WalkDir(cfg.DataDir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() || path == cfg.Data().TokenFile() {
			return err
		}
		raw, err := os.ReadFile(path)
		if bytes.Contains(raw, []byte(value)) || bytes.Contains(raw, []byte(access)) {
			t.Errorf("%s holds a secret", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if text := logged.String(); strings.Contains(text, value) || strings.Contains(text, access) {
		t.Errorf("the log holds a secret: %s", text)
	}
}

func TestURL(t *testing.T) {
	cfg := settings(t)
	cfg.Listen = "0.0.0.0:0"
	s := start(t, cfg, &sandboxtest.Launcher{})
	if !strings.HasPrefix(s.url, "http://127.0.0.1:") {
		t.Errorf("url %s", s.url)
	}
	s.stop()
	cfg.URL = "https://atoll.example.com"
	if s := start(t, cfg, &sandboxtest.Launcher{}); s.url != cfg.URL {
		t.Errorf("url %s", s.url)
	}
}

func TestHealth(t *testing.T) {
	s := start(t, settings(t), &sandboxtest.Launcher{})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, "GET", s.url+"/healthz", nil)
	resp, err := http.DefaultClient.Do(req)
	if err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err)
	}
	_ = resp.Body.Close()
}
