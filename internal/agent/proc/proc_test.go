package proc

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/agent/rpc"
	"github.com/atollhq/atoll/internal/agent/rpc/rpctest"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if os.Getenv(initHelper) != "" {
		os.Exit(runAsInit())
	}
	goleak.VerifyTestMain(m)
}

func testManager(t testing.TB) *Manager {
	t.Helper()
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	m := NewManager(Config{
		UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), User: u.Username,
		Home: t.TempDir(), Env: map[string]string{"GREETING": "hello"},
		Log: slog.New(slog.DiscardHandler),
	})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), rpctest.Patience)
		defer cancel()
		m.Close(ctx)
	})
	return m
}

func serve(t testing.TB) (*Manager, *rpctest.Client) {
	t.Helper()
	m := testManager(t)
	return m, rpctest.Dial(t, registry(m))
}

func registry(m *Manager) *rpc.Registry {
	reg := rpc.NewRegistry()
	Register(reg, m)
	return reg
}

type vars = map[string]any

func spawnOf(script string, more vars) vars {
	p := vars{"command": "sh", "args": []string{"-c", script}, "stdout": "piped", "stderr": "piped"}
	for k, v := range more {
		p[k] = v
	}
	return p
}

// run spawns and waits; it returns the status and both outputs.
func run(t testing.TB, c *rpctest.Client, params vars) (api.ProcessStatus, string, string) {
	t.Helper()
	var r api.SpawnResult
	if err := c.Call("spawn", params, &r); err != nil {
		t.Fatalf("spawn: %v", err)
	}
	var st api.ProcessStatus
	if err := c.Call("processWait", vars{"pid": r.PID}, &st); err != nil {
		t.Fatalf("wait: %v", err)
	}
	return st, output(t, c, r.StdoutStreamID), output(t, c, r.StderrStreamID)
}

func output(t testing.TB, c *rpctest.Client, id *int64) string {
	t.Helper()
	if id == nil {
		return ""
	}
	b, err := c.Stream(*id).All()
	if err != nil {
		t.Errorf("stream: %v", err)
	}
	return string(b)
}

