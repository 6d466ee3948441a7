//go:build e2e

package egress

import (
	"context"
	_ "embed"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/atollhq/atoll/test/e2e/harness"
)

//go:embed testdata/guest.py
var guestLibrary string

const (
	scriptLimit = 5 * time.Minute
	laneLimit   = 15 * time.Minute
)

// TestMain lets the lanes run side by side on few processors: their scripts
// wait more than they compute.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "4"); err != nil {
		panic(err) // the flag is testing's own
	}
	os.Exit(m.Run())
}

// configs are what the scenes' sandboxes are created with.
var configs = map[scene]map[string]any{
	listed: {"allow_net": []string{
		harness.APIHost, harness.RawHost, harness.MailHost + ":587", harness.DBHost + ":5432", "*.wild.atoll.test",
		"93.184.215.30", harness.RebindHost, harness.PrivateHost, harness.MixedHost, harness.FlipHost,
		"169.254.169.254", "10.0.0.0/8",
	}},
	none:   {"allow_net": []string{}},
	open:   {},
	strict: {"allow_net": []string{harness.APIHost, harness.RawHost}},
	secrets: {"secrets": map[string]any{"KEY": map[string]any{
		"hosts": []string{harness.RawHost}, "value": "not-much-of-a-secret",
	}}},
}

// lane is a server whose sandboxes attack one after the other, so that what
// arrives can be told apart.
type lane struct {
	*harness.Server
	conns map[scene]*harness.Conn
}

func newLane(t *testing.T, flags ...string) *lane {
	t.Helper()
	s, err := harness.Start(t.Context(), flags...)
	if err != nil {
		t.Fatalf("start server: %v", err)
	}
	s.Watch(t)
	return &lane{s, map[scene]*harness.Conn{}}
}

// enter returns the scene's sandbox.
func (l *lane) enter(ctx context.Context, t *testing.T, s scene) *harness.Conn {
	t.Helper()
	if c := l.conns[s]; c != nil {
		return c
	}
	c := l.create(ctx, t, configs[s])
	l.conns[s] = c
	return c
}

// create makes a sandbox that knows guest.py. It lives as long as the server:
// a later subtest uses it, too.
func (l *lane) create(ctx context.Context, t *testing.T, config map[string]any) *harness.Conn {
	t.Helper()
	c, err := l.Create(ctx, config)
	if err != nil {
		t.Fatalf("create sandbox: %v", err)
	}
	if err := c.Call(ctx, "writeTextFile", map[string]any{"path": "guest.py", "content": guestLibrary}, nil); err != nil {
		t.Fatal(err)
	}
	return c
}

// play runs a script: Python after guest.py, or a shell's after "#!".
func (l *lane) play(ctx context.Context, t *testing.T, c *harness.Conn, script string, root bool) harness.Output {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, scriptLimit)
	defer cancel()
	args := []string{"python3", "-c", l.constants() + script}
	if shell, ok := strings.CutPrefix(script, "#!"); ok {
		args = []string{"bash", "-c", shell}
	}
	if root {
		args = append([]string{"sudo", "-n"}, args...)
	}
	p, err := c.Spawn(ctx, args[0], args[1:]...)
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.Stderr, "Traceback") || strings.Contains(out.Stderr, "command not found") {
		t.Errorf("the script is wrong:\n%s", out.Stderr)
	}
	return out
}

// spawn starts a Python script after guest.py.
func (l *lane) spawn(ctx context.Context, t *testing.T, c *harness.Conn, script string, args ...string) *harness.Process {
	t.Helper()
	p, err := c.Spawn(ctx, "python3", append([]string{"-c", l.constants() + script}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// constants are the Python values that only the host knows.
func (l *lane) constants() string {
	var hosts []string
	for _, a := range harness.HostAddrs() {
		if !a.IsLoopback() {
			hosts = append(hosts, fmt.Sprintf("%q", a.WithZone("")))
		}
	}
	port := netip.MustParseAddrPort(strings.TrimPrefix(l.URL, "http://")).Port()
	return fmt.Sprintf("from guest import *\nHOSTS, SERVER = [%s], %d\n", strings.Join(hosts, ", "), port)
}

// settle returns when what was sent before has had the time to arrive, which a
// request that is sent now takes at least.
func (l *lane) settle(ctx context.Context, t *testing.T, c *harness.Conn) {
	t.Helper()
	if out := c.MustShell(ctx, t, "curl -sS -m 60 http://"+harness.APIHost+"/settle"); out != "ok\n" {
		t.Errorf("what is allowed doesn't work afterwards: %q", out)
	}
}

// arrivals are what the outside saw since a mark, one per line.
func (l *lane) arrivals(since harness.Mark) []string {
	var out []string
	for _, a := range l.Internet.Arrivals(since) {
		if line := a.String(); !strings.Contains(line, "/settle ") {
			out = append(out, line)
		}
	}
	return out
}

// arrivalsWith waits for arrivals since a mark until they are as wanted, or
// have had more than enough time. What a guest has sent, and the gateway may
// have answered, is still on its way through other processes.
func (l *lane) arrivalsWith(ctx context.Context, since harness.Mark, wanted func([]string) bool) []string {
	ctx, cancel := context.WithTimeout(ctx, harness.Patience)
	defer cancel()
	for {
		seen := l.arrivals(since)
		if wanted(seen) || ctx.Err() != nil {
			return seen
		}
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// hold reports whether each text is in some line.
func hold(lines, texts []string) bool {
	for _, text := range texts {
		if !slices.ContainsFunc(lines, func(line string) bool { return strings.Contains(line, text) }) {
			return false
		}
	}
	return true
}

func matches(lines []string, pattern string) bool {
	return slices.ContainsFunc(lines, regexp.MustCompile("(?i)"+pattern).MatchString)
}
