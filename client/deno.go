package client

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/atollhq/atoll/api"
)

// Deno runs JavaScript and TypeScript in a sandbox.
type Deno struct{ sandbox *Sandbox }

// DenoOptions configures Deno.Run: Entrypoint or Code. In SpawnOptions, Args
// are the script's.
type DenoOptions struct {
	SpawnOptions
	Entrypoint string
	Watch      api.Watch // restart when files change; with Entrypoint only
	Code       string
	Extension  string // of Code: "ts" (default), "js", "tsx", …
}

// DenoProcess is a running Deno program.
type DenoProcess struct {
	*Process
	restarts chan struct{}
}

// Run starts a Deno program.
func (d *Deno) Run(ctx context.Context, o DenoOptions) (*DenoProcess, error) {
	c := d.sandbox.conn
	build := func(p api.ProcessOptions) request {
		params := api.SpawnDenoParams{ProcessOptions: p, ScriptArgs: o.Args}
		if o.Entrypoint != "" {
			params.Entrypoint = &o.Entrypoint
			if o.Watch.Enabled {
				params.Watch = &o.Watch
			}
		} else {
			params.Code, params.Extension = &o.Code, &o.Extension
			if o.Extension == "" {
				ts := "ts"
				params.Extension = &ts
			}
		}
		return request{method: "spawnDeno", params: params}
	}
	watcher := ""
	p, err := c.start(ctx, &o.SpawnOptions, build, func(ok json.RawMessage) error {
		var res api.SpawnDenoResult
		if err := json.Unmarshal(ok, &res); err != nil {
			return err
		}
		if res.WatcherID != nil {
			watcher = *res.WatcherID
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &DenoProcess{Process: p, restarts: c.watch(watcher, p.exited)}, nil
}

// watch registers for the restarts of a watcher until exited.
func (c *conn) watch(id string, exited <-chan struct{}) chan struct{} {
	ch := make(chan struct{}, 1)
	c.mu.Lock()
	defer c.mu.Unlock()
	if id == "" || c.closeErr != nil {
		return ch
	}
	c.watchers[id] = ch
	go func() {
		select {
		case <-exited:
		case <-c.done:
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.watchers, id)
	}()
	return ch
}

func (c *conn) watcherRestarted(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ch, ok := c.watchers[id]; ok {
		wake(ch)
	}
}

// Restarts receives a value when a watched program was restarted; several
// restarts in a row may count as one.
func (p *DenoProcess) Restarts() <-chan struct{} { return p.restarts }

// HTTPReady waits until the program serves HTTP; false means it ended or will
// not.
func (p *DenoProcess) HTTPReady(ctx context.Context) (bool, error) {
	return call[bool](ctx, p.conn, "denoHttpWait", api.PIDParams{PID: p.PID})
}

// Fetch makes a request to the program's own HTTP server, whatever host its
// URL names.
func (p *DenoProcess) Fetch(req *http.Request) (*http.Response, error) {
	return p.conn.fetch(req, &p.PID)
}

// Repl is a read-eval-print loop that keeps its state between calls.
type Repl struct{ *Process }

// Repl starts one. In SpawnOptions, Args are the script's.
func (d *Deno) Repl(ctx context.Context, o SpawnOptions) (*Repl, error) {
	p, err := d.sandbox.conn.start(ctx, &o, func(p api.ProcessOptions) request {
		return request{
			method: "spawnDenoRepl",
			params: api.SpawnDenoReplParams{ProcessOptions: p, ScriptArgs: o.Args},
		}
	}, nil)
	if err != nil {
		return nil, err
	}
	return &Repl{Process: p}, nil
}

// Eval evaluates code and returns the result as JSON; undefined is null. An
// exception is an *Error.
func (r *Repl) Eval(ctx context.Context, code string) (json.RawMessage, error) {
	return r.conn.do(ctx, request{method: "denoReplEval", params: api.DenoReplEvalParams{PID: r.PID, Code: code}})
}

// Call calls a function, given as source text, with arguments that encode to
// JSON.
func (r *Repl) Call(ctx context.Context, fn string, args ...any) (json.RawMessage, error) {
	if args == nil {
		args = []any{}
	}
	return r.conn.do(ctx, request{
		method: "denoReplCall",
		params: map[string]any{"pid": r.PID, "fn": fn, "args": args},
	})
}

// Close ends the loop.
func (r *Repl) Close(ctx context.Context) error {
	err := r.conn.run(ctx, "denoReplClose", api.PIDParams{PID: r.PID})
	if e, ok := err.(*Error); ok && e.Code() == "ENOENT" {
		return nil
	}
	return err
}

// Eval evaluates code in a loop of its own.
func (d *Deno) Eval(ctx context.Context, code string) (json.RawMessage, error) {
	repl, err := d.Repl(ctx, SpawnOptions{})
	if err != nil {
		return nil, err
	}
	defer func() {
		end, cancel := context.WithTimeout(d.sandbox.conn.ctx, noticeTimeout)
		defer cancel()
		_ = repl.Close(end)
	}()
	return repl.Eval(ctx, code)
}
