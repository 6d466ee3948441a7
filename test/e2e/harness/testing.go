//go:build e2e

package harness

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/atollhq/atoll/api"
)

// TestLimit bounds a test that sets no other limit.
var TestLimit = slower(90 * time.Second)

// Context ends with the test, or after limit.
func Context(t testing.TB, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

// New is Start for one test, which fails if the server can't start, leaves
// something behind or lets a sandbox reach a forbidden address.
func New(t testing.TB, flags ...string) *Server {
	t.Helper()
	s, err := Start(t.Context(), flags...)
	if err != nil {
		t.Fatalf("start server: %v", err)
	}
	s.Watch(t)
	return s
}

// Watch closes the server with the test, which fails if something is left
// behind or a sandbox reached a forbidden address.
func (s *Server) Watch(t testing.TB) {
	t.Cleanup(func() {
		if trapped := s.Internet.Trapped(); len(trapped) > 0 {
			t.Errorf("a sandbox reached forbidden addresses: %q", trapped)
		}
		if t.Failed() {
			t.Logf("the server's log ends with:\n%s", s.Log())
		}
		if err := s.Close(); err != nil {
			t.Errorf("close server: %v", err)
		}
	})
}

// MustCreate is Create for tests.
func (s *Server) MustCreate(ctx context.Context, t testing.TB, config map[string]any) *Conn {
	t.Helper()
	c, err := s.Create(ctx, config)
	if err != nil {
		t.Fatalf("create sandbox: %v", err)
	}
	t.Cleanup(c.Vanish)
	return c
}

// MustCreateBrief creates a sandbox that ends by itself: after the lifetime, in
// whole seconds, or twice as much for each time that it was over before the
// sandbox had started. It returns the lifetime as well.
func (s *Server) MustCreateBrief(ctx context.Context, t testing.TB, lifetime time.Duration) (*Conn, time.Duration) {
	t.Helper()
	for ; ; lifetime *= 2 {
		c, err := s.Create(ctx, map[string]any{"timeout": fmt.Sprintf("%ds", int(lifetime.Seconds()))})
		if r, ok := errors.AsType[*Refusal](err); ok && r.Code == "SANDBOX_STOPPED" {
			continue
		}
		if err != nil {
			t.Fatalf("create sandbox: %v", err)
		}
		t.Cleanup(c.Vanish)
		return c, lifetime
	}
}

// MustConnect is Connect for tests.
func (s *Server) MustConnect(ctx context.Context, t testing.TB, id string) *Conn {
	t.Helper()
	c, err := s.Connect(ctx, id)
	if err != nil {
		t.Fatalf("connect to %s: %v", id, err)
	}
	t.Cleanup(c.Vanish)
	return c
}

// Socket is a connection to a sandbox that the test itself reads.
func (s *Server) Socket(ctx context.Context, t testing.TB, id string) *websocket.Conn {
	t.Helper()
	ws, _, err := websocket.Dial(ctx, s.socketURL("/api/v3/sandbox/"+id+"/connect"),
		&websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + s.Token}}})
	if err != nil {
		t.Fatal(err)
	}
	ws.SetReadLimit(-1)
	t.Cleanup(func() { _ = ws.CloseNow() })
	return ws
}

// MustShell runs a script and returns its standard output; anything but
// success fails the test.
func (c *Conn) MustShell(ctx context.Context, t testing.TB, script string) string {
	t.Helper()
	out, err := c.Shell(ctx, script)
	if err != nil {
		t.Fatalf("run %q: %v", script, err)
	}
	if !out.Success {
		t.Fatalf("run %q: code %d\n%s%s", script, out.Code, out.Stdout, out.Stderr)
	}
	return out.Stdout
}

// AwaitStopped waits until a sandbox is listed as stopped and returns it.
func (s *Server) AwaitStopped(ctx context.Context, t testing.TB, id string) api.Sandbox {
	t.Helper()
	for {
		sb, err := s.Sandbox(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		if sb.Status == api.StatusStopped {
			return sb
		}
		select {
		case <-ctx.Done():
			t.Fatalf("sandbox %s did not stop", id)
		case <-time.After(poll):
		}
	}
}

// WantRefusal fails the test unless err refuses with a status and a code, and
// has what every refusal has.
func WantRefusal(t testing.TB, err error, status int, code string) *Refusal {
	t.Helper()
	r, ok := errors.AsType[*Refusal](err)
	switch {
	case !ok:
		t.Errorf("want %d %s, have %v", status, code, err)
		return &Refusal{}
	case r.Status != status || r.Code != code:
		t.Errorf("want %d %s, have %d %s: %s", status, code, r.Status, r.Code, r.Message)
	case r.Message == "" || r.TraceID == "":
		t.Errorf("a refusal without message or trace id: %+v", r)
	}
	return r
}
