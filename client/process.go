package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/atollhq/atoll/api"
)

// SpawnOptions configures a process. For each of the three standard streams
// there are three possibilities: nothing (the null device), a reader or
// writer that this package serves, or a pipe that the caller serves.
type SpawnOptions struct {
	Args     []string
	Env      map[string]string // in addition to the sandbox's
	ClearEnv bool              // start from an empty environment
	Cwd      string            // default: the sandbox's home directory

	// Stdin is copied to the process until it ends. A Read of it that blocks
	// is not interrupted by the end of the process.
	Stdin     io.Reader
	StdinPipe bool // Process.Stdin is the writing end

	// Stdout and Stderr receive the output. A writer that blocks holds up the
	// whole connection once 4 MiB wait for it.
	Stdout, Stderr         io.Writer
	StdoutPipe, StderrPipe bool // Process.Stdout, Process.Stderr must be read

	// WaitDelay, when positive, bounds how long Wait waits after the process
	// itself ended while a descendant keeps Stdout or Stderr open without
	// writing. Zero waits for the end of the output.
	WaitDelay time.Duration
}

func (o *SpawnOptions) wire() api.ProcessOptions {
	p := api.ProcessOptions{Env: o.Env, Stdout: api.StdioNull, Stderr: api.StdioNull}
	if o.ClearEnv {
		p.ClearEnv = &o.ClearEnv
	}
	if o.Cwd != "" {
		p.Cwd = &o.Cwd
	}
	if o.Stdout != nil || o.StdoutPipe {
		p.Stdout = api.StdioPiped
	}
	if o.Stderr != nil || o.StderrPipe {
		p.Stderr = api.StdioPiped
	}
	return p
}

// Status is how a process ended.
type Status struct {
	Code   int    `json:"code"`   // 128 + number of the signal, if one ended it
	Signal string `json:"signal"` // for example "SIGKILL"; empty otherwise
	OOM    bool   `json:"oom"`    // the kernel ended it for want of memory
}

// Success reports exit code 0.
func (s Status) Success() bool { return s.Code == 0 && s.Signal == "" }

// Process is a process in a sandbox.
type Process struct {
	PID    int
	Stdin  io.WriteCloser // with StdinPipe
	Stdout io.ReadCloser  // with StdoutPipe
	Stderr io.ReadCloser  // with StderrPipe

	conn      *conn
	waitDelay time.Duration
	copies    sync.WaitGroup
	copied    atomic.Int64  // bytes, to see whether output still comes
	drained   chan struct{} // closed when copies are done
	copyErr   errorSlot

	exited  chan struct{} // closed when status and waitErr are set
	status  Status
	waitErr error
}

// errorSlot keeps the first error it is given.
type errorSlot struct {
	mu  sync.Mutex
	err error
}

func (s *errorSlot) set(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
}

func (s *errorSlot) get() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Spawn starts a program. ctx bounds the call, not the process.
func (s *Sandbox) Spawn(ctx context.Context, command string, o SpawnOptions) (*Process, error) {
	return s.conn.start(ctx, &o, func(p api.ProcessOptions) request {
		return request{
			method: "spawn",
			params: api.SpawnParams{Command: command, Args: o.Args, ProcessOptions: p},
		}
	}, nil)
}

// start makes the call that build returns and attaches the streams. extra
// looks at the result as well.
func (c *conn) start(ctx context.Context, o *SpawnOptions, build func(api.ProcessOptions) request,
	extra func(json.RawMessage) error,
) (*Process, error) {
	wire := o.wire()
	var stdin *outStream
	if o.Stdin != nil || o.StdinPipe {
		var err error
		if stdin, err = c.startStream(ctx); err != nil {
			return nil, err
		}
		wire.StdinStreamID = &stdin.id
	}
	r := build(wire)
	r.undo = c.abandonProcess
	ok, err := c.do(ctx, r)
	if err != nil {
		if stdin != nil {
			c.dropOut(stdin.id)
		}
		return nil, err
	}
	var res api.SpawnResult
	if err := json.Unmarshal(ok, &res); err != nil {
		return nil, err
	}
	if extra != nil {
		if err := extra(ok); err != nil {
			return nil, err
		}
	}
	return c.attach(o, res, stdin)
}

// attach builds the Process. The server holds a process's output back until
// processWait arrives, so that the streams are claimed before data comes.
func (c *conn) attach(o *SpawnOptions, res api.SpawnResult, stdin *outStream) (*Process, error) {
	p := &Process{
		PID: res.PID, conn: c, waitDelay: o.WaitDelay,
		drained: make(chan struct{}), exited: make(chan struct{}),
	}
	stdout, err := c.claim(res.StdoutStreamID)
	if err != nil {
		return nil, err
	}
	stderr, err := c.claim(res.StderrStreamID)
	if err != nil {
		return nil, err
	}
	p.Stdout = p.output(stdout, o.Stdout)
	p.Stderr = p.output(stderr, o.Stderr)
	go func() { p.copies.Wait(); close(p.drained) }()
	go p.await()
	if o.Stdin != nil {
		go stdin.copyFrom(o.Stdin) //nolint:errcheck // the process sees the end of its input
	} else if stdin != nil {
		p.Stdin = stdin
	}
	return p, nil
}

