package rpc

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/link"
)

// endPatience is how long a connection's end waits for its calls.
const endPatience = 5 * time.Second

// Conn is one client connection. Its methods may be called concurrently, and
// after its end too.
type Conn struct {
	stream net.Conn
	reg    *Registry
	log    *slog.Logger
	limits Limits
	maxOut int // bytes in one message to the client
	chunk  int // bytes of stream data in one message to the client

	ctx    context.Context
	cancel context.CancelFunc

	writing sync.Mutex // held while one message is written to stream
	calls   *budget
	tasks   sync.WaitGroup // calls and answers
	memory  atomic.Int64   // bytes of stream data in memory
	aborts  aborts

	mu      sync.Mutex // guards what follows
	ended   bool
	values  map[any]any
	closers []func()
	in      map[int64]*InStream
	out     map[int64]*OutStream
	nextOut int64
}

// Serve runs one client connection until its stream ends or ctx does. It then
// cancels the calls, ends the streams and runs the OnClose functions. Its
// error says why, nil is an orderly end.
func Serve(ctx context.Context, stream net.Conn, header link.RPCHeader, reg *Registry, log *slog.Logger, limits Limits) error {
	c := newConn(ctx, stream, header, reg, log, limits.withDefaults())
	stopClosing := context.AfterFunc(c.ctx, func() { _ = stream.Close() })
	defer stopClosing()
	defer c.calls.closeWhen(c.ctx)()
	err := c.readAll()
	c.shutdown()
	if ctx.Err() != nil || errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func newConn(ctx context.Context, stream net.Conn, header link.RPCHeader, reg *Registry, log *slog.Logger, limits Limits) *Conn {
	c := &Conn{
		stream: stream, reg: reg, log: log, limits: limits,
		maxOut:  header.MaxMessage,
		calls:   newBudget(limits.Calls, limits.CallBytes),
		values:  map[any]any{},
		in:      map[int64]*InStream{},
		out:     map[int64]*OutStream{},
		nextOut: firstStream(),
	}
	if c.maxOut <= 0 {
		c.maxOut = api.MaxServerMessage
	}
	c.chunk = max(min(api.StreamChunk, (c.maxOut-enqueueOverhead)/4*3), 1)
	c.ctx, c.cancel = context.WithCancel(ctx)
	return c
}

// firstStream draws the number of a connection's first stream, below 2^53. The
// JavaScript SDK keeps the streams of all its connections in one table, so
// numbers must not repeat among sandboxes. The kernel is asked: a generator in
// this process would go on alike in all machines that continue from one, a
// template's among them.
func firstStream() int64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	const bits, apart = 33, 20
	return int64(binary.BigEndian.Uint64(b[:])>>(64-bits)) << apart
}

// Context ends with the connection.
func (c *Conn) Context() context.Context { return c.ctx }

// MaxMessage is how many bytes one message to the client may have.
func (c *Conn) MaxMessage() int { return c.maxOut }

// Done is closed when the connection has ended.
func (c *Conn) Done() <-chan struct{} { return c.ctx.Done() }

// OnClose registers a function to run at the connection's end, the last one
// first; at once if that has passed.
func (c *Conn) OnClose(fn func()) {
	c.mu.Lock()
	if !c.ended {
		c.closers = append(c.closers, fn)
		c.mu.Unlock()
		return
	}
	c.mu.Unlock()
	fn()
}

// Value returns the connection's state under a key, which make creates when
// it is first asked for. The key should be of a type private to a package.
func (c *Conn) Value(key any, make func() any) any {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, ok := c.values[key]
	if !ok {
		v = make()
		c.values[key] = v
	}
	return v
}

// Notify sends a notification. It blocks while the client is slow.
func (c *Conn) Notify(method string, params any) error {
	o := newOutBuffer()
	defer o.free()
	var err error
	if o.b, err = appendNotification(o.b, method, params); err != nil {
		return err
	}
	if o.size() > c.maxOut {
		return fmt.Errorf("notification of %d bytes is over the client's limit of %d", o.size(), c.maxOut)
	}
	return c.send(o)
}

// OpenStream opens a stream to the client and announces it at once.
func (c *Conn) OpenStream() *OutStream {
	s := &OutStream{c: c, cancel: make(chan struct{})}
	c.mu.Lock()
	s.id = c.nextOut
	c.nextOut++
	c.out[s.id] = s
	c.mu.Unlock()
	o := newOutBuffer()
	defer o.free()
	o.b = append(appendStream(o.b, api.NotifyStreamStart, s.id), "}}"...)
	_ = c.send(o) // an error ends the connection, which the first Write will see
	return s
}

// InStream returns the stream that the client gave this number, whether it
// has begun or not. A stream has one reader: a second one gets an error.
func (c *Conn) InStream(id int64) *InStream {
	c.mu.Lock()
	s, ok := c.in[id]
	if !ok {
		s = newInStream(c, id)
		if c.ended {
			s.err = ErrConnClosed
		} else {
			c.in[id] = s
		}
	}
	c.mu.Unlock()
	if s.claim() {
		return s
	}
	taken := newInStream(c, id)
	taken.err = NewError("TypeError", "", "stream %d is in use already", id)
	return taken
}

// send writes one message. An error ends the connection: half a message
// cannot be taken back.
func (c *Conn) send(o *outBuffer) error {
	return c.exclusively(func(w io.Writer) error { return o.writeTo(w) })
}

func (c *Conn) exclusively(write func(io.Writer) error) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	if c.ctx.Err() != nil {
		return ErrConnClosed
	}
	if err := write(c.stream); err != nil {
		c.cancel()
		return ErrConnClosed
	}
	return nil
}

// spawn runs fn in a goroutine that the connection's end waits for.
func (c *Conn) spawn(fn func()) { c.tasks.Go(fn) }

func (c *Conn) forgetOut(id int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.out, id)
}

func (c *Conn) forgetIn(s *InStream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.in[s.id] == s {
		delete(c.in, s.id)
	}
}

// shutdown ends everything that belongs to the connection.
func (c *Conn) shutdown() {
	c.cancel()
	_ = c.stream.Close()
	c.mu.Lock()
	c.ended = true
	closers := slices.Clone(c.closers)
	streams := make([]*InStream, 0, len(c.in))
	for _, s := range c.in {
		streams = append(streams, s)
	}
	clear(c.in)
	clear(c.out)
	c.mu.Unlock()
	for _, s := range streams {
		s.disconnect()
	}
	c.waitForCalls()
	for _, fn := range slices.Backward(closers) {
		fn()
	}
}

// waitForCalls gives calls that don't look at their context a while.
func (c *Conn) waitForCalls() {
	done := make(chan struct{})
	go func() { c.tasks.Wait(); close(done) }()
	timer := time.NewTimer(endPatience)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		c.log.Warn("calls outlive their connection")
	}
}
