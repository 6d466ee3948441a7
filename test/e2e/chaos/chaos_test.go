//go:build e2e

// Package chaos kills what a server consists of, and looks at what is left:
// the daemon may die at any time and takes nothing with it, a shim takes its
// machine along, and whatever was created is freed again.
package chaos

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/test/e2e/harness"
)

// slack is what the daemon may hold on to: kept connections, the workers of
// its runtime and database, and what lived when its heap was last collected.
var slack = harness.Slack{FDs: 8, Goroutines: 10, HeapBytes: 16 << 20}

func census(ctx context.Context, t *testing.T, s *harness.Server) harness.Census {
	t.Helper()
	c, err := s.Count(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// createMany makes sandboxes, a few at a time.
func createMany(ctx context.Context, t *testing.T, s *harness.Server, n int, config map[string]any) []*harness.Conn {
	t.Helper()
	const atOnce = 4
	out, places := make([]*harness.Conn, n), make(chan struct{}, atOnce)
	var work sync.WaitGroup
	for i := range n {
		work.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			c, err := s.Create(ctx, config)
			if err != nil {
				t.Errorf("create sandbox %d: %v", i, err)
				return
			}
			t.Cleanup(c.Vanish)
			out[i] = c
		})
	}
	work.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return out
}

func counter(ctx context.Context, t *testing.T, c *harness.Conn) int {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(c.MustShell(ctx, t, "cat count")))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// startCounter runs a command that counts in a file, renamed into place so
// that nobody reads half a number.
func startCounter(ctx context.Context, t *testing.T, c *harness.Conn) {
	t.Helper()
	_, err := c.Spawn(ctx, "bash", "-c", "n=0; while :; do n=$((n+1)); echo $n > next; mv next count; sleep 0.02; done")
	if err != nil {
		t.Fatal(err)
	}
	for ctx.Err() == nil {
		if out, err := c.Shell(ctx, "cat count"); err == nil && out.Success {
			return
		}
	}
	t.Fatal("the counter did not start")
}

// shims are the processes of the shims, each of which ends with its machine.
// The machines' own processes come and go with the guests'.
func shims(s *harness.Server) (pids []int) {
	for _, p := range s.Processes() {
		if p.Name == "atoll-shim" {
			pids = append(pids, p.PID)
		}
	}
	slices.Sort(pids)
	return pids
}

func TestKilledDaemonTakesNothing(t *testing.T) {
	s := harness.New(t)
	ctx := harness.Context(t, 2*harness.TestLimit)
	const sandboxes = 20
	conns := createMany(ctx, t, s, sandboxes, map[string]any{"timeout": "10m", "memory_mb": 768})
	for i, c := range conns {
		if err := c.Call(ctx, "writeTextFile", map[string]any{"path": "mine", "content": c.ID}, nil); err != nil {
			t.Fatalf("sandbox %d: %v", i, err)
		}
	}
	startCounter(ctx, t, conns[0])
	before := counter(ctx, t, conns[0])
	alive := shims(s)

	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if now := shims(s); !slices.Equal(now, alive) {
		t.Errorf("the shims were %v before the daemon was killed, and are %v", alive, now)
	}
	if err := s.Serve(ctx); err != nil {
		t.Fatalf("start again: %v", err)
	}
	for i, old := range conns {
		c := s.MustConnect(ctx, t, old.ID)
		var text string
		if err := c.Call(ctx, "readTextFile", api.PathParams{Path: "mine"}, &text); err != nil || text != old.ID {
			t.Errorf("sandbox %d: %q %v", i, text, err)
		}
		if i > 0 {
			continue
		}
		if after := counter(ctx, t, c); after <= before {
			t.Errorf("the counter stood at %d and stands at %d", before, after)
		}
	}
	if list, err := s.List(ctx); err != nil || len(list) != sandboxes {
		t.Errorf("%d sandboxes listed, %v", len(list), err)
	}
	for _, c := range conns {
		if err := s.Delete(ctx, c.ID); err != nil {
			t.Error(err)
		}
	}
	if err := s.AwaitCensus(ctx, harness.Census{FDs: 1 << 20, Goroutines: 1 << 20, HeapBytes: 1 << 40}, slack); err != nil {
		t.Error(err)
	}
}