func TestSpawn(t *testing.T) {
	m, c := serve(t)
	home := m.cfg.Home
	sub := filepath.Join(home, "sub")
	if err := os.Mkdir(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	tool := filepath.Join(sub, "tool")
	if err := os.WriteFile(tool, []byte("#!/bin/sh\necho tool $1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		params vars
		code   int
		out    string
	}{
		{"code", spawnOf("exit 3", nil), 3, ""},
		{"output", spawnOf("echo out; echo err >&2", nil), 0, "out\n|err\n"},
		{"home", spawnOf("pwd", nil), 0, home + "\n|"},
		{"cwd", spawnOf("pwd", vars{"cwd": sub}), 0, sub + "\n|"},
		{"relative cwd", spawnOf("pwd", vars{"cwd": "sub"}), 0, sub + "\n|"},
		{"environment", spawnOf("echo $GREETING", nil), 0, "hello\n|"},
		{"variable", spawnOf("echo $GREETING", vars{"env": vars{"GREETING": "$HOME"}}), 0, "$HOME\n|"},
		{"clear", spawnOf("echo $GREETING$A", vars{"clearEnv": true, "env": vars{"A": "a"}}), 0, "a\n|"},
		{"path", vars{"command": "tool", "args": []string{"x"}, "stdout": "piped", "stderr": "piped", "env": vars{"PATH": sub + ":/bin"}}, 0, "tool x\n|"},
		{"relative path", vars{"command": "sub/tool", "stdout": "piped", "stderr": "null"}, 0, "tool\n|"},
		{"null", spawnOf("echo out; cat", vars{"stdout": "null", "stderr": "null"}), 0, "|"},
		{"signal", spawnOf("kill -TERM $$", nil), 143, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			st, out, errOut := run(t, c, tt.params)
			if st.Code != tt.code || st.Success != (tt.code == 0) || st.OOM != nil {
				t.Errorf("status %+v", st)
			}
			if got := out + "|" + errOut; tt.out != "" && got != tt.out {
				t.Errorf("output %q, want %q", got, tt.out)
			}
			if tt.code == 143 && (st.Signal == nil || *st.Signal != "SIGTERM") {
				t.Errorf("signal %v", st.Signal)
			}
		})
	}
}

func TestSpawnRefused(t *testing.T) {
	m, c := serve(t)
	plain := filepath.Join(m.cfg.Home, "plain")
	if err := os.WriteFile(plain, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name              string
		params            vars
		class, code, text string
	}{
		{"no command", vars{"command": "atoll-nothing"}, "NotFound", "ENOENT", "Failed to spawn 'atoll-nothing': entity not found"},
		{"no path", vars{"command": "/atoll/nothing"}, "NotFound", "ENOENT", "Failed to spawn '/atoll/nothing': entity not found"},
		{"empty", vars{"command": ""}, "NotFound", "ENOENT", "Failed to spawn ''"},
		{"not executable", vars{"command": plain}, "PermissionDenied", "EACCES", "Failed to spawn '" + plain + "': Permission denied"},
		{"not executable on PATH", vars{"command": "plain", "env": vars{"PATH": m.cfg.Home}}, "PermissionDenied", "EACCES", "Failed"},
		{"no cwd", vars{"command": "true", "cwd": "/atoll/no"}, "NotFound", "ENOENT", "Failed to spawn 'true': No such cwd '/atoll/no'"},
		{"cwd a file", vars{"command": "true", "cwd": plain}, "NotADirectory", "ENOTDIR", "Failed to spawn 'true': the cwd"},
		{"bad variable", vars{"command": "true", "env": vars{"a=b": "c"}}, "TypeError", "EINVAL", "Key contains"},
		{"NUL in argument", vars{"command": "true", "args": []string{"a\x00b"}}, "TypeError", "EINVAL", "Failed to spawn 'true'"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.params["stdout"], tt.params["stderr"] = "null", "null"
			expectError(t, c.Call("spawn", tt.params, nil), tt.class, tt.code, tt.text)
		})
	}
	var bad *api.RPCError
	if err := c.Call("spawn", vars{"command": "true", "stdout": "inherit"}, nil); !errors.As(err, &bad) || bad.Code != api.RPCInvalidParams {
		t.Errorf("got %v", err)
	}
}

func expectError(t *testing.T, err error, class, code, text string) {
	t.Helper()
	var e *api.RemoteError
	if !errors.As(err, &e) || e.ConstructorName != class || e.Code == nil || *e.Code != code || !strings.HasPrefix(e.Message, text) {
		t.Errorf("got %#v, want %s %s %s", err, class, code, text)
	}
}

func TestStdin(t *testing.T) {
	_, c := serve(t)
	data := bytes.Repeat([]byte("0123456789abcdef"), 20_000)
	c.Start(1)
	c.Send(1, data[:100_000])
	var r api.SpawnResult
	if err := c.Call("spawn", vars{"command": "cat", "stdinStreamId": 1, "stdout": "piped", "stderr": "null"}, &r); err != nil {
		t.Fatal(err)
	}
	c.Send(1, data[100_000:])
	c.End(1)
	wait := c.Go("processWait", vars{"pid": r.PID})
	if got := output(t, c, r.StdoutStreamID); got != string(data) {
		t.Errorf("got %d bytes, want %d", len(got), len(data))
	}
	if err := wait(nil); err != nil {
		t.Error(err)
	}
}

