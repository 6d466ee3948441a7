package client

import (
	"context"
	"encoding/json"
	"time"
)

// Sandbox is a connection to one sandbox.
type Sandbox struct {
	FS   *FS   // files
	Env  *Env  // environment variables of processes started from now on
	Deno *Deno // the Deno runtime

	id        string
	traceID   string
	sandboxes *Sandboxes
	conn      *conn
}

func newSandbox(s *Sandboxes, id, traceID string, c *conn) *Sandbox {
	sb := &Sandbox{id: id, traceID: traceID, sandboxes: s, conn: c}
	sb.FS = &FS{conn: c}
	sb.Env = &Env{conn: c}
	sb.Deno = &Deno{sandbox: sb}
	return sb
}

// ID is the sandbox's id, for Connect, Kill and Extend.
func (s *Sandbox) ID() string { return s.id }

// TraceID finds the handshake in the server's log.
func (s *Sandbox) TraceID() string { return s.traceID }

// Closed is closed when the connection has ended, for whatever reason.
func (s *Sandbox) Closed() <-chan struct{} { return s.conn.done }

// Err says why the connection ended; nil while it lives.
func (s *Sandbox) Err() *CloseError { return s.conn.err() }

// Close ends the connection. A sandbox with a session lifetime ends with its
// primary client's connection.
func (s *Sandbox) Close() error { return s.conn.close() }

// farewell is how long Kill waits for the server to end the connection.
const farewell = 2 * time.Second

// Kill ends the sandbox at once and with it the connection.
func (s *Sandbox) Kill(ctx context.Context) error {
	if err := s.sandboxes.Kill(ctx, s.id); err != nil {
		return err
	}
	wait := time.NewTimer(farewell)
	defer wait.Stop()
	select {
	case <-s.conn.done:
	case <-ctx.Done():
	case <-wait.C:
	}
	return s.Close()
}

// Extend moves the end of the sandbox's lifetime to d from now. See
// Sandboxes.Extend.
func (s *Sandbox) Extend(ctx context.Context, d time.Duration) (time.Time, error) {
	return s.sandboxes.Extend(ctx, s.id, d)
}

// Call makes any JSON-RPC call, for methods that have no function here.
func (s *Sandbox) Call(ctx context.Context, method string, params any) (json.RawMessage, error) {
	return s.conn.do(ctx, request{method: method, params: params})
}