// A session waits for a client after a restart: whoever connects in time
// keeps it, and the others end.
func TestSessionsAfterRestart(t *testing.T) {
	s := harness.New(t, "--session-grace", "20s") // time enough to connect, however slow everything is
	ctx := harness.Context(t, harness.TestLimit)
	kept, lost := s.MustCreate(ctx, t, nil), s.MustCreate(ctx, t, nil)
	kept.MustShell(ctx, t, "echo here > file")
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(ctx); err != nil {
		t.Fatal(err)
	}
	c := s.MustConnect(ctx, t, kept.ID)
	if sb := s.AwaitStopped(ctx, t, lost.ID); sb.StopReason != api.StopSessionClosed {
		t.Errorf("reason of the sandbox that nobody came for: %s", sb.StopReason)
	}
	if out := c.MustShell(ctx, t, "cat file"); out != "here\n" {
		t.Errorf("%q", out)
	}
	c.Close()
	if sb := s.AwaitStopped(ctx, t, kept.ID); sb.StopReason != api.StopSessionClosed {
		t.Errorf("reason of the sandbox whose client left: %s", sb.StopReason)
	}
}

func TestTerminatedDaemonFindsEverythingAgain(t *testing.T) {
	s := harness.New(t)
	ctx := harness.Context(t, harness.TestLimit)
	c := s.MustCreate(ctx, t, map[string]any{"timeout": "10m", "labels": map[string]string{"k": "v"}})
	short, _ := s.MustCreateBrief(ctx, t, 6*time.Second)
	startCounter(ctx, t, c)
	old, err := s.Sandbox(ctx, c.ID)
	if err != nil {
		t.Fatal(err)
	}
	before := counter(ctx, t, c)
	token := s.Token
	if err := s.Terminate(); err != nil {
		t.Fatal(err)
	}
	if code, _, err := c.AwaitClose(ctx); err != nil || code != 1012 && code != 1001 {
		t.Errorf("the client was told %d, %v", code, err)
	}
	if err := s.Serve(ctx); err != nil {
		t.Fatal(err)
	}
	if s.Token != token {
		t.Error("a second start made another token")
	}
	again, err := s.Sandbox(ctx, c.ID)
	if err != nil || again.Status != api.StatusRunning || again.Labels["k"] != "v" || !again.CreatedAt.Equal(old.CreatedAt.Time) || !again.StopAt.Equal(old.StopAt.Time) {
		t.Errorf("before: %+v, after: %+v, %v", old, again, err)
	}
	if after := counter(ctx, t, s.MustConnect(ctx, t, c.ID)); after <= before {
		t.Errorf("the counter stood at %d and stands at %d", before, after)
	}
	if sb := s.AwaitStopped(ctx, t, short.ID); sb.StopReason != api.StopTimeout {
		t.Errorf("the lifetime that ended after the restart: %+v", sb)
	}
}

func TestTimeoutWhileTheDaemonIsAway(t *testing.T) {
	s := harness.New(t)
	ctx := harness.Context(t, harness.TestLimit)
	c, lifetime := s.MustCreateBrief(ctx, t, 2*time.Second)
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(lifetime) // it is what has to pass
	if err := s.Serve(ctx); err != nil {
		t.Fatal(err)
	}
	if sb := s.AwaitStopped(ctx, t, c.ID); sb.StopReason != api.StopTimeout {
		t.Errorf("%+v", sb)
	}
	_, err := s.Connect(ctx, c.ID)
	harness.WantRefusal(t, err, http.StatusNotFound, "SANDBOX_STOPPED")
}

