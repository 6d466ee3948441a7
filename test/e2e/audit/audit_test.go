//go:build e2e

// Package audit tests the record of what sandboxes did on the network, and the
// policy of running sandboxes, as their owners see them: through the command
// line and the API.
package audit

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/test/e2e/harness"
)

// cli runs the atoll command.
func cli(ctx context.Context, t *testing.T, s *harness.Server, args ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := command(ctx, s, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("atoll %q: %v\n%s", args, err, errs.String())
	}
	return out.String()
}

func command(ctx context.Context, s *harness.Server, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, s.Program("atoll"), args...)
	cmd.Env = append(os.Environ(), s.Environ()...)
	cmd.WaitDelay = harness.Patience
	return cmd
}

func decode(t *testing.T, in io.Reader) (out []api.AuditRecord) {
	t.Helper()
	for lines := bufio.NewScanner(in); lines.Scan(); {
		var r api.AuditRecord
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			t.Fatalf("%q: %v", lines.Bytes(), err)
		}
		out = append(out, r)
	}
	return out
}

func records(ctx context.Context, t *testing.T, s *harness.Server, id string) []api.AuditRecord {
	t.Helper()
	return decode(t, strings.NewReader(cli(ctx, t, s, "audit", "--json", id)))
}

// await reads the audit until it has a record of each kind that is wanted.
func await(ctx context.Context, t *testing.T, s *harness.Server, id string, want map[string]func(api.AuditRecord) bool) {
	t.Helper()
	missing := "anything"
	var got []api.AuditRecord
	defer func() { // also when the time is over in the middle of a reading
		if missing != "" {
			t.Errorf("no record of %s among %d\n%+v", missing, len(got), got[max(0, len(got)-20):])
		}
	}()
	for {
		got = records(ctx, t, s, id)
		missing = ""
		for what, matches := range want {
			if !has(got, matches) {
				missing += what + "; "
			}
		}
		if missing == "" {
			return
		}
		select { // a record is in its file a moment after the event
		case <-ctx.Done():
			t.Fatal(ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func has(records []api.AuditRecord, matches func(api.AuditRecord) bool) bool {
	for _, r := range records {
		if matches(r) {
			return true
		}
	}
	return false
}

// tried matches connections to a port that ended in a decision.
func tried(port uint16, decision string) func(api.AuditRecord) bool {
	return func(r api.AuditRecord) bool {
		return r.Kind == api.AuditConnection && r.Port == port && r.Decision == decision && r.Addr.IsValid() && r.Rule != ""
	}
}

func asked(name string) func(api.AuditRecord) bool {
	return func(r api.AuditRecord) bool {
		return r.Kind == api.AuditName && r.Name == name && r.Decision == api.AuditRefuse && r.Protocol == "dns" && r.Rule != ""
	}
}

func TestAuditWhileRunningAndAfter(t *testing.T) {
	s := harness.New(t)
	ctx := harness.Context(t, 2*harness.TestLimit)
	c := s.MustCreate(ctx, t, map[string]any{"timeout": "10m"})
	began := time.Now().Truncate(time.Second)
	c.MustShell(ctx, t, `
		curl -sSf --max-time 60 http://`+harness.WebHost+`/hello
		curl -sS --max-time 60 http://10.0.0.1:81/ || true
		getent hosts `+harness.RebindHost+` || true`)
	want := map[string]func(api.AuditRecord) bool{
		"the page that was read": func(r api.AuditRecord) bool {
			return tried(80, api.AuditAllow)(r) && r.Protocol == "tcp" && r.Sent > 50 && r.Received > 50 && r.Sandbox == c.ID && !r.Time.Before(began) && !r.Time.After(time.Now())
		},
		"the private address":        tried(81, api.AuditRefuse),
		"the name that leads inside": asked(harness.RebindHost),
	}
	await(ctx, t, s, c.ID, want)
	table := cli(ctx, t, s, "audit", c.ID)
	if !strings.HasPrefix(table, "TIME") || !strings.Contains(table, "10.0.0.1:81") || !strings.Contains(table, harness.RebindHost) {
		t.Error(table)
	}
	if has(records(ctx, t, s, c.ID), func(r api.AuditRecord) bool { return r.Kind == api.AuditName && r.Name == harness.WebHost }) {
		t.Error("a name that was answered is recorded")
	}

	other := s.MustCreate(ctx, t, map[string]any{"timeout": "10m"})
	if got := records(ctx, t, s, other.ID); len(got) != 0 {
		t.Errorf("another sandbox has %+v", got)
	}
	before := len(records(ctx, t, s, c.ID))
	if err := s.Delete(ctx, c.ID); err != nil {
		t.Fatal(err)
	}
	s.AwaitStopped(ctx, t, c.ID)
	await(ctx, t, s, c.ID, want)
	if after := len(records(ctx, t, s, c.ID)); after < before {
		t.Errorf("%d records while it ran, %d after", before, after)
	}
	info, err := os.Stat(s.Data.Audit(c.ID))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
}

// A spare's record begins when it is somebody's; a restart of the server
// changes nothing.
func TestAuditAcrossARestart(t *testing.T) {
	s := harness.New(t)
	ctx := harness.Context(t, 2*harness.TestLimit)
	c := s.MustCreate(ctx, t, map[string]any{"timeout": "10m", "allow_net": []string{}})
	c.MustShell(ctx, t, "getent hosts before.atoll.test || true")
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(ctx); err != nil {
		t.Fatal(err)
	}
	again := s.MustConnect(ctx, t, c.ID)
	again.MustShell(ctx, t, "getent hosts after.atoll.test || true")
	await(ctx, t, s, c.ID, map[string]func(api.AuditRecord) bool{
		"before": asked("before.atoll.test"), "after": asked("after.atoll.test"),
	})
	if out := cli(ctx, t, s, "policy", "get", c.ID); !strings.Contains(out, "(nothing)") {
		t.Errorf("the policy after the restart: %s", out)
	}
}

func TestFollow(t *testing.T) {
	s := harness.New(t)
	ctx := harness.Context(t, 2*harness.TestLimit)
	c := s.MustCreate(ctx, t, map[string]any{"timeout": "10m", "allow_net": []string{}})
	cmd := command(ctx, s, "audit", "--follow", "--json", c.ID)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(out)
	for i := range 3 {
		name := fmt.Sprintf("n%d.atoll.test", i)
		c.MustShell(ctx, t, "getent hosts "+name+" || true")
		for got := ""; got != name; { // each is asked for by two types
			line, err := in.ReadString('\n')
			var r api.AuditRecord
			if err != nil || json.Unmarshal([]byte(line), &r) != nil {
				t.Fatalf("%q: %v", line, err)
			}
			got = r.Name
		}
	}
	if err := s.Delete(ctx, c.ID); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(in)
	if err != nil || len(rest) > 0 && !bytes.HasSuffix(rest, []byte("}\n")) {
		t.Errorf("%q: %v", rest, err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// The policy is read and replaced through the command line, and holds at once.
func TestPolicy(t *testing.T) {
	s := harness.New(t)
	ctx := harness.Context(t, 2*harness.TestLimit)
	id := strings.TrimSpace(cli(ctx, t, s, "create", "--allow-net", "none"))
	c := s.MustConnect(ctx, t, id)
	fetch := func() bool {
		out, err := c.Shell(ctx, "curl -sS --max-time 60 http://"+harness.WebHost+"/hello")
		if err != nil {
			t.Fatal(err)
		}
		return out.Stdout == "hello from outside\n"
	}
	if fetch() {
		t.Error("an empty list reaches the outside")
	}
	if out := cli(ctx, t, s, "policy", "set", id, "--allow-all"); !strings.Contains(out, "everything") || !fetch() {
		t.Errorf("open: %s", out)
	}
	p, err := c.Spawn(ctx, "bash", "-c", "exec 3<>/dev/tcp/"+harness.EchoHost+"/7; echo open >&3; head -1 <&3 >echoed; head -1 <&3")
	if err != nil {
		t.Fatal(err)
	}
	c.MustShell(ctx, t, "until test -s echoed; do sleep 0.1; done")
	await(ctx, t, s, id, map[string]func(api.AuditRecord) bool{"the page": tried(80, api.AuditAllow)})
	if out := cli(ctx, t, s, "policy", "set", id, "--allow-net", "none", "--json"); !strings.Contains(out, `"allow_net": []`) || fetch() {
		t.Errorf("closed again: %s", out)
	}
	if _, err := p.Wait(ctx); err != nil { // its connection was cut
		t.Error(err)
	}
	await(ctx, t, s, id, map[string]func(api.AuditRecord) bool{"the refused name": asked(harness.WebHost)})
	if err := s.Delete(ctx, id); err != nil {
		t.Fatal(err)
	}
	if err := s.Terminate(); err != nil { // its own log is whole then
		t.Fatal(err)
	}
	raw, err := os.ReadFile(s.Data.AuditLog())
	if n := strings.Count(string(raw), `"set_network"`); err != nil || n != 2 {
		t.Errorf("%d changes are in the server's own log (%v)", n, err)
	}
}

// flood makes different records as fast as it can, without end: refused names
// and connections to ports where nobody is.
const flood = `import itertools, os, socket, threading, time

def names():
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for n in itertools.count():
        labels = [("%d" % n).rjust(60, "n")] * 4
        q = b"".join(bytes([len(l)]) + l.encode() for l in labels) + b"\0\0\1\0\1"
        u.sendto(os.urandom(2) + b"\1\0\0\1\0\0\0\0\0\0" + q, ("10.87.0.1", 53))
        time.sleep(0.0005)

def ports():
    for p in itertools.count(1000):
        s = socket.socket()
        s.settimeout(5)
        s.connect_ex(("93.184.215.14", p % 60000 + 1000))
        s.close()

work = [threading.Thread(target=t) for t in (names, ports, ports)]
[t.start() for t in work]
[t.join() for t in work]
`

// A guest that floods the record fills two files and no more, and what it
// does otherwise is still recorded.
func TestFloods(t *testing.T) {
	s := harness.New(t, "--net-audit-max", "1")
	ctx := harness.Context(t, 3*harness.TestLimit)
	c := s.MustCreate(ctx, t, map[string]any{"timeout": "10m", "allow_net": []string{}})
	if err := c.Call(ctx, "writeTextFile", map[string]any{"path": "flood.py", "content": flood}, nil); err != nil {
		t.Fatal(err)
	}
	flooding, err := c.Spawn(ctx, "python3", "flood.py") // all is refused
	if err != nil {
		t.Fatal(err)
	}
	await(ctx, t, s, c.ID, map[string]func(api.AuditRecord) bool{"what was lost": func(r api.AuditRecord) bool {
		return r.Kind == api.AuditLost && r.Decision == api.AuditRefuse && r.Count > 0
	}})
	cli(ctx, t, s, "policy", "set", c.ID, "--allow-all")
	awaitFile(ctx, t, s.Data.OlderAudit(c.ID)) // of what is allowed as well
	c.MustShell(ctx, t, fmt.Sprint("kill ", flooding.PID))
	if _, err := flooding.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	// A second, for the gateway to have read the rest of it.
	c.MustShell(ctx, t, "sleep 1; curl -sSf --max-time 60 http://"+harness.WebHost+"/hello")
	await(ctx, t, s, c.ID, map[string]func(api.AuditRecord) bool{"the page": tried(80, api.AuditAllow)})
	for _, path := range []string{s.Data.Audit(c.ID), s.Data.OlderAudit(c.ID)} {
		info, err := os.Stat(path)
		if err != nil || info.Size() == 0 || info.Size() > 1<<20 {
			t.Errorf("%v %v", info, err)
		}
	}
}

func awaitFile(ctx context.Context, t *testing.T, path string) {
	t.Helper()
	for {
		if _, err := os.Stat(path); err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("there is no %s", path)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
