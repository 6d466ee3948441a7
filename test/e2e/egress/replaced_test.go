//go:build e2e

package egress

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/atollhq/atoll/test/e2e/harness"
)

// ticking keeps a connection to each host open and says something on it, until
// it is cut. Once there is a file "late", what it says is late.
const ticking = `
import threading
def tick(host):
    s = tcp(host, 9)
    try:
        while True:
            word = "late" if os.path.exists("late") else "tick"
            s.sendall(f"{word} of {host}\n".encode())
            time.sleep(0.02)
    except OSError:
        open("cut-" + host, "w").close()
for host in sys.argv[1:]:
    threading.Thread(target=tick, args=(host,)).start()`

// pouring opens connections as fast as it can, without end, and says on each
// what the file "word" held before. That it could not is noted with the word.
const pouring = `
import threading
def pour():
    while True:
        word = open("word").read()
        try:
            s = socket.create_connection((RAW, 9), 20)
            s.sendall(word.encode() + b"\n")
            s.close()
        except OSError:
            open("refused-" + word, "w").close()
for _ in range(8):
    threading.Thread(target=pour).start()`

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
	ctx := harness.Context(t, 2*harness.TestLimit)
	c := l.create(ctx, t, map[string]any{"allow_net": []string{harness.APIHost, harness.RawHost, "*" + harness.WildZone}})
	mark := l.Internet.Mark()
	l.spawn(ctx, t, c, ticking, harness.RawHost, otherRaw)
	l.await(ctx, t, mark, "tick of "+harness.RawHost)
	l.await(ctx, t, mark, "tick of "+otherRaw)
	old := strings.Fields(c.MustShell(ctx, t, "getent ahostsv4 "+harness.RawHost))[0]
	l.replace(ctx, t, c, []string{harness.APIHost, "*" + harness.WildZone})
	c.MustShell(ctx, t, "touch late; until test -e cut-"+harness.RawHost+"; do sleep 0.05; done")
	l.await(ctx, t, mark, "late of "+otherRaw)
	out := l.play(ctx, t, c, `talk(RAW, 9, b"evil\n"), talk("`+old+`", 9, b"evil\n")`, false)
	l.settle(ctx, t, c)
	if matches(l.arrivals(mark), "evil") {
		t.Errorf("a new connection is allowed: %s", out.Stdout)
	}
	if matches(l.arrivals(mark), "late of "+harness.RawHost) {
		t.Error("something arrived on the connection after the answer")
	}
	if out, err := c.Shell(ctx, "test -e cut-"+otherRaw); err != nil || out.Code == 0 {
		t.Errorf("what is allowed was cut as well: %+v %v", out, err)
	}
}

// Under load, nothing begins after the answer; and what is allowed again
// works again.
func TestReplacedListUnderLoad(t *testing.T) {
	t.Parallel()
	l := newLane(t)
	ctx := harness.Context(t, 2*harness.TestLimit)
	c := l.create(ctx, t, map[string]any{"allow_net": []string{harness.RawHost, harness.APIHost}})
	mark := l.Internet.Mark()
	say := func(word string) { c.MustShell(ctx, t, "echo -n "+word+" >next && mv next word") }
	say("open0")
	l.spawn(ctx, t, c, pouring)
	l.await(ctx, t, mark, "open0")
	for n := range 3 {
		closed, open := fmt.Sprint("closed", n), fmt.Sprint("open", n+1)
		l.replace(ctx, t, c, []string{harness.APIHost})
		mark = l.Internet.Mark()
		say(closed)
		c.MustShell(ctx, t, "until test -e refused-"+closed+"; do sleep 0.05; done")
		l.settle(ctx, t, c)
		if matches(l.arrivals(mark), closed) {
			t.Error("a connection that began after the answer arrived")
		}
		l.replace(ctx, t, c, []string{harness.APIHost, harness.RawHost})
		mark = l.Internet.Mark()
		say(open)
		l.await(ctx, t, mark, open)
	}
}

// From a list to none and to everything.
func TestReplacedByNoneAndAll(t *testing.T) {
	t.Parallel()
	l := newLane(t)
	ctx := harness.Context(t, 2*harness.TestLimit)
	c := l.create(ctx, t, map[string]any{"allow_net": []string{harness.APIHost}})
	l.settle(ctx, t, c)
	l.replace(ctx, t, c, []string{})
	mark := l.Internet.Mark()
	l.play(ctx, t, c, `talk(API, 80, http("GET /evil HTTP/1.1", "Host: " + API)), ask(question("evil.test"))`, false)
	if seen := l.arrivals(mark); len(seen) > 0 {
		t.Errorf("under an empty list arrived %q", seen)
	}
	l.replace(ctx, t, c, nil)
	l.play(ctx, t, c, `talk(EVIL4, 9, b"open\n")`, false)
	l.await(ctx, t, mark, "open")
	if seen := l.arrivals(mark); matches(seen, `/evil|evil\.test`) {
		t.Errorf("what was sent under an empty list has arrived: %q", seen)
	}
	status, raw, err := l.Do(ctx, http.MethodPatch, "/api/v3/sandbox/"+c.ID, map[string]any{"allow_net": []string{"not a host"}})
	if err != nil || status != http.StatusBadRequest || !strings.Contains(string(raw), "INVALID_ALLOW_NET") {
		t.Errorf("a bad list: status %d: %s (%v)", status, raw, err)
	}
	if _, err := l.Sandbox(ctx, c.ID); err != nil {
		t.Errorf("after it: %v", err)
	}
}
