//go:build e2e

package egress

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/atollhq/atoll/test/e2e/harness"
)

// ticking keeps a connection open and says something on it, until it is cut.
const ticking = `
import threading
def tick(host):
    s = tcp(host, 9)
    try:
        for n in range(300):
            s.sendall(f"tick of {host} {n}\n".encode())
            time.sleep(0.02)
        print(host, "went on")
    except OSError as e:
        print(host, "was cut")
for host in sys.argv[1:]:
    threading.Thread(target=tick, args=(host,)).start()`

// pouring opens connections as fast as it can.
const pouring = `
import threading
end = time.time() + 6
def pour():
    while time.time() < end:
        try:
            s = socket.create_connection((RAW, 9), 2)
            s.sendall(b"poured\n")
            s.close()
        except OSError:
            pass
for _ in range(8):
    threading.Thread(target=pour).start()`

// grace is for what was on its way when a list was replaced.
const grace = 300 * time.Millisecond

const otherRaw = "fine" + harness.WildZone // the raw host under another name

// replace gives a running sandbox another list.
func (l *lane) replace(ctx context.Context, t *testing.T, c *harness.Conn, list any) {
	t.Helper()
	status, raw, err := l.Do(ctx, http.MethodPatch, "/api/v3/sandbox/"+c.ID, map[string]any{"allow_net": list})
	if err != nil || status != http.StatusOK {
		t.Fatalf("replace the list: status %d: %s (%v)", status, raw, err)
	}
}

// await waits until something arrives that holds a text.
func (l *lane) await(ctx context.Context, t *testing.T, since harness.Mark, text string) {
	t.Helper()
	for !slices.ContainsFunc(l.arrivals(since), func(line string) bool { return strings.Contains(line, text) }) {
		select {
		case <-ctx.Done():
			t.Fatalf("%q did not arrive", text)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// A new list cuts what it doesn't allow and leaves the rest alone.
func TestReplacedListCuts(t *testing.T) {
	t.Parallel()
	l := newLane(t)
	ctx := harness.Context(t, harness.TestLimit)
	c := l.create(ctx, t, map[string]any{"allow_net": []string{harness.APIHost, harness.RawHost, "*" + harness.WildZone}})
	mark := l.Internet.Mark()
	p := l.spawn(ctx, t, c, ticking, harness.RawHost, otherRaw)
	l.await(ctx, t, mark, "tick of "+harness.RawHost+" 5")
	l.await(ctx, t, mark, "tick of "+otherRaw+" 5")
	old := strings.Fields(c.MustShell(ctx, t, "getent ahostsv4 "+harness.RawHost))[0]
	l.replace(ctx, t, c, []string{harness.APIHost, "*" + harness.WildZone})
	time.Sleep(grace)
	cut := count(l.arrivals(mark), "tick of "+harness.RawHost)
	if out := l.play(ctx, t, c, `talk(RAW, 9, b"evil\n"), talk("`+old+`", 9, b"evil\n")`, false); matches(l.arrivals(mark), "evil") {
		t.Errorf("a new connection is allowed: %s", out.Stdout)
	}
	out, err := p.Wait(ctx)
	if err != nil || !strings.Contains(out.Stdout, harness.RawHost+" was cut") || !strings.Contains(out.Stdout, otherRaw+" went on") {
		t.Errorf("want one connection cut: %+v %v", out, err)
	}
	if now := count(l.arrivals(mark), "tick of "+harness.RawHost); now != cut {
		t.Errorf("%d ticks arrived after the list was replaced", now-cut)
	}
	l.settle(ctx, t, c)
}

func count(lines []string, text string) int { return strings.Count(strings.Join(lines, "\n"), text) }

// Under load, nothing begins after the answer; and what is allowed again
// works again.
func TestReplacedListUnderLoad(t *testing.T) {
	t.Parallel()
	l := newLane(t)
	ctx := harness.Context(t, harness.TestLimit)
	c := l.create(ctx, t, map[string]any{"allow_net": []string{harness.RawHost, harness.APIHost}})
	mark := l.Internet.Mark()
	p := l.spawn(ctx, t, c, pouring)
	for range 3 {
		l.await(ctx, t, mark, "poured")
		l.replace(ctx, t, c, []string{harness.APIHost})
		time.Sleep(grace)
		mark = l.Internet.Mark()
		time.Sleep(grace)
		if seen := l.arrivals(mark); matches(seen, "^"+harness.AtRaw) {
			t.Errorf("after the answer arrived %q", seen)
		}
		l.replace(ctx, t, c, []string{harness.APIHost, harness.RawHost})
	}
	l.await(ctx, t, mark, "poured")
	if _, err := p.Wait(ctx); err != nil {
		t.Error(err)
	}
}

// From a list to none and to everything.
func TestReplacedByNoneAndAll(t *testing.T) {
	t.Parallel()
	l := newLane(t)
	ctx := harness.Context(t, harness.TestLimit)
	c := l.create(ctx, t, map[string]any{"allow_net": []string{harness.APIHost}})
	l.settle(ctx, t, c)
	l.replace(ctx, t, c, []string{})
	mark := l.Internet.Mark()
	l.play(ctx, t, c, `talk(API, 80, http("GET /evil HTTP/1.1", "Host: " + API)), ask(question("evil.test"))`, false)
	time.Sleep(grace)
	if seen := l.arrivals(mark); len(seen) > 0 {
		t.Errorf("under an empty list arrived %q", seen)
	}
	l.replace(ctx, t, c, nil)
	l.play(ctx, t, c, `talk(EVIL4, 9, b"evil\n")`, false)
	l.await(ctx, t, mark, "evil")
	status, raw, err := l.Do(ctx, http.MethodPatch, "/api/v3/sandbox/"+c.ID, map[string]any{"allow_net": []string{"not a host"}})
	if err != nil || status != http.StatusBadRequest || !strings.Contains(string(raw), "INVALID_ALLOW_NET") {
		t.Errorf("a bad list: status %d: %s (%v)", status, raw, err)
	}
	if _, err := l.Sandbox(ctx, c.ID); err != nil {
		t.Errorf("after it: %v", err)
	}
}
