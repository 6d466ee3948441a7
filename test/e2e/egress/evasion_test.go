//go:build e2e

package egress

import (
	"cmp"
	"context"
	"strings"
	"testing"

	"github.com/atollhq/atoll/internal/machine/microvm"
	"github.com/atollhq/atoll/test/e2e/harness"
)

// nobody are the hosts where nothing may arrive, whatever it is.
const nobody = "^(" + harness.AtEvil + "|" + harness.AtResolver + ") "

// TestEvasions runs every way out where it is closed.
func TestEvasions(t *testing.T) {
	t.Parallel()
	t.Run("lists", func(t *testing.T) {
		t.Parallel()
		runLane(t, newLane(t), func(e evasion) bool { return e.in != strict })
	})
	t.Run("strict", func(t *testing.T) {
		t.Parallel()
		runLane(t, newLane(t, "--net-strict"), func(e evasion) bool { return e.in == strict })
	})
	t.Run("controls", func(t *testing.T) {
		t.Parallel()
		runControls(t, newLane(t))
	})
}

func runLane(t *testing.T, l *lane, mine func(evasion) bool) {
	ctx := harness.Context(t, laneLimit)
	neighbour := l.enter(ctx, t, open)
	l.listen(ctx, t, neighbour)
	for _, e := range evasions() {
		if mine(e) {
			t.Run(e.id, func(t *testing.T) { l.attack(ctx, t, e) })
		}
	}
	if late := l.arrivals(harness.Mark{}); matches(late, nobody) {
		t.Errorf("in the end, hosts that nobody may reach had seen: %q", late)
	}
	if heard := neighbour.MustShell(ctx, t, "cat heard"); heard != "itself\n" {
		t.Errorf("another sandbox heard %q", heard)
	}
}

// listening writes down what a sandbox hears from others, over TCP and UDP.
const listening = `
import threading
heard = open("/home/app/heard", "ab", 0)
u = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
u.bind(("::", 8000))
l = socket.create_server(("::", 8000), family=socket.AF_INET6, dualstack_ipv6=True)
def datagrams():
    while True:
        heard.write(u.recv(1000))
threading.Thread(target=datagrams).start()
while True:
    heard.write(l.accept()[0].recv(1000))`

func (l *lane) listen(ctx context.Context, t *testing.T, c *harness.Conn) {
	t.Helper()
	l.spawn(ctx, t, c, listening)
	c.MustShell(ctx, t, `until (echo itself > /dev/tcp/127.0.0.1/8000) 2>/dev/null; do sleep 0.05; done
until grep -q itself heard; do sleep 0.05; done`)
}

// attack runs a way out and judges it by what arrived.
func (l *lane) attack(ctx context.Context, t *testing.T, e evasion) {
	c := l.enter(ctx, t, e.in)
	mark, trapped := l.Internet.Mark(), len(l.Internet.Trapped())
	out := l.play(ctx, t, c, e.script, e.root)
	if e.in != none {
		l.settle(ctx, t, c)
	}
	seen := l.arrivalsWith(ctx, mark, func(seen []string) bool { return hold(seen, e.arrives) })
	never := cmp.Or(e.never, "evil") + "|" + nobody
	for _, line := range seen {
		if matches([]string{line}, never) {
			t.Errorf("this left the sandbox: %.500s", line)
		}
	}
	for _, want := range e.arrives {
		if !hold(seen, []string{want}) {
			t.Errorf("what is allowed did not arrive: %s; what did:\n%.2000s", want, strings.Join(seen, "\n"))
		}
	}
	if more := l.Internet.Trapped()[trapped:]; len(more) > 0 {
		t.Errorf("behind forbidden addresses arrived %q", more)
	}
	prints := e.prints
	if harness.Isolation() == microvm.Name {
		prints = cmp.Or(e.ownKernelPrints, prints)
	}
	if prints != "" && !matches([]string{out.Stdout}, prints) {
		t.Errorf("the script prints %q, not %s", out.Stdout, prints)
	}
	t.Logf("the script says:\n%.3000s\n%.3000s", out.Stdout, out.Stderr)
}

// runControls runs each script where nothing holds it back: there it has to
// get out, or it proves nothing elsewhere.
func runControls(t *testing.T, l *lane) {
	ctx := harness.Context(t, laneLimit)
	for _, e := range evasions() {
		if e.blunt != "" {
			continue
		}
		t.Run(e.id, func(t *testing.T) {
			c := l.enter(ctx, t, open)
			mark := l.Internet.Mark()
			out := l.play(ctx, t, c, e.script, e.root)
			l.settle(ctx, t, c)
			left := func(seen []string) bool { return matches(seen, cmp.Or(e.open, "evil")) }
			if seen := l.arrivalsWith(ctx, mark, left); !left(seen) {
				t.Errorf("the attack never left an open sandbox; what arrived:\n%.3000s\nthe script says:\n%.3000s\n%.3000s",
					strings.Join(seen, "\n"), out.Stdout, out.Stderr)
			}
		})
	}
}
