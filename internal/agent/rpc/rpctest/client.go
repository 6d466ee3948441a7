// Package rpctest is the client's end of a connection that package rpc
// serves, for the tests of the packages that register methods.
//
// A Client numbers calls and streams, collects what arrives on streams and
// ends the connection when its test does. Its methods may be called
// concurrently.
package rpctest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/agent/rpc"
	"github.com/atollhq/atoll/internal/link"
)

// Patience is how long every wait lasts before the test fails.
const Patience = time.Minute

// Client is one connection.
type Client struct {
	t    testing.TB
	conn net.Conn

	writing sync.Mutex
	served  chan struct{} // closed when the server's end has returned
	read    chan struct{} // closed when nothing more is read

	mu      sync.Mutex
	nextID  int64
	pending map[int64]chan api.Response
	streams map[int64]*Stream
	notes   []api.Request // other notifications
}

// Dial serves reg on an in-memory connection and returns its client.
func Dial(t testing.TB, reg *rpc.Registry) *Client {
	near, far := net.Pipe()
	c := newClient(t, near)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(c.served)
		_ = rpc.Serve(ctx, far, link.RPCHeader{}, reg, slog.New(slog.DiscardHandler), rpc.Limits{SpillDir: t.TempDir()})
	}()
	t.Cleanup(func() { c.Close(); cancel() })
	return c
}

// On returns the client of a connection that is served elsewhere.
func On(t testing.TB, conn net.Conn) *Client {
	c := newClient(t, conn)
	close(c.served)
	t.Cleanup(c.Close)
	return c
}

func newClient(t testing.TB, conn net.Conn) *Client {
	c := &Client{
		t: t, conn: conn,
		served:  make(chan struct{}),
		read:    make(chan struct{}),
		pending: map[int64]chan api.Response{},
		streams: map[int64]*Stream{},
	}
	go c.readAll()
	return c
}

// Close ends the connection and waits for the server's end.
func (c *Client) Close() {
	_ = c.conn.Close()
	for _, done := range []chan struct{}{c.served, c.read} {
		select {
		case <-done:
		case <-time.After(Patience):
			c.t.Error("the connection does not end")
		}
	}
}

// Go starts a call and returns a function that waits for its answer.
func (c *Client) Go(method string, params any) (wait func(result any) error) {
	c.t.Helper()
	answer := make(chan api.Response, 1)
	c.mu.Lock()
	c.nextID++
	id := c.nextID
	c.pending[id] = answer
	c.mu.Unlock()
	c.send(map[string]any{"jsonrpc": "2.0", "id": id, "method": method, "params": params})
	return func(result any) error {
		select {
		case r, ok := <-answer:
			if !ok {
				return io.ErrUnexpectedEOF
			}
			return decode(r, result)
		case <-time.After(Patience):
			return fmt.Errorf("no answer to %s", method)
		}
	}
}

// Call makes a call and decodes its result, unless that is nil. Its error is
// an *api.RemoteError or *api.RPCError when the server answered one.
func (c *Client) Call(method string, params, result any) error {
	c.t.Helper()
	return c.Go(method, params)(result)
}

func decode(r api.Response, result any) error {
	if r.Error != nil {
		return r.Error
	}
	var answer api.Result
	if err := json.Unmarshal(r.Result, &answer); err != nil {
		return fmt.Errorf("decode answer: %w", err)
	}
	if answer.Error != nil {
		return answer.Error
	}
	if result == nil {
		return nil
	}
	return json.Unmarshal(answer.OK, result)
}

// Notify sends a notification.
func (c *Client) Notify(method string, params any) {
	c.t.Helper()
	c.send(map[string]any{"jsonrpc": "2.0", "method": method, "params": params})
}

// Send sends a stream's data to the server, in one message.
func (c *Client) Send(stream int64, data []byte) {
	c.t.Helper()
	c.Notify(api.NotifyStreamEnqueue, map[string]any{"streamId": stream, "data": api.Bytes(data)})
}

// Start and End frame a stream to the server.
func (c *Client) Start(stream int64) {
	c.Notify(api.NotifyStreamStart, api.StreamResult{StreamID: stream})
}

// End ends a stream to the server.
func (c *Client) End(stream int64) { c.Notify(api.NotifyStreamEnd, api.StreamResult{StreamID: stream}) }

