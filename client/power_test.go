package client_test

import (
	"errors"
	"io/fs"
	"testing"
	"time"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/client"
)

func power(t *testing.T, c *client.Client, id string) string {
	t.Helper()
	info, err := c.Sandboxes.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return info.Power
}

func TestPauseAndResume(t *testing.T) {
	srv, sb := newSandbox(t)
	c := newClient(t, srv.URL)
	got, err := sb.Pause(t.Context())
	if err != nil || got.Power != api.PowerPaused || power(t, c, sb.ID()) != api.PowerPaused {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := sb.FS.Stat(t.Context(), "."); err != nil { // a call resumes it
		t.Error(err)
	}
	if got := power(t, c, sb.ID()); got != api.PowerRunning {
		t.Error(got)
	}
	if got, err = c.Sandboxes.Pause(t.Context(), sb.ID(), true); err != nil || got.Power != api.PowerSuspended || got.Bytes == 0 {
		t.Errorf("got %+v, %v", got, err)
	}
	<-sb.Closed()
	if end := sb.Err(); end.Code != 1001 || end.Reason != "sandbox paused" {
		t.Errorf("closed with %v", end)
	}
	info, err := c.Sandboxes.Resume(t.Context(), sb.ID())
	if err != nil || info.Power != api.PowerRunning || info.ID != sb.ID() {
		t.Errorf("got %+v, %v", info, err)
	}
	for _, id := range []string{"sbx_x", "../.."} {
		_, perr := c.Sandboxes.Pause(t.Context(), id, false)
		_, rerr := c.Sandboxes.Resume(t.Context(), id)
		_, ferr := c.Sandboxes.Fork(t.Context(), id, client.ForkOptions{})
		for _, err := range []error{perr, rerr, ferr, c.Sandboxes.SetIdlePause(t.Context(), id, 0, false)} {
			if !errors.Is(err, fs.ErrNotExist) {
				t.Error(err)
			}
		}
	}
}

func TestFork(t *testing.T) {
	srv, sb := newSandbox(t)
	c := newClient(t, srv.URL)
	if err := sb.FS.WriteFile(t.Context(), "note", []byte("hello"), nil); err != nil {
		t.Fatal(err)
	}
	children, err := sb.Fork(t.Context(), client.ForkOptions{Count: 2, Labels: map[string]string{"a": "b"}, Timeout: 90*time.Second + 1})
	if err != nil || len(children) != 2 {
		t.Fatalf("got %+v, %v", children, err)
	}
	for _, info := range children {
		if info.ForkedFrom != sb.ID() || info.Labels["a"] != "b" || info.StopAt.Sub(info.CreatedAt.Time) != 91*time.Second {
			t.Errorf("got %+v", info)
		}
		child, err := c.Sandboxes.Connect(t.Context(), info.ID)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := child.FS.ReadFile(t.Context(), "note"); err != nil || string(got) != "hello" {
			t.Errorf("read %q, %v", got, err)
		}
		child.Close()
	}
	children, err = c.Sandboxes.Fork(t.Context(), children[0].ID, client.ForkOptions{Session: true})
	if err != nil || len(children) != 1 || children[0].Timeout != "session" || children[0].Labels["a"] != "b" {
		t.Errorf("got %+v, %v", children, err)
	}
	_, err = sb.Fork(t.Context(), client.ForkOptions{Count: 1000})
	if e, ok := errors.AsType[*client.APIError](err); !ok || e.Code != "FORK_COUNT_OUT_OF_RANGE" {
		t.Error(err)
	}
}

func TestIdlePause(t *testing.T) {
	_, c := newServer(t)
	sb, err := c.Sandboxes.Create(t.Context(), client.CreateOptions{IdlePause: 90 * time.Second, IdlePauseToDisk: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sb.Close() })
	want := func(idle string, toDisk bool) {
		t.Helper()
		info, err := c.Sandboxes.Get(t.Context(), sb.ID())
		if err != nil || info.IdlePause != idle || info.IdlePauseToDisk != toDisk {
			t.Errorf("got %+v, %v", info, err)
		}
	}
	want("90s", true)
	if err := c.Sandboxes.SetIdlePause(t.Context(), sb.ID(), 10*time.Minute, false); err != nil {
		t.Error(err)
	}
	want("600s", false)
	if err := c.Sandboxes.SetIdlePause(t.Context(), sb.ID(), 0, true); err != nil {
		t.Error(err)
	}
	want("", true)
}
