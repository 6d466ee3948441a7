package relay

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/link"
)

const (
	frameHead   = 4        // bytes before a frame's data
	smallBuffer = 16 << 10 // enough for nearly every message; each connection has two
	calmAfter   = 64       // small messages after which a large buffer is given back
	slowWrite   = time.Second
)

var (
	pong          = []byte(api.PongText)
	errBinary     = fmt.Errorf("%w: it sent a binary message", ErrClientFault)
	errAgentFault = errors.New("the agent sent a malformed message")
)

// large holds buffers for messages that don't fit a connection's own.
var large = sync.Pool{New: func() any { b := make([]byte, frameHead+link.MaxFrame); return &b }}

// background is the context of all reads and writes: a context that can end
// would cost a timer per frame, and its end would cut the connection without
// a close frame.
var background = context.Background()

// fromClient carries messages to the agent until the client leaves.
func (c *Conn) fromClient(ctx context.Context) error {
	small := make([]byte, frameHead+smallBuffer)
	for {
		kind, message, err := c.ws.Reader(background)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrClientLeft, err)
		}
		c.alive()
		if kind != websocket.MessageText {
			return errBinary
		}
		if err := c.forward(ctx, message, small); err != nil {
			return err
		}
	}
}

// forward carries one message to the agent.
func (c *Conn) forward(ctx context.Context, message io.Reader, small []byte) error {
	n, end, err := c.fill(message, small[frameHead:])
	if err != nil {
		return err
	}
	head := small[frameHead : frameHead+n]
	if end && string(head) == api.PingText {
		select {
		case c.pongs <- struct{}{}:
		default: // one is due already
		}
		return nil
	}
	method := Method(head)
	if err := c.send(ctx, small, n, end); err != nil {
		return err
	}
	total := int64(n)
	if !end {
		rest, err := c.forwardRest(ctx, message)
		if err != nil {
			return err
		}
		total += rest
	}
	c.Meter.Received(total, method)
	return nil
}

// forwardRest carries what is left of a large message.
func (c *Conn) forwardRest(ctx context.Context, message io.Reader) (total int64, err error) {
	buf := large.Get().(*[]byte)
	defer large.Put(buf)
	for end := false; !end; {
		var n int
		if n, end, err = c.fill(message, (*buf)[frameHead:]); err != nil {
			return total, err
		}
		if err := c.send(ctx, *buf, n, end); err != nil {
			return total, err
		}
		total += int64(n)
	}
	return total, nil
}

// fill reads until buf is full or the message ends.
func (c *Conn) fill(message io.Reader, buf []byte) (n int, end bool, err error) {
	for n < len(buf) {
		m, err := message.Read(buf[n:])
		n += m
		switch {
		case errors.Is(err, io.EOF):
			return n, true, nil
		case errors.Is(err, websocket.ErrMessageTooBig):
			return n, false, fmt.Errorf("%w: %w", ErrClientFault, err)
		case err != nil:
			return n, false, fmt.Errorf("%w: %w", ErrClientLeft, err)
		}
		c.alive()
	}
	return n, false, nil
}

// send writes the n bytes that stand behind the head of buf as one frame.
func (c *Conn) send(ctx context.Context, buf []byte, n int, end bool) error {
	frame := link.AppendFrame(buf[:0], buf[frameHead:frameHead+n], !end)
	c.blocked.Store(true)
	err := c.write(ctx, frame)
	c.blocked.Store(false)
	c.alive() // however long that took, it was not the client's silence
	return err
}

func (c *Conn) write(ctx context.Context, frame []byte) error {
	if err := c.Guard.Enter(ctx); err != nil {
		return fmt.Errorf("%w: %w", ErrNotReady, err)
	}
	defer c.Guard.Leave()
	if _, err := c.stream.Write(frame); err != nil {
		return fmt.Errorf("%w: %w", ErrAgentLeft, err)
	}
	return nil
}

// fromAgent carries messages to the client until the agent's stream ends.
func (c *Conn) fromAgent() error {
	frames := link.NewFrameReader(bufio.NewReaderSize(c.stream, smallBuffer))
	buf := make([]byte, smallBuffer)
	for calm := 0; ; calm++ {
		chunk, more, err := frames.Next(buf)
		if err != nil {
			return agentError(err)
		}
		if cap(chunk) > smallBuffer && len(chunk) > smallBuffer {
			buf, calm = chunk, 0
		} else if cap(buf) > smallBuffer && calm > calmAfter {
			buf = make([]byte, smallBuffer) // chunk keeps the old one until it is written
		}
		if more {
			buf, err = c.relayLarge(frames, chunk)
			calm = 0
		} else {
			err = c.relaySmall(chunk)
		}
		if err != nil {
			return err
		}
	}
}

// relaySmall carries a message of one frame.
func (c *Conn) relaySmall(chunk []byte) error {
	if int64(len(chunk)) > c.MaxSend {
		return errAgentFault
	}
	err := c.timed(func() error { return c.ws.Write(background, websocket.MessageText, chunk) })
	c.Meter.Sent(int64(len(chunk)))
	return err
}

// relayLarge carries a message of several frames, of which the first is given,
// and returns the buffer for the next.
func (c *Conn) relayLarge(frames *link.FrameReader, chunk []byte) ([]byte, error) {
	w, err := c.ws.Writer(background, websocket.MessageText)
	if err != nil {
		return chunk, fmt.Errorf("%w: %w", ErrClientLeft, err)
	}
	var total int64
	for more := true; ; {
		if total += int64(len(chunk)); total > c.MaxSend {
			return chunk, errAgentFault
		}
		if err := c.timed(func() error { _, err := w.Write(chunk); return err }); err != nil {
			return chunk, err
		}
		if !more {
			break
		}
		if chunk, more, err = frames.Next(chunk[:0]); err != nil {
			return chunk, agentError(err)
		}
	}
	err = c.timed(w.Close)
	c.Meter.Sent(total)
	return chunk[:0], err
}

// timed runs one write to the client. One that took long shows, by its end,
// that the client lives.
func (c *Conn) timed(write func() error) error {
	c.sending.Store(true)
	began := time.Now()
	err := write()
	c.sending.Store(false)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrClientLeft, err)
	}
	c.Guard.Sent()
	if time.Since(began) > slowWrite {
		c.alive()
	}
	return nil
}

// agentError tells the end of the stream from nonsense on it.
func agentError(err error) error {
	if errors.Is(err, link.ErrFrameTooLarge) {
		return errAgentFault
	}
	return fmt.Errorf("%w: %w", ErrAgentLeft, err)
}

func isPythonWebsockets(userAgent string) bool { return strings.Contains(userAgent, "websockets/") }