// A process that doesn't read its input must not keep it from being ended.
func TestKillBehindFullStdin(t *testing.T) {
	_, c := serve(t)
	c.Start(1)
	var r api.SpawnResult
	if err := c.Call("spawn", vars{"command": "sleep", "args": []string{"1000"}, "stdinStreamId": 1, "stdout": "null", "stderr": "null"}, &r); err != nil {
		t.Fatal(err)
	}
	wait := c.Go("processWait", vars{"pid": r.PID})
	for range 20 {
		c.Send(1, make([]byte, 1<<20))
	}
	if err := c.Call("processKill", vars{"pid": r.PID, "signal": "SIGKILL"}, nil); err != nil {
		t.Error(err)
	}
	var st api.ProcessStatus
	if err := wait(&st); err != nil || st.Code != 137 || *st.Signal != "SIGKILL" {
		t.Errorf("got %+v, %v", st, err)
	}
}

func TestKill(t *testing.T) {
	_, c := serve(t)
	for _, tt := range []struct {
		signal any
		want   string
	}{
		{nil, "SIGTERM"}, {"SIGINT", "SIGINT"}, {"SIGIOT", "SIGABRT"}, {9, "SIGKILL"}, {"SIGHUP", "SIGHUP"},
	} {
		var r api.SpawnResult
		// The grandchild holds the pipe: the stream ends only when the whole group is gone.
		if err := c.Call("spawn", spawnOf("trap - INT; sleep 1000 & echo on; wait", nil), &r); err != nil {
			t.Fatal(err)
		}
		wait := c.Go("processWait", vars{"pid": r.PID})
		c.Stream(*r.StdoutStreamID).First()
		if err := c.Call("processKill", vars{"pid": r.PID, "signal": tt.signal}, nil); err != nil {
			t.Error(err)
		}
		var st api.ProcessStatus
		if err := wait(&st); err != nil || st.Signal == nil || *st.Signal != tt.want {
			t.Errorf("got %+v, %v", st, err)
		}
		_ = unix.Kill(-r.PID, unix.SIGKILL) // what a shell puts in the background ignores SIGINT
		output(t, c, r.StdoutStreamID)
		expectError(t, c.Call("processKill", vars{"pid": r.PID}, nil), "TypeError", "ENOENT", "There is no running process")
		if err := c.Call("processWait", vars{"pid": r.PID}, nil); err != nil {
			t.Errorf("an ended process is forgotten: %v", err)
		}
	}
	expectError(t, c.Call("processKill", vars{"pid": 1 << 30}, nil), "TypeError", "ENOENT", "")
	expectError(t, c.Call("processWait", vars{"pid": 1 << 30}, nil), "TypeError", "ENOENT", "")
}

func TestBadSignal(t *testing.T) {
	_, c := serve(t)
	var r api.SpawnResult
	if err := c.Call("spawn", spawnOf("sleep 1000", nil), &r); err != nil {
		t.Fatal(err)
	}
	expectError(t, c.Call("processKill", vars{"pid": r.PID, "signal": "SIGNOPE"}, nil), "TypeError", "EINVAL", "Invalid signal: SIGNOPE")
	expectError(t, c.Call("processKill", vars{"pid": r.PID, "signal": 65}, nil), "TypeError", "EINVAL", "Invalid signal: 65")
	var bad *api.RPCError
	if err := c.Call("processKill", vars{"pid": r.PID, "signal": true}, nil); !errors.As(err, &bad) {
		t.Errorf("got %v", err)
	}
}

// Output is held back until the client has asked for the status, which it
// does when it is ready for the streams.
func TestOutputWaitsForProcessWait(t *testing.T) {
	_, c := serve(t)
	var r api.SpawnResult
	if err := c.Call("spawn", spawnOf("echo x", nil), &r); err != nil {
		t.Fatal(err)
	}
	p := r.PID
	var st api.ProcessStatus
	other := 0
	for range 50 { // answers take their turn behind whatever was sent before
		if err := c.Call("envGet", vars{"key": "A"}, nil); err == nil {
			other++
		}
	}
	if c.Stream(*r.StdoutStreamID).Count() != 0 || other != 50 {
		t.Error("output came before the client asked for the status")
	}
	if err := c.Call("processWait", vars{"pid": p}, &st); err != nil {
		t.Fatal(err)
	}
	if got := output(t, c, r.StdoutStreamID); got != "x\n" {
		t.Errorf("got %q", got)
	}
}