// output copies a stream to w, or returns it as a pipe.
func (p *Process) output(s *inStream, w io.Writer) io.ReadCloser {
	if s == nil {
		return nil
	}
	r := newReader(s)
	if w == nil {
		return r
	}
	p.copies.Go(func() {
		if _, err := io.Copy(countingWriter{w, &p.copied}, r); err != nil {
			p.copyErr.set(err)
			r.Close()
		}
	})
	return nil
}

type countingWriter struct {
	w io.Writer
	n *atomic.Int64
}

func (c countingWriter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n.Add(int64(n))
	return n, err
}

// await asks for the status. It ends with the process or the connection.
func (p *Process) await() {
	defer close(p.exited)
	got, err := call[api.ProcessStatus](p.conn.ctx, p.conn, "processWait", api.PIDParams{PID: p.PID})
	if err != nil {
		p.waitErr = err
		if closed := p.conn.err(); closed != nil {
			p.waitErr = closed
		}
		return
	}
	p.status = Status{Code: got.Code, OOM: got.OOM != nil}
	if got.Signal != nil {
		p.status.Signal = *got.Signal
	}
}

// abandonProcess ends a process whose caller gave up before it learned of it.
func (c *conn) abandonProcess(ok json.RawMessage) {
	var res api.SpawnResult
	if json.Unmarshal(ok, &res) != nil {
		return
	}
	c.discard(res.StdoutStreamID, res.StderrStreamID)
	ctx, cancel := context.WithTimeout(c.ctx, noticeTimeout)
	defer cancel()
	kill := "SIGKILL"
	_ = c.run(ctx, "processKill", api.ProcessKillParams{PID: res.PID, Signal: &kill})
}

// Wait waits for the end of the process and of the copying of its output.
// When ctx ends first, the process goes on.
func (p *Process) Wait(ctx context.Context) (Status, error) {
	select {
	case <-p.exited:
	case <-ctx.Done():
		return Status{}, ctx.Err()
	}
	if p.waitErr != nil {
		return Status{}, p.waitErr
	}
	if err := p.waitOutput(ctx); err != nil {
		return p.status, err
	}
	return p.status, p.copyErr.get()
}

// waitOutput waits until the copies end or, with a WaitDelay, stand still.
func (p *Process) waitOutput(ctx context.Context) error {
	for {
		before := p.copied.Load()
		var idle <-chan time.Time
		if p.waitDelay > 0 {
			idle = time.After(p.waitDelay)
		}
		select {
		case <-p.drained:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-idle:
			if p.copied.Load() == before {
				return nil
			}
		}
	}
}

// Exited is closed when the process has ended; output may still come.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Kill sends a signal, "" for SIGTERM, to the process. That it already ended
// is no error.
func (p *Process) Kill(ctx context.Context, signal string) error {
	params := api.ProcessKillParams{PID: p.PID}
	if signal != "" {
		params.Signal = &signal
	}
	err := p.conn.run(ctx, "processKill", params)
	if e, ok := errors.AsType[*Error](err); ok && (e.Code() == "ENOENT" || e.Code() == "ESRCH") {
		return nil
	}
	return err
}

// Run starts a program and waits for it. When ctx ends first, the program is
// killed. An exit code other than 0 is not an error.
func (s *Sandbox) Run(ctx context.Context, command string, o SpawnOptions) (Status, error) {
	p, err := s.Spawn(ctx, command, o)
	if err != nil {
		return Status{}, err
	}
	status, err := p.Wait(ctx)
	if ctx.Err() != nil {
		kill, cancel := context.WithTimeout(s.conn.ctx, noticeTimeout)
		defer cancel()
		_ = p.Kill(kill, "SIGKILL")
	}
	return status, err
}

// Output is the result of Sandbox.Output.
type Output struct {
	Status
	Stdout, Stderr []byte
}

// Output runs a program and collects what it writes, in memory. It replaces
// o.Stdout and o.Stderr.
func (s *Sandbox) Output(ctx context.Context, command string, o SpawnOptions) (*Output, error) {
	var stdout, stderr bytes.Buffer
	o.Stdout, o.Stderr = &stdout, &stderr
	status, err := s.Run(ctx, command, o)
	if err != nil {
		return nil, err
	}
	return &Output{Status: status, Stdout: stdout.Bytes(), Stderr: stderr.Bytes()}, nil
}

// Sh runs a script with bash and collects its output.
func (s *Sandbox) Sh(ctx context.Context, script string) (*Output, error) {
	return s.Output(ctx, "bash", SpawnOptions{Args: []string{"-c", script}})
}
