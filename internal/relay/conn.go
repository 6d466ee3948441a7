package relay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/atollhq/atoll/api"
)

// Meter counts what passes. Its methods are called once per message, from two
// goroutines, and must be quick.
type Meter interface {
	// Received counts a message from the client. The method is one of the
	// API's, "other", or empty when the message calls none.
	Received(bytes int64, method string)
	// Sent counts a message to the client.
	Sent(bytes int64)
}

// Guard keeps the agent ready for what is written to it. Enter and Leave are
// called around each write, by one goroutine, Sent by another one.
type Guard interface {
	// Enter waits until the agent can take something. It costs next to nothing
	// when it can already.
	Enter(ctx context.Context) error
	Leave()
	// Sent is called for every piece of a message that went to the client.
	Sent()
}

// Options of a connection. All are needed.
type Options struct {
	MaxReceive int64         // bytes in one message from the client
	MaxSend    int64         // bytes in one message from the agent
	PingEvery  time.Duration // a client that was silent for so long is pinged
	DeadAfter  time.Duration // and after so long it is given up
	Meter      Meter
	Guard      Guard
}

// Defaults of Options.
const (
	DefaultPingEvery = 20 * time.Second
	DefaultDeadAfter = 60 * time.Second
)

// MaxSendFor is the largest message that a client's WebSocket library takes,
// told by its User-Agent: the one of the official Python SDK refuses more than
// a mebibyte.
func MaxSendFor(userAgent string) int64 {
	if isPythonWebsockets(userAgent) {
		return 1 << 20
	}
	return api.MaxServerMessage
}

// Ending is what the client is told when the connection ends.
type Ending struct {
	Code int    // of the close frame
	Text string // at most 123 bytes
}

// Causes of a connection's end, returned by Run.
var (
	ErrClientLeft  = errors.New("the client left")
	ErrClientDead  = errors.New("the client shows no life")
	ErrClientFault = errors.New("the client broke the protocol")
	ErrAgentLeft   = errors.New("the agent ended the stream")
	ErrNotReady    = errors.New("the agent could not be made ready")
	ErrDismissed   = errors.New("the client was told to go")
)

const (
	lostGrace  = 2 * time.Second // for the reason why the agent's stream ended to become known
	pingWait   = 5 * time.Second // for the answer to one ping
	checkEvery = 5 * time.Second // for signs of life
)

// Conn is a connection between a client and an agent.
type Conn struct {
	Options
	ws     *websocket.Conn
	socket *socket // below ws
	stream net.Conn

	pongs   chan struct{} // a "ping" waits for its answer; holds one
	seen    atomic.Int64  // when the client last showed life, nanoseconds since start
	start   time.Time
	blocked atomic.Bool // the agent doesn't take what the client sent: its silence is our doing
	sending atomic.Bool // a message to the client is on its way
}

// Accept upgrades a checked WebSocket request. The stream stays the caller's
// until Run, and when Accept fails.
func Accept(w http.ResponseWriter, r *http.Request, stream net.Conn, o Options) (*Conn, error) {
	c := &Conn{Options: o, stream: stream, pongs: make(chan struct{}, 1), start: time.Now()}
	c.socket = &socket{ResponseWriter: w}
	ws, err := websocket.Accept(c.socket, r, &websocket.AcceptOptions{
		// Requests carry a bearer token, which no browser adds by itself: an
		// origin proves nothing here.
		InsecureSkipVerify: true,
		CompressionMode:    websocket.CompressionDisabled,
		OnPingReceived:     func(context.Context, []byte) bool { c.alive(); return true },
		OnPongReceived:     func(context.Context, []byte) { c.alive() },
	})
	if err != nil {
		return nil, fmt.Errorf("upgrade to WebSocket: %w", err)
	}
	ws.SetReadLimit(o.MaxReceive)
	c.ws = ws
	return c, nil
}