// Cancel tells the server that a stream's data isn't wanted.
func (c *Client) Cancel(stream int64) {
	c.Notify(api.NotifyStreamCancel, map[string]any{"streamId": stream, "reason": nil})
}

func (c *Client) send(v any) {
	c.t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		c.t.Fatalf("encode: %v", err)
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := link.WriteMessage(c.conn, b); err != nil {
		c.t.Logf("send: %v", err)
	}
}

// Stream returns what the server sends on a stream, or how it was cancelled.
func (c *Client) Stream(id int64) *Stream {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[id]
	if s == nil {
		s = &Stream{ended: make(chan struct{}), cancelled: make(chan struct{})}
		s.changed.L = &s.mu
		c.streams[id] = s
	}
	return s
}

// Notifications returns those that are not about streams.
func (c *Client) Notifications() []api.Request {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]api.Request(nil), c.notes...)
}

func (c *Client) readAll() {
	defer close(c.read)
	frames := link.NewFrameReader(c.conn)
	for {
		b, err := frames.ReadMessage(1 << 30)
		if err != nil {
			c.disconnected()
			return
		}
		var m struct {
			api.Request
			Result json.RawMessage `json:"result"`
			Error  *api.RPCError   `json:"error"`
		}
		if err := json.Unmarshal(b, &m); err != nil {
			c.t.Errorf("the server sent %.200q: %v", b, err)
			continue
		}
		if m.Method != "" {
			c.notified(m.Request)
			continue
		}
		c.answered(api.Response{ID: m.ID, Result: m.Result, Error: m.Error})
	}
}

func (c *Client) answered(r api.Response) {
	var id int64
	_ = json.Unmarshal(r.ID, &id)
	c.mu.Lock()
	defer c.mu.Unlock()
	if answer := c.pending[id]; answer != nil {
		delete(c.pending, id)
		answer <- r
	}
}

func (c *Client) disconnected() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, answer := range c.pending {
		delete(c.pending, id)
		close(answer)
	}
	for _, s := range c.streams {
		s.end(io.ErrUnexpectedEOF)
	}
}

func (c *Client) notified(r api.Request) {
	var p api.StreamParams
	_ = json.Unmarshal(r.Params, &p)
	switch r.Method {
	case api.NotifyStreamStart:
		c.Stream(p.StreamID)
	case api.NotifyStreamEnqueue:
		c.Stream(p.StreamID).put(p.Data)
	case api.NotifyStreamEnd:
		c.Stream(p.StreamID).end(nil)
	case api.NotifyStreamError:
		c.Stream(p.StreamID).end(p.Error)
	case api.NotifyStreamCancel:
		c.Stream(p.StreamID).cancel()
	default:
		c.mu.Lock()
		c.notes = append(c.notes, r)
		c.mu.Unlock()
	}
}

// Stream is one stream from the server.
type Stream struct {
	mu        sync.Mutex
	changed   sync.Cond
	messages  [][]byte
	err       error
	ended     chan struct{}
	cancelled chan struct{}
	over      sync.Once
	stopped   sync.Once
}

func (s *Stream) put(data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.messages = append(s.messages, data)
	s.changed.Broadcast()
}

func (s *Stream) end(err error) {
	s.over.Do(func() {
		s.mu.Lock()
		s.err = err
		s.mu.Unlock()
		close(s.ended)
	})
}

func (s *Stream) cancel() { s.stopped.Do(func() { close(s.cancelled) }) }

// Cancelled is closed when the server cancels a stream that it reads.
func (s *Stream) Cancelled() <-chan struct{} { return s.cancelled }

// First waits for the stream's first message.
func (s *Stream) First() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.messages) == 0 {
		s.changed.Wait()
	}
	return s.messages[0]
}

// Messages waits for the stream's end and returns its messages.
func (s *Stream) Messages() ([][]byte, error) {
	select {
	case <-s.ended:
	case <-time.After(Patience):
		return nil, errors.New("the stream does not end")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.messages, s.err
}

// All waits for the stream's end and returns its content.
func (s *Stream) All() ([]byte, error) {
	messages, err := s.Messages()
	var all []byte
	for _, m := range messages {
		all = append(all, m...)
	}
	return all, err
}

// Count is how many messages have come so far.
func (s *Stream) Count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.messages)
}
