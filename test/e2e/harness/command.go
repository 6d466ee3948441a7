//go:build e2e

package harness

import (
	"context"
	"fmt"

	"github.com/atollhq/atoll/api"
)

// Process is a command that runs in a sandbox.
type Process struct {
	PID            int
	Stdout, Stderr *Stream
	conn           *Conn
}

// Output is what a command left.
type Output struct {
	Stdout, Stderr string
	api.ProcessStatus
}

// Spawn starts a command.
func (c *Conn) Spawn(ctx context.Context, command string, args ...string) (*Process, error) {
	var out api.SpawnResult
	err := c.Call(ctx, "spawn", api.SpawnParams{Command: command, Args: args, ProcessOptions: api.ProcessOptions{
		Stdout: api.StdioPiped, Stderr: api.StdioPiped,
	}}, &out)
	if err != nil {
		return nil, fmt.Errorf("spawn: %w", err)
	}
	if out.StdoutStreamID == nil || out.StderrStreamID == nil {
		return nil, fmt.Errorf("spawn: no stream for piped output: %+v", out)
	}
	return &Process{PID: out.PID, Stdout: c.stream(*out.StdoutStreamID), Stderr: c.stream(*out.StderrStreamID), conn: c}, nil
}

// Wait returns when the process and its output have ended.
func (p *Process) Wait(ctx context.Context) (Output, error) {
	var out Output
	if err := p.conn.Call(ctx, "processWait", api.PIDParams{PID: p.PID}, &out.ProcessStatus); err != nil {
		return out, fmt.Errorf("processWait: %w", err)
	}
	for _, s := range []*Stream{p.Stdout, p.Stderr} {
		select {
		case <-s.Done:
		case <-ctx.Done():
			return out, fmt.Errorf("the output did not end: %w", ctx.Err())
		}
	}
	out.Stdout, out.Stderr = string(p.Stdout.Data), string(p.Stderr.Data)
	return out, nil
}

// Shell runs a script with bash.
func (c *Conn) Shell(ctx context.Context, script string) (Output, error) {
	p, err := c.Spawn(ctx, "bash", "-c", script)
	if err != nil {
		return Output{}, err
	}
	return p.Wait(ctx)
}