// Run carries messages until one side leaves or ctx ends; in that case
// dismissal says what to tell the client. It closes both sides, waits for
// everything that it started, and returns why it ended.
func (c *Conn) Run(ctx context.Context, dismissal func() Ending) error {
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	client, agent := make(chan error, 1), make(chan error, 1)
	var work sync.WaitGroup
	work.Go(func() { client <- c.fromClient(inner) })
	work.Go(func() { agent <- c.fromAgent() })
	work.Go(func() { c.keep(inner) })

	cause := c.await(ctx, client, agent)
	_ = c.stream.Close()
	cancel()
	c.dismiss(cause, dismissal)
	work.Wait()
	return cause
}

// await returns when the connection has to end, and why.
func (c *Conn) await(ctx context.Context, client, agent <-chan error) error {
	check := time.NewTicker(min(checkEvery, c.DeadAfter))
	defer check.Stop()
	for {
		select {
		case <-ctx.Done():
			return ErrDismissed
		case err := <-client:
			if errors.Is(err, ErrAgentLeft) || errors.Is(err, ErrNotReady) {
				return c.lost(ctx, err)
			}
			return err
		case err := <-agent:
			if errors.Is(err, ErrAgentLeft) {
				return c.lost(ctx, err)
			}
			return err
		case <-check.C:
			if c.blocked.Load() {
				if c.socket.gone() {
					return ErrClientLeft
				}
				c.alive()
			}
			if c.silence() > c.DeadAfter {
				return ErrClientDead
			}
		}
	}
}

// lost waits a moment for ctx to end: when a sandbox dies its streams often
// break before the reason is known.
func (c *Conn) lost(ctx context.Context, err error) error {
	select {
	case <-ctx.Done():
		return ErrDismissed
	case <-time.After(lostGrace):
		return err
	}
}

// dismiss ends the WebSocket in the way that fits the cause. It waits ten
// seconds at most for the client's part.
func (c *Conn) dismiss(cause error, dismissal func() Ending) {
	switch {
	case errors.Is(cause, ErrDismissed):
		e := dismissal()
		_ = c.ws.Close(websocket.StatusCode(e.Code), e.Text)
	case errors.Is(cause, errBinary):
		_ = c.ws.Close(websocket.StatusUnsupportedData, "only text messages are accepted")
	case errors.Is(cause, ErrNotReady):
		_ = c.ws.Close(websocket.StatusInternalError, "the sandbox could not be resumed")
	case errors.Is(cause, ErrAgentLeft):
		_ = c.ws.Close(websocket.StatusInternalError, "connection to the sandbox lost")
	case errors.Is(cause, errAgentFault):
		_ = c.ws.Close(websocket.StatusInternalError, "the sandbox sent a malformed message")
	case errors.Is(cause, websocket.ErrMessageTooBig):
		_ = c.ws.Close(websocket.StatusMessageTooBig, "message too big") // the library said so already
	default:
		_ = c.ws.CloseNow()
	}
}

// keep answers and sends pings. Answers come from here and not from the
// reading goroutine, so that a client which doesn't read can still be heard.
func (c *Conn) keep(ctx context.Context) {
	tick := time.NewTicker(c.PingEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.pongs:
			if c.ws.Write(context.Background(), websocket.MessageText, pong) != nil {
				return
			}
		case <-tick.C:
			c.ping(ctx)
		}
	}
}

// ping asks a silent client for a sign of life. While a message is on its way
// to a slow client it must not: a ping that can't be written closes the
// connection.
func (c *Conn) ping(ctx context.Context) {
	if c.silence() < c.PingEvery || c.sending.Load() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, pingWait)
	defer cancel()
	_ = c.ws.Ping(ctx) // await notices if there is no answer
}

func (c *Conn) alive() { c.seen.Store(int64(time.Since(c.start))) }

func (c *Conn) silence() time.Duration { return time.Since(c.start) - time.Duration(c.seen.Load()) }
