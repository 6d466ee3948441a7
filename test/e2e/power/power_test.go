//go:build e2e

// Package power pauses, resumes and forks sandboxes through the API, and looks
// at what runs inside of them.
package power

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/sandbox"
	"github.com/atollhq/atoll/test/e2e/harness"
)

// post makes a call on a sandbox and reads its answer.
func post[T any](ctx context.Context, t *testing.T, s *harness.Server, id, verb string, body any) (out T) {
	t.Helper()
	status, raw, err := s.Do(ctx, http.MethodPost, "/api/v3/sandbox/"+id+"/"+verb, body)
	if err != nil || status != http.StatusOK {
		t.Fatalf("%s: status %d: %s (%v)", verb, status, raw, err)
	}
	if err := json.Unmarshal(raw, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func wantPower(ctx context.Context, t *testing.T, s *harness.Server, id, power string) {
	t.Helper()
	if sb, err := s.Sandbox(ctx, id); err != nil || sb.Status != api.StatusRunning || sb.Power != power {
		t.Errorf("it is %s and %s, want %s (%v)", sb.Status, sb.Power, power, err)
	}
}

// startCounter starts a process that counts what it lived through, and writes
// it down so that nobody reads half a number.
func startCounter(ctx context.Context, t *testing.T, c *harness.Conn) {
	t.Helper()
	c.MustShell(ctx, t, `setsid bash -c 'n=0; while :; do n=$((n+1)); echo $n >next; mv next count; sleep 0.05; done' >/dev/null 2>&1 &
		until [ -s count ]; do sleep 0.05; done`)
}

func counter(ctx context.Context, t *testing.T, c *harness.Conn) int {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(c.MustShell(ctx, t, "cat count")))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// wantCounting checks that the process goes on from where it stood.
func wantCounting(ctx context.Context, t *testing.T, c *harness.Conn, from int) {
	t.Helper()
	if n := counter(ctx, t, c); n < from {
		t.Errorf("the counter stood at %d and stands at %d", from, n)
	}
	c.MustShell(ctx, t, `n=$(cat count); until [ "$(cat count)" -gt $((n+2)) ]; do sleep 0.05; done`)
}

func TestPauses(t *testing.T) {
	s := harness.New(t)
	ctx := harness.Context(t, 2*harness.TestLimit)
	c := s.MustCreate(ctx, t, nil) // a session
	startCounter(ctx, t, c)
	for _, kill := range []bool{false, true} {
		before := counter(ctx, t, c)
		if got := post[api.PauseResult](ctx, t, s, c.ID, "pause", nil); got.Power != api.PowerPaused {
			t.Errorf("got %+v", got)
		}
		wantPower(ctx, t, s, c.ID, api.PowerPaused)
		if kill {
			c = restart(ctx, t, s, c.ID)
		}
		wantCounting(ctx, t, c, before) // on the same connection, if there is still one
		wantPower(ctx, t, s, c.ID, api.PowerRunning)

		before = counter(ctx, t, c)
		if got := post[api.PauseResult](ctx, t, s, c.ID, "pause", api.PauseRequest{ToDisk: true}); got.Power != api.PowerSuspended || got.Bytes == 0 {
			t.Errorf("got %+v", got)
		}
		if code, text, err := c.AwaitClose(ctx); err != nil || code != 1001 || text != "sandbox paused" {
			t.Errorf("closed with %d %q (%v)", code, text, err)
		}
		wantPower(ctx, t, s, c.ID, api.PowerSuspended)
		if kill {
			c = restart(ctx, t, s, c.ID)
		} else {
			c = s.MustConnect(ctx, t, c.ID) // takes the session over
		}
		wantCounting(ctx, t, c, before)
	}
}

// restart kills the daemon and returns a new connection to a sandbox that is
// paused.
func restart(ctx context.Context, t *testing.T, s *harness.Server, id string) *harness.Conn {
	t.Helper()
	was, err := s.Sandbox(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(ctx); err != nil {
		t.Fatal(err)
	}
	wantPower(ctx, t, s, id, was.Power)
	return s.MustConnect(ctx, t, id)
}

// TestPausedTooLong: also over a restart of the server, and what was on disk is
// gone.
func TestPausedTooLong(t *testing.T) {
	s := harness.New(t, "--max-paused", "5s")
	ctx := harness.Context(t, 2*harness.TestLimit)
	running := s.MustCreate(ctx, t, map[string]any{"timeout": "20m"})
	var ids []string
	for _, toDisk := range []bool{false, true} {
		c := s.MustCreate(ctx, t, map[string]any{"timeout": "10m"})
		post[api.PauseResult](ctx, t, s, c.ID, "pause", api.PauseRequest{ToDisk: toDisk})
		ids = append(ids, c.ID)
	}
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(ctx); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		sb, err := s.Sandbox(ctx, id)
		for ; err == nil && sb.Status == api.StatusRunning; sb, err = s.Sandbox(ctx, id) {
			time.Sleep(50 * time.Millisecond)
		}
		if err != nil || sb.StopReason != api.StopPausedTooLong {
			t.Errorf("it stopped because of %q (%v)", sb.StopReason, err)
		}
		for dir := s.Data.Sandbox(id).Dir; ctx.Err() == nil; time.Sleep(50 * time.Millisecond) {
			if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
				break
			}
		}
	}
	wantPower(ctx, t, s, running.ID, api.PowerRunning)
	if err := ctx.Err(); err != nil {
		t.Error(err)
	}
}

func TestIdlePause(t *testing.T) {
	s := harness.New(t)
	ctx := harness.Context(t, 2*harness.TestLimit)
	busy := s.MustCreate(ctx, t, map[string]any{"timeout": "10m", "idle_pause": "10s"})
	idle := s.MustCreate(ctx, t, map[string]any{"timeout": "10m", "idle_pause": "10s", "idle_pause_to_disk": true})
	if _, err := busy.Spawn(ctx, "bash", "-c", "while :; do :; done"); err != nil {
		t.Fatal(err)
	}
	if code, _, err := idle.AwaitClose(ctx); err != nil || code != 1001 {
		t.Errorf("closed with %d (%v)", code, err)
	}
	for { // it is listed as soon as its machine stands still
		if sb, err := s.Sandbox(ctx, idle.ID); err != nil || sb.Power == api.PowerSuspended {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	wantPower(ctx, t, s, idle.ID, api.PowerSuspended)
	wantPower(ctx, t, s, busy.ID, api.PowerRunning)
	s.MustConnect(ctx, t, idle.ID).MustShell(ctx, t, "true")
}

// TestForkNeedsMemory: a host that has room for another sandbox, and not for
// copies of a large one.
func TestForkNeedsMemory(t *testing.T) {
	s := harness.New(t)
	ctx := harness.Context(t, 2*harness.TestLimit)
	c := s.MustCreate(ctx, t, map[string]any{"timeout": "10m", "memory_mb": 2048})
	c.MustShell(ctx, t, `setsid python3 -c 'import time
kept = [bytes([i % 255 + 1]) * (1 << 20) for i in range(1500)]
open("filled", "w").close()
time.sleep(1e6)' >/dev/null 2>&1 &
		until [ -e filled ]; do sleep 0.05; done`)
	refused := false
	for range 5 { // other programs on the host take memory and give it back
		if refused = forkIsRefused(ctx, t, s, c.ID); refused {
			break
		}
	}
	if !refused {
		t.Error("there was room for another sandbox and for the copies, or for neither")
	}
	s.MustConnect(ctx, t, c.ID).MustShell(ctx, t, "pgrep -f filled")
}

// forkIsRefused leaves a server some of the memory that its host has now, and
// reports whether that is enough for a sandbox and too little for a fork.
func forkIsRefused(ctx context.Context, t *testing.T, s *harness.Server, id string) bool {
	t.Helper()
	free, err := sandbox.FreeMemory()
	if err != nil {
		t.Fatal(err)
	}
	const left = 700 // MiB
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(ctx, "--min-free-memory", strconv.FormatInt(free>>20-left, 10)); err != nil {
		t.Fatal(err)
	}
	c, err := s.Create(ctx, nil)
	if r, ok := errors.AsType[*harness.Refusal](err); ok && r.Code == "HOST_MEMORY_LOW" {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Vanish()
	status, raw, err := s.Do(ctx, http.MethodPost, "/api/v3/sandbox/"+id+"/fork", nil)
	if err == nil && status == http.StatusOK {
		return false
	}
	if err != nil || status != http.StatusServiceUnavailable || !strings.Contains(string(raw), `"HOST_MEMORY_LOW"`) {
		t.Fatalf("status %d: %s (%v)", status, raw, err)
	}
	return true
}

func TestForks(t *testing.T) {
	s := harness.New(t)
	ctx := harness.Context(t, 2*harness.TestLimit)
	c := s.MustCreate(ctx, t, map[string]any{
		"timeout": "10m", "labels": map[string]string{"a": "b"}, "allow_net": []string{harness.WebHost},
	})
	startCounter(ctx, t, c)
	before := counter(ctx, t, c)
	count := 2
	children := post[[]api.Sandbox](ctx, t, s, c.ID, "fork", api.ForkRequest{Count: &count})
	if len(children) != count {
		t.Fatalf("got %+v", children)
	}
	for _, child := range children {
		if child.ForkedFrom != c.ID || child.Labels["a"] != "b" || child.StopAt == nil {
			t.Errorf("got %+v", child)
		}
		cc := s.MustConnect(ctx, t, child.ID)
		wantCounting(ctx, t, cc, before)
		cc.MustShell(ctx, t, "echo "+child.ID+" >mine")
		if got := cc.MustShell(ctx, t, "curl -sS --max-time 60 http://"+harness.WebHost+"/hello"); got != "hello from outside\n" {
			t.Errorf("a child reaches %q", got)
		}
		if out, err := cc.Shell(ctx, "curl -sS --max-time 5 http://"+harness.EvilHost+"/evil"); err != nil || out.Code == 0 {
			t.Errorf("a child reaches what its parent may not: %+v %v", out, err)
		}
	}
	wantCounting(ctx, t, c, before)
	for _, child := range children {
		if got := strings.TrimSpace(s.MustConnect(ctx, t, child.ID).MustShell(ctx, t, "cat mine")); got != child.ID {
			t.Errorf("%s has the file of %q", child.ID, got)
		}
	}
	if out, err := c.Shell(ctx, "cat mine"); err != nil || out.Code == 0 {
		t.Errorf("the parent has a child's file: %+v %v", out, err)
	}
}

// mute stops all threads of the agent, as the guest's root can.
const mute = `cat >mute.py <<'END'
import ctypes, os, time
attach, libc = 16, ctypes.CDLL(None)  # PTRACE_ATTACH
for thread in os.listdir("/proc/1/task"):
    libc.ptrace(attach, int(thread), 0, 0)
time.sleep(3600)
END
(sleep 1; exec sudo setsid python3 mute.py) >/dev/null 2>&1 &`

// A guest whose agent says nothing when it is resumed ends all the same when
// its time is over.
func TestLifetimeOfASilentGuest(t *testing.T) {
	s := harness.New(t)
	ctx := harness.Context(t, 2*harness.TestLimit)
	c := s.MustCreate(ctx, t, map[string]any{"timeout": "60s"})
	c.MustShell(ctx, t, mute)
	for answers := true; answers; {
		short, cancel := context.WithTimeout(ctx, 10*time.Second)
		_, err := c.Shell(short, "true")
		answers = err == nil
		cancel()
	}
	post[api.PauseResult](ctx, t, s, c.ID, "pause", nil)
	status, raw, err := s.Do(ctx, http.MethodPost, "/api/v3/sandbox/"+c.ID+"/resume", nil)
	if err != nil || status == http.StatusOK {
		t.Fatalf("the agent was asked: status %d: %s (%v)", status, raw, err)
	}
	for {
		sb, err := s.Sandbox(ctx, c.ID)
		if err != nil {
			t.Fatal(err)
		}
		if sb.Status == api.StatusStopped {
			if sb.StopReason != api.StopTimeout {
				t.Errorf("it has ended for %q", sb.StopReason)
			}
			return
		}
		time.Sleep(200 * time.Millisecond)
	}
}
