package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/atollhq/atoll/api"
)

const (
	// pingInterval matches the official SDKs.
	pingInterval = 2 * time.Second
	// readLimit leaves room for the envelope around the largest message.
	readLimit = api.MaxServerMessage + 1<<20
	// keepBuffer is the largest read buffer kept between messages.
	keepBuffer = 1 << 20
	// noticeTimeout bounds the sending of notifications that nobody waits for.
	noticeTimeout = 5 * time.Second
)

// conn is one JSON-RPC connection. Its read loop hands responses to waiting
// calls and data to streams; its write loop sends what send gives it.
type conn struct {
	ws     *websocket.Conn
	ctx    context.Context // ends with the connection; never a caller's
	cancel context.CancelFunc
	writes chan outgoing  // to the write loop, unbuffered
	done   chan struct{}  // closed by shut
	loops  sync.WaitGroup // read and write loop

	mu       sync.Mutex // guards the rest
	closeErr *CloseError
	leaving  bool // close was called
	nextID   int64
	pending  map[int64]chan reply
	dropped  map[int64]func(json.RawMessage) // calls given up: what to undo when they answer
	inbound  map[int64]*inStream
	outbound map[int64]*outStream
	watchers map[string]chan struct{}
}

// outgoing is one message for the write loop, which answers on sent.
type outgoing struct {
	data []byte
	sent chan error // buffered
}

// reply is what a call waits for: a result or a failure.
type reply struct {
	result json.RawMessage
	err    error
}

func newConn(ws *websocket.Conn) *conn {
	ws.SetReadLimit(readLimit)
	ctx, cancel := context.WithCancel(context.Background())
	c := &conn{
		ws: ws, ctx: ctx, cancel: cancel,
		writes:   make(chan outgoing),
		done:     make(chan struct{}),
		pending:  map[int64]chan reply{},
		dropped:  map[int64]func(json.RawMessage){},
		inbound:  map[int64]*inStream{},
		outbound: map[int64]*outStream{},
		watchers: map[string]chan struct{}{},
	}
	c.loops.Go(func() { c.shut(c.readLoop()) })
	c.loops.Go(func() {
		if err := c.writeLoop(); err != nil {
			c.shut(err)
		}
	})
	return c
}

// shut ends the connection once: everything that waits gets the reason.
func (c *conn) shut(cause error) {
	c.mu.Lock()
	if c.closeErr != nil {
		c.mu.Unlock()
		return
	}
	c.closeErr = closeErrorOf(cause)
	if c.leaving && (c.closeErr.Reason == "" || c.closeErr.Err != nil) {
		c.closeErr = &CloseError{Code: int(websocket.StatusNormalClosure), Reason: "closed by the client"}
	}
	pending := c.pending
	c.pending, c.dropped, c.watchers = nil, nil, nil
	close(c.done)
	c.mu.Unlock()
	c.cancel()
	for _, waiting := range pending {
		waiting <- reply{err: c.closeErr}
	}
	c.loops.Go(func() { _ = c.ws.CloseNow() }) // unblocks the loops; must not run in one of them
}

// close says goodbye, frees the socket and waits for the loops.
func (c *conn) close() error {
	c.mu.Lock()
	over := c.closeErr != nil
	c.leaving = true
	c.mu.Unlock()
	var err error
	if !over {
		err = c.ws.Close(websocket.StatusNormalClosure, "")
	}
	c.shut(&CloseError{Code: int(websocket.StatusNormalClosure)})
	c.loops.Wait()
	if c.err().Code == int(websocket.StatusNormalClosure) {
		return nil
	}
	return err
}

// err is the reason of the end, or nil.
func (c *conn) err() *CloseError {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closeErr
}

// writeLoop is the only writer of the WebSocket. A caller that gives up
// waiting therefore never cuts a message in two.
func (c *conn) writeLoop() error {
	ping := time.NewTicker(pingInterval)
	defer ping.Stop()
	for {
		select {
		case <-c.done:
			return nil
		case <-ping.C:
			if err := c.ws.Write(c.ctx, websocket.MessageText, []byte(api.PingText)); err != nil {
				return fmt.Errorf("send ping: %w", err)
			}
		case out := <-c.writes:
			err := c.ws.Write(c.ctx, websocket.MessageText, out.data)
			out.sent <- err
			if err != nil {
				return fmt.Errorf("send message: %w", err)
			}
		}
	}
}

// post hands one message to the write loop and waits until it is written, ctx
// ends or the connection does. It reports whether the message may have been
// or may still be sent; after an error data must not be reused.
func (c *conn) post(ctx context.Context, data []byte) (queued bool, err error) {
	out := outgoing{data: data, sent: make(chan error, 1)}
	select {
	case c.writes <- out:
	case <-ctx.Done():
		return false, ctx.Err()
	case <-c.done:
		return false, c.err()
	}
	select {
	case err := <-out.sent:
		return true, err
	case <-ctx.Done():
		return true, ctx.Err()
	case <-c.done:
		return true, c.err()
	}
}

// notify sends a notification.
func (c *conn) notify(ctx context.Context, method string, params any) error {
	msg, err := appendRequest(nil, nil, method, params)
	if err != nil {
		return err
	}
	_, err = c.post(ctx, msg)
	return err
}

// notice sends a notification that nobody waits for, within a short deadline.
func (c *conn) notice(method string, params any) {
	ctx, cancel := context.WithTimeout(c.ctx, noticeTimeout)
	defer cancel()
	_ = c.notify(ctx, method, params)
}

// readLoop dispatches messages until the connection fails.
func (c *conn) readLoop() error {
	var buf []byte
	for {
		kind, r, err := c.ws.Reader(c.ctx)
		if err != nil {
			return err
		}
		if buf, err = readInto(buf[:0], r); err != nil {
			return err
		}
		if kind != websocket.MessageText {
			return &CloseError{Code: int(websocket.StatusUnsupportedData), Reason: "the server sent a binary message"}
		}
		kept, err := c.dispatch(buf)
		if err != nil {
			return err
		}
		if kept || cap(buf) > keepBuffer {
			buf = nil
		}
	}
}

// readInto appends all of r to buf, doubling it as needed.
func readInto(buf []byte, r io.Reader) ([]byte, error) {
	for {
		if len(buf) == cap(buf) {
			grown := make([]byte, len(buf), max(4096, 2*cap(buf)))
			copy(grown, buf)
			buf = grown
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if err == io.EOF {
			return buf, nil
		}
		if err != nil {
			return buf, err
		}
	}
}
