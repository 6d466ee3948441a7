package client_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/client"
	"github.com/atollhq/atoll/client/clienttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newServer starts a fake and a client of it that keeps no idle connections.
func newServer(t *testing.T) (*clienttest.Server, *client.Client) {
	t.Helper()
	srv := clienttest.New(t.TempDir())
	t.Cleanup(srv.Close)
	return srv, newClient(t, srv.URL)
}

func newClient(t *testing.T, url string) *client.Client {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	c, err := client.New(client.Options{
		Endpoint: url, Token: clienttest.Token, HTTPClient: &http.Client{Transport: transport},
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newSandbox(t *testing.T) (*clienttest.Server, *client.Sandbox) {
	t.Helper()
	srv, c := newServer(t)
	sb, err := c.Sandboxes.Create(t.Context(), client.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sb.Close() })
	return srv, sb
}

func random(t *testing.T, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

func TestOutput(t *testing.T) {
	_, sb := newSandbox(t)
	out, err := sb.Output(t.Context(), "sh", client.SpawnOptions{
		Args:  []string{"-c", `cat; echo "$GREETING" >&2; exit 3`},
		Env:   map[string]string{"GREETING": "hello"},
		Stdin: strings.NewReader("from stdin"),
	})
	if err != nil {
		t.Fatal(err)
	}
	if string(out.Stdout) != "from stdin" || string(out.Stderr) != "hello\n" || out.Code != 3 || out.Success() {
		t.Errorf("got %q, %q, %+v", out.Stdout, out.Stderr, out.Status)
	}
}

func TestPipesAndSignal(t *testing.T) {
	_, sb := newSandbox(t)
	p, err := sb.Spawn(t.Context(), "sh", client.SpawnOptions{
		Args: []string{"-c", "read line; echo got $line; exec sleep 60"}, StdinPipe: true, StdoutPipe: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(p.Stdin, "x\n"); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 6)
	if _, err := io.ReadFull(p.Stdout, buf); err != nil || string(buf) != "got x\n" {
		t.Fatalf("read %q, %v", buf, err)
	}
	if err := p.Kill(t.Context(), "SIGKILL"); err != nil {
		t.Fatal(err)
	}
	status, err := p.Wait(t.Context())
	if err != nil || status.Signal != "SIGKILL" || status.Code != 137 {
		t.Errorf("status %+v, %v", status, err)
	}
	if err := p.Kill(t.Context(), ""); err != nil {
		t.Errorf("kill after the end: %v", err)
	}
	if err := errors.Join(p.Stdin.Close(), p.Stdout.Close()); err != nil {
		t.Error(err)
	}
}

func TestRunKillsOnCancel(t *testing.T) {
	_, sb := newSandbox(t)
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		_, err := sb.Run(ctx, "sh", client.SpawnOptions{Args: []string{"-c", "echo up; sleep 60"}, Stdout: w})
		done <- err
	}()
	if _, err := io.ReadFull(r, make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestCommandNotFound(t *testing.T) {
	_, sb := newSandbox(t)
	_, err := sb.Output(t.Context(), "no-such-command", client.SpawnOptions{Stdin: strings.NewReader("x")})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestWaitDelay(t *testing.T) {
	_, sb := newSandbox(t)
	var out bytes.Buffer
	status, err := sb.Run(t.Context(), "sh", client.SpawnOptions{
		Args: []string{"-c", "sleep 60 & echo done"}, Stdout: &out, WaitDelay: 2 * time.Second, // for what is on its way
	})
	if err != nil || !status.Success() || out.String() != "done\n" {
		t.Errorf("got %+v, %v, %q", status, err, out.String())
	}
}

func TestFiles(t *testing.T) {
	srv, sb := newSandbox(t)
	ctx := t.Context()
	for _, size := range []int{0, 1, 4 << 20, 9<<20 + 1} {
		data := random(t, size)
		if err := sb.FS.WriteFile(ctx, "/f", data, nil); err != nil {
			t.Fatal(err)
		}
		onDisk, err := os.ReadFile(filepath.Join(srv.Root(sb.ID()), "f"))
		if err != nil || !bytes.Equal(onDisk, data) {
			t.Fatalf("size %d: wrote %d bytes, %v", size, len(onDisk), err)
		}
		if got, err := sb.FS.ReadFile(ctx, "/f"); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("size %d: read %d bytes, %v", size, len(got), err)
		}
		var out bytes.Buffer
		if n, err := sb.FS.ReadTo(ctx, "/f", &out); err != nil || n != int64(size) || !bytes.Equal(out.Bytes(), data) {
			t.Fatalf("size %d: copied %d bytes, %v", size, n, err)
		}
	}
}

func TestReadFileTooLargeForOneMessage(t *testing.T) {
	srv, sb := newSandbox(t)
	code := "ERR_MESSAGE_TOO_LARGE"
	srv.Handle("readFile", func(context.Context, *clienttest.Conn, json.RawMessage) (any, error) {
		return nil, &api.RemoteError{ConstructorName: "RangeError", Message: "too large", Code: &code}
	})
	data := random(t, 9<<20)
	if err := sb.FS.WriteFile(t.Context(), "big", data, nil); err != nil {
		t.Fatal(err)
	}
	if got, err := sb.FS.ReadFile(t.Context(), "big"); err != nil || !bytes.Equal(got, data) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
}

func TestWriteFromFailures(t *testing.T) {
	_, sb := newSandbox(t)
	boom := errors.New("boom")
	err := sb.FS.WriteFrom(t.Context(), "/dir/missing", bytes.NewReader(random(t, 1<<20)), nil)
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing directory: %v", err)
	}
	err = sb.FS.WriteFrom(t.Context(), "f", io.MultiReader(strings.NewReader("x"), failingReader{boom}), nil)
	if !errors.Is(err, boom) {
		t.Errorf("failing reader: %v", err)
	}
}

type failingReader struct{ err error }

func (r failingReader) Read([]byte) (int, error) { return 0, r.err }

func TestHandles(t *testing.T) {
	_, sb := newSandbox(t)
	yes := true
	f, err := sb.FS.Open(t.Context(), "h", client.OpenOptions{Write: &yes, Create: &yes})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(f, "hello world"); err != nil {
		t.Fatal(err)
	}
	if at, err := f.Seek(-5, io.SeekEnd); err != nil || at != 6 {
		t.Fatalf("seek: %d, %v", at, err)
	}
	if got, err := io.ReadAll(f); err != nil || string(got) != "world" {
		t.Fatalf("read %q, %v", got, err)
	}
	if info, err := f.Stat(t.Context()); err != nil || info.Size != 11 {
		t.Fatalf("stat: %+v, %v", info, err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestTree(t *testing.T) {
	_, sb := newSandbox(t)
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(sb.FS.MkdirAll(ctx, "/a/b"))
	must(sb.FS.WriteFile(ctx, "/a/b/f", []byte("x"), nil))
	must(sb.FS.Symlink(ctx, "b/f", "/a/link"))
	must(sb.FS.Chmod(ctx, "/a/b/f", 0o600))
	must(sb.FS.Rename(ctx, "/a/b/f", "/a/b/g"))
	var paths []string
	for entry, err := range sb.FS.Walk(ctx, "/a", client.WalkOptions{}) {
		must(err)
		paths = append(paths, entry.Path)
	}
	if got := strings.Join(paths, " "); got != "/a /a/b /a/b/g /a/link" {
		t.Errorf("walked %s", got)
	}
	for range sb.FS.Walk(ctx, "/a", client.WalkOptions{}) {
		break // leaving early must not disturb the connection
	}
	for _, err := range sb.FS.Walk(ctx, "/none", client.WalkOptions{}) {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("walk of nothing: %v", err)
		}
	}
	if target, err := sb.FS.Readlink(ctx, "/a/link"); err != nil || target != "b/f" {
		t.Errorf("readlink: %q, %v", target, err)
	}
	if info, err := sb.FS.Lstat(ctx, "/a/link"); err != nil || !info.IsSymlink {
		t.Errorf("lstat: %+v, %v", info, err)
	}
	if err := sb.FS.Mkdir(ctx, "/a", nil); !errors.Is(err, fs.ErrExist) {
		t.Errorf("mkdir twice: %v", err)
	}
	must(sb.FS.RemoveAll(ctx, "/a"))
	if _, err := sb.FS.Stat(ctx, "/a"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("stat of nothing: %v", err)
	}
}

func TestEnv(t *testing.T) {
	_, sb := newSandbox(t)
	ctx := t.Context()
	if _, set, err := sb.Env.Get(ctx, "K"); err != nil || set {
		t.Errorf("unset: %v, %v", set, err)
	}
	if err := sb.Env.Set(ctx, "K", ""); err != nil {
		t.Fatal(err)
	}
	if v, set, err := sb.Env.Get(ctx, "K"); err != nil || !set || v != "" {
		t.Errorf("empty: %q, %v, %v", v, set, err)
	}
	if all, err := sb.Env.All(ctx); err != nil || len(all) != 1 {
		t.Errorf("all: %v, %v", all, err)
	}
	if err := sb.Env.Delete(ctx, "K"); err != nil {
		t.Error(err)
	}
}

func TestAPIErrors(t *testing.T) {
	srv, c := newServer(t)
	_, err := c.Sandboxes.Connect(t.Context(), "sbx_ord_nope")
	e, ok := errors.AsType[*client.APIError](err)
	if !ok || e.Status != 404 || e.Code != "SANDBOX_NOT_FOUND" || e.TraceID != clienttest.TraceID {
		t.Errorf("connect: %v", err)
	}
	if err := c.Sandboxes.Kill(t.Context(), "x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("kill: %v", err)
	}
	bad, _ := client.New(client.Options{Endpoint: srv.URL, Token: "ddo_wrong"})
	if _, err := bad.Sandboxes.Create(t.Context(), client.CreateOptions{}); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("wrong token: %v", err)
	}
	if _, err := c.Sandboxes.Get(t.Context(), "x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("get: %v", err)
	}
}

func TestLifetimes(t *testing.T) {
	_, c := newServer(t)
	ctx := t.Context()
	sb, err := c.Sandboxes.Create(ctx, client.CreateOptions{Timeout: time.Minute, Labels: map[string]string{"k": "v"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := sb.Close(); err != nil {
		t.Fatal(err)
	}
	list, err := c.Sandboxes.List(ctx, client.ListOptions{Labels: map[string]string{"k": "v"}})
	if err != nil || len(list) != 1 || list[0].ID != sb.ID() || list[0].Status != api.StatusRunning {
		t.Fatalf("list: %+v, %v", list, err)
	}
	if list, _ := c.Sandboxes.List(ctx, client.ListOptions{Labels: map[string]string{"k": "w"}}); len(list) != 0 {
		t.Errorf("other label: %+v", list)
	}
	until, err := c.Sandboxes.Extend(ctx, sb.ID(), 10*time.Minute)
	if err != nil || time.Until(until) < 9*time.Minute {
		t.Errorf("extend: %v, %v", until, err)
	}
	if one, err := c.Sandboxes.Get(ctx, sb.ID()); err != nil || one.Labels["k"] != "v" || one.StopAt == nil {
		t.Errorf("get: %+v, %v", one, err)
	}
	again, err := c.Sandboxes.Connect(ctx, sb.ID())
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	if e := again.Err(); e == nil || e.Reason != "sandbox killed" || e.Code != 1000 {
		t.Errorf("close error: %v", e)
	}
}

func TestCloseEndsEverything(t *testing.T) {
	srv, sb := newSandbox(t)
	p, err := sb.Spawn(t.Context(), "sleep", client.SpawnOptions{Args: []string{"60"}, StdoutPipe: true})
	if err != nil {
		t.Fatal(err)
	}
	srv.CloseConns(sb.ID(), 1001, "sandbox timeout")
	<-sb.Closed()
	want := func(what string, err error) {
		t.Helper()
		if e, ok := errors.AsType[*client.CloseError](err); !ok || e.Code != 1001 || e.Reason != "sandbox timeout" {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err = p.Wait(t.Context())
	want("wait", err)
	_, err = p.Stdout.Read(make([]byte, 1))
	want("read", err)
	_, err = sb.FS.ReadDir(t.Context(), "/")
	want("call", err)
	want("err", sb.Err())
}

func TestMalformedMessages(t *testing.T) {
	for name, text := range map[string]string{
		"not JSON":  "{",
		"stream":    `{"jsonrpc":"2.0","method":"$sandbox.stream.start","params":{"streamId":"x"}}`,
		"bad chunk": `{"jsonrpc":"2.0","method":"$sandbox.stream.enqueue","params":{"streamId":1,"data":"*"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			srv, sb := newSandbox(t)
			srv.Handle("envGet", func(ctx context.Context, c *clienttest.Conn, _ json.RawMessage) (any, error) {
				c.Send(text)
				<-ctx.Done()
				return nil, ctx.Err()
			})
			_, _, err := sb.Env.Get(t.Context(), "x")
			if _, ok := errors.AsType[*client.CloseError](err); !ok {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestHarmlessMessages(t *testing.T) {
	srv, sb := newSandbox(t)
	srv.Handle("envGet", func(_ context.Context, c *clienttest.Conn, _ json.RawMessage) (any, error) {
		c.Send(`{"jsonrpc":"2.0","method":"$sandbox.future","params":{}}`)
		c.Send(`{"jsonrpc":"2.0","method":"$sandbox.stream.enqueue","params":{"streamId":77,"data":"eA=="}}`)
		c.Send(`{"jsonrpc":"2.0","id":999,"result":{"ok":null}}`)
		c.Send(`{"jsonrpc":"2.0","id":5,"method":"ask"}`)
		return "fine", nil
	})
	if v, _, err := sb.Env.Get(t.Context(), "x"); err != nil || v != "fine" {
		t.Errorf("got %q, %v", v, err)
	}
}

func TestUnknownMethod(t *testing.T) {
	_, sb := newSandbox(t)
	_, err := sb.Call(t.Context(), "nonsense", struct{}{})
	if e, ok := errors.AsType[*api.RPCError](err); !ok || e.Code != api.RPCMethodNotFound {
		t.Errorf("got %v", err)
	}
}

func TestAbort(t *testing.T) {
	srv, sb := newSandbox(t)
	started, aborted := make(chan struct{}), make(chan struct{})
	srv.Handle("readFile", func(ctx context.Context, _ *clienttest.Conn, _ json.RawMessage) (any, error) {
		close(started)
		<-ctx.Done()
		close(aborted)
		return nil, ctx.Err()
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-started; cancel() }()
	if _, err := sb.FS.ReadFile(ctx, "x"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	<-aborted
	if _, err := sb.FS.ReadDir(t.Context(), "/"); err != nil {
		t.Errorf("the connection must survive: %v", err)
	}
}

// TestAbandonedSpawn gives up on a spawn whose answer comes too late: the
// process must be ended all the same.
func TestAbandonedSpawn(t *testing.T) {
	srv, sb := newSandbox(t)
	started, release, killed := make(chan struct{}), make(chan struct{}), make(chan struct{})
	srv.Handle("spawn", func(_ context.Context, c *clienttest.Conn, _ json.RawMessage) (any, error) {
		close(started)
		<-release
		return api.SpawnResult{PID: 42}, nil
	})
	srv.Handle("processKill", func(_ context.Context, _ *clienttest.Conn, p json.RawMessage) (any, error) {
		if strings.Contains(string(p), `"pid":42`) {
			close(killed)
		}
		return nil, nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-started; cancel() }()
	if _, err := sb.Spawn(ctx, "x", client.SpawnOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	close(release)
	<-killed
}

// TestSlowConsumer shows the documented back-pressure: a stream that nobody
// reads stops the connection after 4 MiB, and reading it lets it go on.
func TestSlowConsumer(t *testing.T) {
	_, sb := newSandbox(t)
	const size = 12 << 20
	p, err := sb.Spawn(t.Context(), "head", client.SpawnOptions{
		Args: []string{"-c", "12582912", "/dev/zero"}, StdoutPipe: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, p.Stdout)
	if err != nil || n != size {
		t.Errorf("read %d bytes, %v", n, err)
	}
	if status, err := p.Wait(t.Context()); err != nil || !status.Success() {
		t.Errorf("%+v, %v", status, err)
	}
}

// TestClosedStreamFreesConnection closes a full stream instead of reading it.
func TestClosedStreamFreesConnection(t *testing.T) {
	_, sb := newSandbox(t)
	p, err := sb.Spawn(t.Context(), "yes", client.SpawnOptions{StdoutPipe: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Stdout.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := sb.FS.ReadDir(t.Context(), "/"); err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(t.Context(), "SIGKILL"); err != nil {
		t.Error(err)
	}
}

func TestFetch(t *testing.T) {
	srv, sb := newSandbox(t)
	srv.Handle("fetch", func(_ context.Context, c *clienttest.Conn, raw json.RawMessage) (any, error) {
		var p api.FetchParams
		if err := json.Unmarshal(raw, &p); err != nil {
			return nil, err
		}
		body, err := io.ReadAll(c.Inbound(*p.BodyStreamID))
		id := c.Outbound(func(emit func([]byte) bool) { emit([]byte(p.Method + " " + p.URL + " " + string(body))) })
		return api.FetchResult{Status: 201, Headers: [][2]string{{"x-a", "1"}, {"x-a", "2"}}, BodyStreamID: &id}, err
	})
	req, _ := http.NewRequestWithContext(t.Context(), "POST", "http://inside.test/p", strings.NewReader("body"))
	resp, err := (&http.Client{Transport: sb.Transport()}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil || string(got) != "POST http://inside.test/p body" {
		t.Errorf("body %q, %v", got, err)
	}
	if resp.StatusCode != 201 || len(resp.Header.Values("X-A")) != 2 {
		t.Errorf("response %+v", resp)
	}
}

func TestDeno(t *testing.T) {
	srv, sb := newSandbox(t)
	watcher := "w1"
	srv.Handle("spawnDeno", func(_ context.Context, c *clienttest.Conn, raw json.RawMessage) (any, error) {
		var p api.SpawnDenoParams
		if err := json.Unmarshal(raw, &p); err != nil || p.Code == nil || *p.Extension != "ts" {
			return nil, errors.New("wrong parameters")
		}
		return api.SpawnDenoResult{SpawnResult: api.SpawnResult{PID: 7}, WatcherID: &watcher}, nil
	})
	srv.Handle("denoHttpWait", func(_ context.Context, c *clienttest.Conn, _ json.RawMessage) (any, error) {
		c.Notify(api.NotifyWatcherRestart, api.WatcherRestartParams{WatcherID: watcher})
		return true, nil
	})
	srv.Handle("processWait", func(ctx context.Context, _ *clienttest.Conn, _ json.RawMessage) (any, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	p, err := sb.Deno.Run(t.Context(), client.DenoOptions{Code: "1"})
	if err != nil {
		t.Fatal(err)
	}
	if ready, err := p.HTTPReady(t.Context()); err != nil || !ready {
		t.Errorf("ready: %v, %v", ready, err)
	}
	<-p.Restarts()
}

func TestRepl(t *testing.T) {
	srv, sb := newSandbox(t)
	srv.Handle("spawnDenoRepl", func(context.Context, *clienttest.Conn, json.RawMessage) (any, error) {
		return api.SpawnResult{PID: 9}, nil
	})
	srv.Handle("denoReplEval", func(_ context.Context, _ *clienttest.Conn, raw json.RawMessage) (any, error) {
		if strings.Contains(string(raw), "throw") {
			return nil, &api.RemoteError{ConstructorName: "TypeError", Message: "thrown"}
		}
		return 3, nil
	})
	srv.Handle("denoReplClose", func(context.Context, *clienttest.Conn, json.RawMessage) (any, error) { return nil, nil })
	got, err := sb.Deno.Eval(t.Context(), "1+2")
	if err != nil || string(got) != "3" {
		t.Errorf("got %s, %v", got, err)
	}
	_, err = sb.Deno.Eval(t.Context(), "throw 1")
	if e, ok := errors.AsType[*client.Error](err); !ok || e.Remote.ConstructorName != "TypeError" {
		t.Errorf("got %v", err)
	}
}

func TestOptions(t *testing.T) {
	for _, name := range []string{"ATOLL_ENDPOINT", "ATOLL_TOKEN", "DENO_SANDBOX_ENDPOINT", "DENO_DEPLOY_ENDPOINT", "DENO_DEPLOY_TOKEN"} {
		t.Setenv(name, "")
	}
	if _, err := client.New(client.Options{Token: "t"}); !errors.Is(err, client.ErrNoEndpoint) {
		t.Errorf("got %v", err)
	}
	if _, err := client.New(client.Options{Endpoint: "http://x"}); !errors.Is(err, client.ErrNoToken) {
		t.Errorf("got %v", err)
	}
	if _, err := client.New(client.Options{Endpoint: "ftp://x", Token: "t"}); err == nil {
		t.Error("ftp was accepted")
	}
	t.Setenv("DENO_SANDBOX_ENDPOINT", "http://x")
	t.Setenv("DENO_DEPLOY_TOKEN", "t")
	if _, err := client.New(client.Options{}); err != nil {
		t.Error(err)
	}
}
