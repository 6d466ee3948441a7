package sandbox

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/errs"
	"github.com/atollhq/atoll/internal/link"
)

// Client is one connection to a sandbox. Its owner must Close it.
type Client struct {
	box     *box
	writing atomic.Bool     // something is on its way to the agent
	ctx     context.Context // ends when the sandbox does; the cause is an *Ending
	cancel  context.CancelCauseFunc
}

// ID is the sandbox's id.
func (c *Client) ID() string { return c.box.row.ID }

// Context ends when the client has to go; Ending says why.
func (c *Client) Context() context.Context { return c.ctx }

// Ending says why the context ended.
func (c *Client) Ending() *Ending {
	if e, ok := context.Cause(c.ctx).(*Ending); ok {
		return e
	}
	return endingRestart
}

// OpenRPC opens the stream for this client's messages.
func (c *Client) OpenRPC(ctx context.Context, h link.RPCHeader) (net.Conn, error) {
	if err := c.Enter(ctx); err != nil {
		return nil, err
	}
	defer c.Leave()
	conn, err := c.box.shim.OpenRPC(ctx, h)
	if err != nil {
		return nil, c.box.unreachable(fmt.Errorf("open stream to sandbox: %w", err))
	}
	return conn, nil
}

// Enter is called before anything goes to the agent, by one goroutine at a
// time. It wakes a sandbox that stands still, and keeps one that runs from
// being paused before Leave is called. It costs next to nothing otherwise.
func (c *Client) Enter(ctx context.Context) error {
	for {
		c.box.traffic.Add(1)
		c.writing.Store(true)
		if !c.box.still.Load() {
			return nil
		}
		c.Leave()
		if err := c.box.wake(ctx); err != nil {
			if ctx.Err() == nil {
				c.box.orphan(c)
			}
			return err
		}
	}
}

// Leave is called when it has gone there.
func (c *Client) Leave() {
	c.writing.Store(false)
	if c.box.still.Load() {
		select {
		case c.box.quiet <- struct{}{}:
		default:
		}
	}
}

// Sent is called when something went to the client.
func (c *Client) Sent() { c.box.traffic.Add(1) }

// Close ends the connection, and with the primary client its session. It is
// idempotent and does not wait for the sandbox's end.
func (c *Client) Close() {
	if c.box.leave(c) {
		c.box.request(api.StopSessionClosed)
	}
	c.cancel(nil)
}

// forget ends the connection without the session.
func (c *Client) forget() {
	c.box.leave(c)
	c.cancel(nil)
}

// Ending is why a client is disconnected: what its WebSocket's close frame
// says. It is the cause of the client's context.
type Ending struct {
	Reason string // api.Stop…, or "restart"
	Code   int    // of the close frame (RFC 6455, section 7.4)
	Text   string // at most 123 bytes
}

func (e *Ending) Error() string { return e.Text }

var endingRestart = &Ending{Reason: "restart", Code: 1012, Text: "server restarting"}

// endingSuspended is that of clients, not of a sandbox. The official SDKs
// expect this code when a server ends a connection as planned.
var endingSuspended = &Ending{Reason: api.PowerSuspended, Code: 1001, Text: "sandbox paused"}

var endings = map[string]*Ending{
	api.StopTimeout:       {api.StopTimeout, 1001, "sandbox timeout"},
	api.StopKilled:        {api.StopKilled, 1000, "sandbox killed"},
	api.StopSessionClosed: {api.StopSessionClosed, 1000, "session closed"},
	api.StopShutdown:      {api.StopShutdown, 1001, "server shutting down"},
	api.StopPausedTooLong: {api.StopPausedTooLong, 1001, "sandbox paused too long"},
	api.StopOOM:           {api.StopOOM, 1011, "sandbox out of memory"},
	api.StopCrashed:       {api.StopCrashed, 1011, "sandbox crashed"},
}

func endingFor(reason string) *Ending {
	if e := endings[reason]; e != nil {
		return e
	}
	return endings[api.StopCrashed]
}

func errNotFound(id string) error {
	return errs.New(errs.NotFound, "SANDBOX_NOT_FOUND", "there is no sandbox %s", clip(id))
}

func errStopped(id, reason string) error {
	if reason == endingRestart.Reason {
		return errShuttingDown()
	}
	return errs.New(errs.NotFound, "SANDBOX_STOPPED", "the sandbox %s has stopped (%s)", id, reason)
}
