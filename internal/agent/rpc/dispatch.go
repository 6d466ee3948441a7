package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/link"
)

// readAll handles messages until the stream ends.
func (c *Conn) readAll() error {
	r := reader{frames: link.NewFrameReader(c.stream), limit: c.limits.MaxMessage}
	for {
		text, buf, err := r.next()
		if err != nil {
			return fmt.Errorf("read message: %w", err)
		}
		if !c.handle(text, buf) {
			return io.EOF
		}
	}
}

// handle takes one message and its buffer. False means that the connection
// has ended meanwhile.
func (c *Conn) handle(text []byte, buf *inBuffer) bool {
	m, bad := parseMessage(text)
	switch {
	case bad != nil:
		return c.answer(m, func(ctx context.Context) (any, error) { return nil, bad })
	case m.id == nil:
		c.notified(m, buf)
		return true
	case m.method == "abort":
		if id, ok := m.params.id("abortId"); ok {
			c.aborts.abort(id)
			return c.answer(m, func(context.Context) (any, error) { return Null{}, nil })
		}
	}
	run := c.reg.lookup(m.method)
	if m.method == "abort" {
		run = badAbort
	}
	return c.answer(m, func(ctx context.Context) (any, error) {
		if run == nil {
			return nil, methodNotFound
		}
		return run(ctx, c, m.params)
	})
}

func badAbort(_ context.Context, _ *Conn, p params) (any, error) {
	return nil, invalidParams([]api.ValidationIssue{issue("number", received(p.get("abortId")), []string{"abortId"})})
}

// answer runs a call and sends its result. Everything that writes does so
// outside of the reader, which must never wait for a slow client.
func (c *Conn) answer(m message, run func(context.Context) (any, error)) bool {
	if !c.calls.take(m.size) {
		return false
	}
	c.spawn(func() {
		defer c.calls.give(m.size)
		call := &callState{}
		ctx := context.WithValue(c.ctx, callKey{}, call)
		result, err := c.guard(m.method, func() (any, error) { return run(ctx) })
		if err != nil && call.aborted.Load() {
			err = aborted()
		}
		if c.ctx.Err() == nil {
			c.respond(rawOrNull(m.id), result, err)
		}
	})
	return true
}

// guard turns a panic into an error, so that one method's bug ends one call.
func (c *Conn) guard(method string, run func() (any, error)) (result any, err error) {
	defer func() {
		if p := recover(); p != nil {
			c.log.Error("method panics", "method", method, "panic", p, "stack", string(debug.Stack()))
			err = &api.RPCError{Code: api.RPCInternalError, Message: "Internal error"}
		}
	}()
	return run()
}

// respond sends a result or an error.
func (c *Conn) respond(id []byte, result any, err error) {
	if data, ok := result.(api.Bytes); ok && err == nil && len(data) > link.MaxFrame {
		c.respondBytes(id, data)
		return
	}
	o := newOutBuffer()
	defer o.free()
	if err == nil {
		o.b, err = appendResult(o.b, id, result)
		if err == nil && o.size() > c.maxOut {
			err = c.tooLarge(o.size())
		}
	}
	if err != nil {
		o.b = appendFailure(o.b[:frameHeader], id, err)
		if o.size() > c.maxOut {
			o.b = appendFailure(o.b[:frameHeader], id, c.tooLarge(o.size()))
		}
	}
	_ = c.send(o)
}

func appendFailure(dst, id []byte, err error) []byte {
	var out []byte
	var broken error
	if e, ok := errors.AsType[*api.RPCError](err); ok {
		out, broken = appendRPCError(dst, id, e)
	} else {
		out, broken = appendRemoteError(dst, id, FromOS("", err))
	}
	if broken != nil {
		out, _ = appendRPCError(dst, id, &api.RPCError{Code: api.RPCInternalError, Message: "Internal error"})
	}
	return out
}

func (c *Conn) respondBytes(id []byte, data []byte) {
	if size := enqueueOverhead + len(id) + (len(data)+2)/3*4; size > c.maxOut {
		c.respond(id, nil, c.tooLarge(size))
		return
	}
	_ = c.exclusively(func(w io.Writer) error { return writeBytesResult(w, id, data) })
}

func (c *Conn) tooLarge(size int) error {
	return NewError("RangeError", "ERR_MESSAGE_TOO_LARGE",
		"the answer takes %d bytes and this client's limit is %d: read it in parts, with open() and read() or as a stream", size, c.maxOut)
}

// notified handles a notification. It owns buf.
func (c *Conn) notified(m message, buf *inBuffer) {
	id, ok := m.params.id("streamId")
	if !ok {
		buf.free()
		return
	}
	if m.method == api.NotifyStreamEnqueue {
		c.enqueued(id, m.params.get("data"), buf)
		return
	}
	switch m.method {
	case api.NotifyStreamStart:
		c.started(id)
	case api.NotifyStreamEnd:
		c.inStreamEnded(id, io.EOF)
	case api.NotifyStreamError:
		c.inStreamEnded(id, clientError(m.params.get("error")))
	case api.NotifyStreamCancel:
		c.cancelled(id)
	}
	buf.free()
}

func (c *Conn) enqueued(id int64, raw []byte, buf *inBuffer) {
	c.mu.Lock()
	s := c.in[id]
	c.mu.Unlock()
	if s == nil {
		buf.free()
		return
	}
	data, err := decodeBytes(raw)
	if err != nil {
		buf.free()
		s.end(NewError("TypeError", "", "stream data must be a base64 string"))
		return
	}
	s.put(data, buf)
}

// started makes room for a stream that nobody has asked for yet.
func (c *Conn) started(id int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.in[id]; s != nil && !s.dropped() {
		return
	}
	s := newInStream(c, id)
	if len(c.in) >= c.limits.Streams {
		c.forgetDropped()
	}
	if len(c.in) >= c.limits.Streams {
		reason := NewError("RangeError", "EMFILE", "a connection can have at most %d streams open", c.limits.Streams)
		c.spawn(func() { s.tell(reason) })
		return
	}
	c.in[id] = s
}

// forgetDropped removes streams that nobody reads any more and whose clients
// never ended them. The lock is held.
func (c *Conn) forgetDropped() {
	for id, s := range c.in {
		if s.dropped() {
			delete(c.in, id)
		}
	}
}

func (c *Conn) inStreamEnded(id int64, err error) {
	c.mu.Lock()
	s := c.in[id]
	c.mu.Unlock()
	if s == nil {
		return
	}
	s.end(err)
	if s.dropped() {
		c.forgetIn(s)
	}
}

func (c *Conn) cancelled(id int64) {
	c.mu.Lock()
	s := c.out[id]
	c.mu.Unlock()
	if s != nil {
		s.onCancel()
	}
}