func TestOutputGoesOutWithoutProcessWait(t *testing.T) {
	_, c := serve(t)
	var r api.SpawnResult
	if err := c.Call("spawn", spawnOf("echo x", nil), &r); err != nil {
		t.Fatal(err)
	}
	if got := output(t, c, r.StdoutStreamID); got != "x\n" {
		t.Errorf("got %q", got)
	}
}

func TestCancelledOutputClosesPipe(t *testing.T) {
	_, c := serve(t)
	var r api.SpawnResult
	if err := c.Call("spawn", vars{"command": "yes", "stdout": "piped", "stderr": "null"}, &r); err != nil {
		t.Fatal(err)
	}
	wait := c.Go("processWait", vars{"pid": r.PID})
	c.Stream(*r.StdoutStreamID).First()
	c.Cancel(*r.StdoutStreamID)
	var st api.ProcessStatus
	if err := wait(&st); err != nil || st.Success {
		t.Errorf("got %+v, %v", st, err)
	}
}

// A process goes on when the connection that started it is gone, and another
// one finds it.
func TestProcessOutlivesConnection(t *testing.T) {
	m := testManager(t)
	reg := registry(m)
	first := rpctest.Dial(t, reg)
	var r api.SpawnResult
	script := "echo on; read line; yes | head -c 1000000; echo $line > done"
	first.Start(5)
	if err := first.Call("spawn", spawnOf(script, vars{"stdinStreamId": 5}), &r); err != nil {
		t.Fatal(err)
	}
	wait := first.Go("processWait", vars{"pid": r.PID})
	first.Stream(*r.StdoutStreamID).First()
	first.Send(5, []byte("line\n"))
	if err := first.Call("envGet", vars{"key": "A"}, nil); err != nil {
		t.Fatal(err)
	}
	first.Close()
	if err := wait(nil); err == nil {
		t.Error("wait on a closed connection succeeds")
	}
	second := rpctest.Dial(t, reg)
	var st api.ProcessStatus
	if err := second.Call("processWait", vars{"pid": r.PID}, &st); err != nil || !st.Success {
		t.Errorf("got %+v, %v", st, err)
	}
	if b, err := os.ReadFile(filepath.Join(m.cfg.Home, "done")); err != nil || string(b) != "line\n" {
		t.Errorf("got %q, %v", b, err)
	}
}

