package deno

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/atollhq/atoll/api"
)

// options pipes the outputs; the fake Deno needs its mark in the environment.
func options() api.ProcessOptions {
	return api.ProcessOptions{Stdout: api.StdioPiped, Stderr: api.StdioPiped, Env: map[string]string{fakeDenoEnv: "1"}}
}

func codeParams(code string, args ...string) api.SpawnDenoParams {
	ts := "ts"
	return api.SpawnDenoParams{ProcessOptions: options(), Code: &code, Extension: &ts, ScriptArgs: args}
}

func spawnCode(p *peer, code string, args ...string) api.SpawnDenoResult {
	p.t.Helper()
	res := must[api.SpawnDenoResult](p, "spawnDeno", codeParams(code, args...))
	p.start("processWait", api.PIDParams{PID: res.PID}) // as the SDKs do; output waits for it
	return res
}

func (p *peer) wait(pid int) api.ProcessStatus {
	p.t.Helper()
	return must[api.ProcessStatus](p, "processWait", api.PIDParams{PID: pid})
}

func (p *peer) kill(pid int) {
	p.t.Helper()
	signal := "SIGKILL"
	must[any](p, "processKill", api.ProcessKillParams{PID: pid, Signal: &signal})
}

func TestSpawnCode(t *testing.T) {
	p := newFakePeer(t)
	res := spawnCode(p, "args", "a", "-b")
	if got := p.output(res.StdoutStreamID); got != "a -b" || res.WatcherID != nil {
		t.Errorf("output %q, watcher %v", got, res.WatcherID)
	}
	if status := p.wait(res.PID); !status.Success {
		t.Errorf("status %+v", status)
	}
}

func TestSpawnLongCode(t *testing.T) {
	p := newFakePeer(t)
	home := p.service.cfg.Home
	res := spawnCode(p, "args"+strings.Repeat(" ", maxInline), "x")
	if got := p.output(res.StdoutStreamID); got != "x" {
		t.Errorf("output %q", got)
	}
	eventually(t, func() bool {
		left, _ := filepath.Glob(filepath.Join(home, ".deno-eval-*"))
		return left == nil
	})
}

func TestSpawnBadInput(t *testing.T) {
	p := newFakePeer(t)
	exe := "exe"
	empty := ""
	both := codeParams("x")
	both.Entrypoint = &exe
	extension := codeParams("x")
	extension.Extension = &exe
	for name, params := range map[string]api.SpawnDenoParams{
		"both": both, "extension": extension,
		"neither": {ProcessOptions: options()},
		"empty":   {ProcessOptions: options(), Entrypoint: &empty},
	} {
		answer := <-p.start("spawnDeno", params)
		if answer.Error == nil || answer.Error.Code != api.RPCInvalidParams {
			t.Errorf("%s: %+v", name, answer)
		}
	}
}

func TestWatchNotifies(t *testing.T) {
	p := newFakePeer(t)
	main := filepath.Join(t.TempDir(), "main.ts")
	write(t, main, "block")
	res := must[api.SpawnDenoResult](p, "spawnDeno", api.SpawnDenoParams{
		ProcessOptions: options(), Entrypoint: &main, Watch: &api.Watch{Enabled: true},
	})
	for range 2 {
		select {
		case note := <-p.notes:
			var params api.WatcherRestartParams
			json.Unmarshal(note.Params, &params)
			if note.Method != api.NotifyWatcherRestart || res.WatcherID == nil || params.WatcherID != *res.WatcherID {
				t.Errorf("notification %s %s for watcher %v", note.Method, note.Params, res.WatcherID)
			}
		case <-time.After(time.Minute):
			t.Fatal("no notification")
		}
	}
	p.kill(res.PID)
}

func TestHTTPWait(t *testing.T) {
	p := newFakePeer(t)
	res := spawnCode(p, "serve")
	if !must[bool](p, "denoHttpWait", api.PIDParams{PID: res.PID}) {
		t.Error("a server is not noticed")
	}
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return p.service.DialHTTP(ctx, res.PID)
		},
	}}
	got, err := client.Get("http://any.example/")
	if err != nil {
		t.Fatal(err)
	}
	defer got.Body.Close()
	if text, _ := io.ReadAll(got.Body); string(text) != "served any.example" {
		t.Errorf("answer %q", text)
	}
	p.kill(res.PID)
	p.wait(res.PID)
	if must[bool](p, "denoHttpWait", api.PIDParams{PID: res.PID}) {
		t.Error("a dead process serves")
	}
	if _, err := p.service.DialHTTP(t.Context(), res.PID); err == nil {
		t.Error("a dead process can be dialled")
	}
}

func TestHTTPWaitEndsWithTheProcess(t *testing.T) {
	p := newFakePeer(t)
	res := spawnCode(p, "block")
	answer := p.start("denoHttpWait", api.PIDParams{PID: res.PID})
	p.kill(res.PID)
	if served, err := finish[bool](t, answer); served || err != nil {
		t.Errorf("served %v, %v", served, err)
	}
	if _, err := call[bool](p, "denoHttpWait", api.PIDParams{PID: 1 << 30}); err == nil || err.Code == nil || *err.Code != "ENOENT" {
		t.Errorf("unknown process: %v", err)
	}
}

func spawnRepl(p *peer) int {
	p.t.Helper()
	return must[api.SpawnResult](p, "spawnDenoRepl", api.SpawnDenoReplParams{ProcessOptions: options()}).PID
}

func evalParams(pid int, code string) api.DenoReplEvalParams {
	return api.DenoReplEvalParams{PID: pid, Code: code}
}