func TestKilledShim(t *testing.T) {
	s := harness.New(t)
	ctx := harness.Context(t, harness.TestLimit)
	other := s.MustCreate(ctx, t, nil)
	before := census(ctx, t, s)
	own := map[int]bool{}
	for _, p := range s.Processes() {
		own[p.PID] = true
	}
	c := s.MustCreate(ctx, t, map[string]any{"timeout": "10m"})
	pending := make(chan error, 1)
	go func() { _, err := c.Shell(ctx, "sleep 1000"); pending <- err }()
	killed := 0
	for _, p := range s.Processes() {
		if p.Name == "atoll-shim" && !own[p.PID] {
			killed++
			if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
	if killed != 1 {
		t.Fatalf("%d shims to kill", killed)
	}
	if code, reason, err := c.AwaitClose(ctx); err != nil || code != 1011 {
		t.Errorf("closed with %d %q %v", code, reason, err)
	}
	if err := <-pending; err == nil {
		t.Error("a call into a dead sandbox succeeded")
	}
	if sb := s.AwaitStopped(ctx, t, c.ID); sb.StopReason != api.StopCrashed {
		t.Errorf("reason %s", sb.StopReason)
	}
	if err := s.AwaitCensus(ctx, before, slack); err != nil {
		t.Error(err)
	}
	if out := other.MustShell(ctx, t, "echo on"); out != "on\n" {
		t.Errorf("the other sandbox: %q", out)
	}
}

// A shim that died together with the daemon, as when the host lost power in
// parts, is found and freed by the next start.
func TestKilledShimAndDaemon(t *testing.T) {
	s := harness.New(t)
	ctx := harness.Context(t, harness.TestLimit)
	conns := createMany(ctx, t, s, 2, map[string]any{"timeout": "10m"})
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	for _, p := range s.Processes() {
		_ = syscall.Kill(p.PID, syscall.SIGKILL)
	}
	if err := os.MkdirAll(filepath.Join(s.Data.Sandboxes(), "sbx_ord_11111111111111111111"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(ctx); err != nil {
		t.Fatal(err)
	}
	for _, c := range conns {
		if sb := s.AwaitStopped(ctx, t, c.ID); sb.StopReason != api.StopCrashed {
			t.Errorf("reason %s", sb.StopReason)
		}
	}
	if err := s.AwaitCensus(ctx, harness.Census{FDs: 1 << 20, Goroutines: 1 << 20, HeapBytes: 1 << 40}, slack); err != nil {
		t.Error(err)
	}
}

func TestTwoDaemonsOnOneDirectory(t *testing.T) {
	s := harness.New(t)
	first := s.PID()
	t.Cleanup(func() {
		_ = syscall.Kill(first, syscall.SIGTERM)
		for syscall.Kill(first, 0) == nil {
			time.Sleep(10 * time.Millisecond) // reaped by the harness
		}
	})
	if s.Serve(harness.Context(t, harness.TestLimit), "--listen", "127.0.0.1:0") == nil {
		t.Fatal("a second daemon started on the same directory")
	}
	if err := syscall.Kill(first, 0); err != nil {
		t.Errorf("the first daemon is gone: %v", err)
	}
}

// cycles is how many sandboxes come and go in TestCycles.
func cycles(t *testing.T) int {
	t.Helper()
	text := os.Getenv("ATOLL_TEST_CYCLES")
	if text == "" {
		return 300
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("ATOLL_TEST_CYCLES: %v", err)
	}
	return n
}

func TestCycles(t *testing.T) {
	s := harness.New(t)
	ctx := harness.Context(t, 12*time.Minute)
	const workers = 3
	n := cycles(t)
	cycle := func(i int) error {
		c, err := s.Create(ctx, map[string]any{"memory_mb": 768, "timeout": "10m"})
		if err != nil {
			return fmt.Errorf("create: %w", err)
		}
		defer c.Vanish()
		if out, err := c.Shell(ctx, "echo "+strconv.Itoa(i)); err != nil || out.Stdout != strconv.Itoa(i)+"\n" {
			return fmt.Errorf("echo: %q %w", out.Stdout, err)
		}
		return s.Delete(ctx, c.ID)
	}
	for i := range workers { // so that what is made once exists
		if err := cycle(i); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.AwaitCensus(ctx, harness.Census{FDs: 1 << 20, Goroutines: 1 << 20, HeapBytes: 1 << 40}, slack); err != nil {
		t.Fatal(err)
	}
	before := census(ctx, t, s)
	began, next := time.Now(), make(chan int)
	var work sync.WaitGroup
	for range workers {
		work.Go(func() {
			for i := range next {
				if err := cycle(i); err != nil {
					t.Errorf("cycle %d: %v", i, err)
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	work.Wait()
	t.Logf("%d cycles in %v", n, time.Since(began).Round(time.Millisecond))
	if err := s.AwaitCensus(ctx, before, slack); err != nil {
		t.Error(err)
	}
	t.Logf("before: %+v", before)
	t.Logf("after:  %+v", census(ctx, t, s))
}