func TestEnv(t *testing.T) {
	_, c := serve(t)
	get := func() (v *string) {
		if err := c.Call("envGet", vars{"key": "X"}, &v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	if v := get(); v != nil {
		t.Errorf("got %q", *v)
	}
	if err := c.Call("envSet", vars{"key": "X", "value": "1=2"}, nil); err != nil {
		t.Fatal(err)
	}
	if v := get(); v == nil || *v != "1=2" {
		t.Errorf("got %v", v)
	}
	if _, out, _ := run(t, c, spawnOf("echo $X", nil)); out != "1=2\n" {
		t.Errorf("got %q", out)
	}
	var all map[string]string
	if err := c.Call("envToObject", vars{}, &all); err != nil || all["X"] != "1=2" || all["PATH"] != DefaultPath || all["GREETING"] != "hello" {
		t.Errorf("got %v, %v", all, err)
	}
	if err := c.Call("envDelete", vars{"key": "X"}, nil); err != nil || get() != nil {
		t.Errorf("not deleted: %v", err)
	}
	for _, key := range []string{"", "a=b", "a\x00"} {
		expectError(t, c.Call("envSet", vars{"key": key, "value": ""}, nil), "TypeError", "EINVAL", "")
	}
}

func TestMarkOOM(t *testing.T) {
	m, c := serve(t)
	for _, tt := range []struct{ script, want string }{
		{"echo $$; exec sleep 1000", oomHigh},
		{"sleep 1000 & echo $!; wait", oomLow},
	} {
		var r api.SpawnResult
		if err := c.Call("spawn", spawnOf(tt.script, nil), &r); err != nil {
			t.Fatal(err)
		}
		wait := c.Go("processWait", vars{"pid": r.PID})
		pid, err := strconv.Atoi(strings.TrimSpace(string(c.Stream(*r.StdoutStreamID).First())))
		if err != nil {
			t.Fatal(err)
		}
		m.MarkOOM(pid)
		if err := c.Call("processKill", vars{"pid": r.PID, "signal": "SIGKILL"}, nil); err != nil {
			t.Fatal(err)
		}
		var st api.ProcessStatus
		if err := wait(&st); err != nil || st.OOM == nil || *st.OOM != tt.want {
			t.Errorf("got %+v, %v, want %s", st, err, tt.want)
		}
	}
}

func TestEndedProcessesAreForgotten(t *testing.T) {
	m := testManager(t)
	for pid := range maxEnded + 10 {
		p := &Process{m: m, pid: pid, gate: make(chan struct{}), done: make(chan struct{})}
		m.remember(p)
		m.exited(p, 0)
	}
	if len(m.known) != maxEnded || len(m.ended) != maxEnded {
		t.Errorf("%d known, %d ended", len(m.known), len(m.ended))
	}
	if _, err := m.Find(0); err == nil {
		t.Error("the oldest is still known")
	}
}

// TestRunsAsUser needs root, as whom the agent runs.
func TestRunsAsUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can start processes as another user")
	}
	m := NewManager(Config{UID: 12345, GID: 23456, Home: "/", Log: slog.New(slog.DiscardHandler)})
	c := rpctest.Dial(t, registry(m))
	if _, out, _ := run(t, c, spawnOf("id -u; id -g; id -G; umask", nil)); !strings.HasPrefix(out, "12345\n23456\n23456\n") {
		t.Errorf("got %q", out)
	}
}

func TestGroups(t *testing.T) {
	file := filepath.Join(t.TempDir(), "group")
	if err := os.WriteFile(file, []byte("root:x:0:\nsudo:x:27:me,app\nodd\nweb:x:33:app\n:x:z:app\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := Groups("app", file); len(got) != 2 || got[0] != 27 || got[1] != 33 {
		t.Errorf("got %v", got)
	}
}

func BenchmarkSpawnTrue(b *testing.B) {
	_, c := serve(b)
	for b.Loop() {
		run(b, c, vars{"command": "true", "stdout": "null", "stderr": "null"})
	}
}

func BenchmarkEnvGet(b *testing.B) {
	_, c := serve(b)
	for b.Loop() {
		if err := c.Call("envGet", vars{"key": "PATH"}, nil); err != nil {
			b.Fatal(err)
		}
	}
}

// noGroup is a directory that is no control group.
type noGroup struct {
	dir    *os.File
	births int
}

func (g *noGroup) Birth(start func(int) error) error {
	g.births++
	return start(int(g.dir.Fd()))
}

// TestBornInTheGroup: all that is started is. The kernel refuses what it knows
// as no group.
func TestBornInTheGroup(t *testing.T) {
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = dir.Close() }()
	group := &noGroup{dir: dir}
	m := NewManager(Config{UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), Home: "/", Group: group, Log: slog.New(slog.DiscardHandler)})
	defer m.Close(t.Context())
	if _, err := m.Start(t.Context(), nil, Spec{Path: "true"}); err == nil {
		t.Error("a client's process was born elsewhere")
	}
	if _, err := m.Run(t.Context(), Command{Path: "/bin/true", Output: dir}); err == nil {
		t.Error("the agent's was born elsewhere")
	}
	if group.births != 2 {
		t.Errorf("%d births", group.births)
	}
}