func TestReplMethods(t *testing.T) {
	p := newFakePeer(t)
	pid := spawnRepl(p)
	if got := must[[]string](p, "denoReplEval", evalParams(pid, "code")); got[0] != "code" || got[1] != "await __atoll.result()" {
		t.Errorf("eval: %q", got)
	}
	args := []json.RawMessage{json.RawMessage("1"), json.RawMessage(`"x"`)}
	got := must[[]string](p, "denoReplCall", api.DenoReplCallParams{PID: pid, Fn: " add; ", Args: args})
	if want := `await __atoll.call("add", "[1,\"x\"]")`; got[0] != "(add\n)" || got[1] != want {
		t.Errorf("call: %q", got)
	}
	if _, err := call[any](p, "denoReplEval", evalParams(pid, "throw")); err == nil || err.ConstructorName != "TypeError" || *err.Code != "EFAKE" {
		t.Errorf("throw: %v", err)
	}
	if _, err := call[any](p, "denoReplEval", evalParams(pid, "syntax")); err == nil || err.ConstructorName != "SyntaxError" {
		t.Errorf("syntax: %v", err)
	}
	must[any](p, "denoReplClose", api.PIDParams{PID: pid})
	if status := p.wait(pid); !status.Success {
		t.Errorf("a closed session ends with %+v", status)
	}
	for _, method := range []string{"denoReplClose", "denoReplEval"} {
		if _, err := call[any](p, method, evalParams(pid, "")); err == nil || err.ConstructorName != "TypeError" || *err.Code != "ENOENT" {
			t.Errorf("%s after the end: %v", method, err)
		}
	}
}

func TestReplEnds(t *testing.T) {
	p := newFakePeer(t)
	pid := spawnRepl(p)
	if _, err := call[any](p, "denoReplEval", evalParams(pid, "die")); err == nil || err.Message != errSessionEnded.Error() {
		t.Errorf("eval of the end: %v", err)
	}
	pid = spawnRepl(p)
	hanging := p.start("denoReplEval", evalParams(pid, "hang"))
	p.kill(pid)
	if _, err := finish[any](t, hanging); err == nil {
		t.Error("eval outlives its process")
	}
	pid = spawnRepl(p)
	hanging = p.start("denoReplEval", evalParams(pid, "hang"))
	must[any](p, "denoReplClose", api.PIDParams{PID: pid})
	if _, err := finish[any](t, hanging); err == nil {
		t.Error("eval outlives its session")
	}
}

func TestReplWrongProcess(t *testing.T) {
	p := newFakePeer(t)
	res := spawnCode(p, "block")
	if _, err := call[any](p, "denoReplEval", evalParams(res.PID, "1")); err == nil || *err.Code != "EINVAL" {
		t.Errorf("not a session: %v", err)
	}
	if _, err := call[any](p, "denoReplClose", api.PIDParams{PID: 1 << 30}); err == nil || *err.Code != "ENOENT" {
		t.Errorf("unknown process: %v", err)
	}
	p.kill(res.PID)
}

func TestUnsupported(t *testing.T) {
	p := newFakePeer(t)
	for _, method := range []string{"vscode", "exposeHttp"} {
		if _, err := call[any](p, method, map[string]any{"path": "/", "domain": "x", "port": 1}); err == nil || err.ConstructorName != "NotSupported" {
			t.Errorf("%s: %v", method, err)
		}
	}
}

// TestRealDeno runs the ways in which the methods depend on Deno's behaviour.
func TestRealDeno(t *testing.T) {
	p := newPeer(t, denoBinary(t))
	write(t, filepath.Join(p.service.cfg.Home, "lib.ts"), "export const seven: number = 7")
	t.Run("code", func(t *testing.T) {
		res := spawnCode(p, `import {seven} from "./lib.ts"; console.log(seven, Deno.args.join())`, "a", "-b")
		if got := p.output(res.StdoutStreamID); got != "7 a,-b\n" {
			t.Errorf("output %q, stderr %q", got, p.output(res.StderrStreamID))
		}
	})
	for name, code := range map[string]string{
		"Deno.serve": `Deno.serve({port: 0, hostname: "127.0.0.1"}, (r) => new Response(r.url))`,
		"node:http":  `import http from "node:http"; http.createServer((q, r) => r.end(q.url)).listen(0)`,
	} {
		t.Run(name, func(t *testing.T) {
			res := spawnCode(p, code)
			if !must[bool](p, "denoHttpWait", api.PIDParams{PID: res.PID}) {
				t.Errorf("not noticed: %q", p.output(res.StderrStreamID))
			}
			p.kill(res.PID)
		})
	}
	t.Run("repl", func(t *testing.T) {
		res := must[api.SpawnResult](p, "spawnDenoRepl", api.SpawnDenoReplParams{ProcessOptions: options()})
		pid, status := res.PID, p.start("processWait", api.PIDParams{PID: res.PID})
		must[any](p, "denoReplEval", evalParams(pid, `console.log("out"); import {seven} from "./lib.ts"; const add = (a: number) => a + seven`))
		got := must[int](p, "denoReplCall", api.DenoReplCallParams{PID: pid, Fn: "add", Args: []json.RawMessage{json.RawMessage("1")}})
		if got != 8 {
			t.Errorf("add(1) = %d", got)
		}
		must[any](p, "denoReplClose", api.PIDParams{PID: pid})
		if got := p.output(res.StdoutStreamID); got != "out\n" {
			t.Errorf("output %q", got)
		}
		if end, _ := finish[api.ProcessStatus](t, status); !end.Success {
			t.Errorf("status %+v", end)
		}
	})
}
