package clienttest

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"sync"

	"github.com/coder/websocket"

	"github.com/atollhq/atoll/api"
)

// Conn is one connection of a client.
type Conn struct {
	server  *Server
	sandbox *sandbox
	ws      *websocket.Conn
	work    sync.WaitGroup
	write   sync.Mutex

	mu        sync.Mutex // guards the rest
	ctx       context.Context
	next      int64
	inbound   map[int64]*pipe
	cancelled map[int64]context.CancelFunc // outbound streams
	aborts    map[int64]context.CancelFunc
	procs     map[int]*proc
	files     map[int64]io.Closer
}

// pipe is an unbounded in-memory pipe: a fake need not push back.
type pipe struct {
	r *io.PipeReader
	w *io.PipeWriter
	q chan []byte
}

func newConn(s *Server, sb *sandbox, ws *websocket.Conn) *Conn {
	return &Conn{
		server: s, sandbox: sb, ws: ws,
		inbound:   map[int64]*pipe{},
		cancelled: map[int64]context.CancelFunc{},
		aborts:    map[int64]context.CancelFunc{},
		procs:     map[int]*proc{},
		files:     map[int64]io.Closer{},
	}
}

// run reads until the connection ends, then ends what it started.
func (c *Conn) run(parent context.Context) {
	ctx, cancel := context.WithCancel(parent)
	c.ctx = ctx
	for {
		_, msg, err := c.ws.Read(ctx)
		if err != nil {
			break
		}
		if string(msg) == api.PingText {
			c.send([]byte(api.PongText))
			continue
		}
		c.server.wake(c.sandbox)
		c.dispatch(ctx, msg)
	}
	cancel()
	c.mu.Lock()
	for _, p := range c.inbound {
		p.w.CloseWithError(io.ErrUnexpectedEOF)
	}
	for _, f := range c.files {
		f.Close()
	}
	c.mu.Unlock()
	c.work.Wait()
	_ = c.ws.CloseNow()
}

func (c *Conn) send(msg []byte) {
	c.write.Lock()
	defer c.write.Unlock()
	_ = c.ws.Write(c.ctx, websocket.MessageText, msg)
}

// Notify sends a notification.
func (c *Conn) Notify(method string, params any) {
	encoded, _ := json.Marshal(params)
	msg, _ := json.Marshal(api.Request{JSONRPC: "2.0", Method: method, Params: encoded})
	c.send(msg)
}

// Send sends raw text.
func (c *Conn) Send(text string) { c.send([]byte(text)) }

func (c *Conn) dispatch(ctx context.Context, msg []byte) {
	var req api.Request
	if json.Unmarshal(msg, &req) != nil {
		_ = c.ws.Close(4000, "invalid JSON")
		return
	}
	if req.ID == nil {
		c.notification(req)
		return
	}
	c.server.mu.Lock()
	method := c.server.methods[req.Method]
	c.server.mu.Unlock()
	if method == nil {
		method = builtin[req.Method]
	}
	c.work.Go(func() { c.answer(ctx, req, method) })
}

func (c *Conn) answer(ctx context.Context, req api.Request, method Method) {
	resp := api.Response{JSONRPC: "2.0", ID: req.ID}
	if method == nil {
		resp.Error = &api.RPCError{Code: api.RPCMethodNotFound, Message: "Method not found"}
		c.reply(resp)
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var abort struct {
		AbortID *int64 `json:"abortId"`
	}
	if json.Unmarshal(req.Params, &abort) == nil && abort.AbortID != nil && req.Method != "abort" {
		c.mu.Lock()
		c.aborts[*abort.AbortID] = cancel
		c.mu.Unlock()
	}
	value, err := method(ctx, c, req.Params)
	if remote, ok := errors.AsType[*api.RemoteError](err); ok {
		resp.Result, _ = json.Marshal(api.Result{Error: remote})
	} else if err != nil {
		resp.Error = &api.RPCError{Code: api.RPCInvalidParams, Message: err.Error()}
	} else {
		ok, _ := json.Marshal(value)
		resp.Result = append(append([]byte(`{"ok":`), ok...), '}')
	}
	c.reply(resp)
}

// reply does not run large results through the encoder a second time.
func (c *Conn) reply(resp api.Response) {
	if resp.Error != nil {
		out, _ := json.Marshal(resp)
		c.send(out)
		return
	}
	out := append([]byte(`{"jsonrpc":"2.0","id":`), resp.ID...)
	out = append(append(out, `,"result":`...), resp.Result...)
	c.send(append(out, '}'))
}

func (c *Conn) notification(req api.Request) {
	var p api.StreamParams
	if json.Unmarshal(req.Params, &p) != nil {
		return
	}
	switch req.Method {
	case api.NotifyStreamStart:
		c.Inbound(p.StreamID)
	case api.NotifyStreamEnqueue:
		c.Inbound(p.StreamID).q <- p.Data
	case api.NotifyStreamEnd, api.NotifyStreamError:
		close(c.Inbound(p.StreamID).q)
	case api.NotifyStreamCancel:
		c.mu.Lock()
		defer c.mu.Unlock()
		if cancel := c.cancelled[p.StreamID]; cancel != nil {
			cancel()
		}
	}
}

// Inbound returns the client's stream of that number.
func (c *Conn) Inbound(id int64) *pipe {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.inbound[id]
	if p == nil {
		p = &pipe{q: make(chan []byte, 1<<16)}
		p.r, p.w = io.Pipe()
		c.inbound[id] = p
		c.work.Go(func() { p.feed(c.ctx) })
	}
	return p
}

// Read reads the stream's data.
func (p *pipe) Read(b []byte) (int, error) { return p.r.Read(b) }

func (p *pipe) feed(ctx context.Context) {
	for {
		select {
		case data, more := <-p.q:
			if !more {
				p.w.Close()
				return
			}
			if _, err := p.w.Write(data); err != nil {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// Outbound starts a stream to the client and returns its number. send runs in
// a goroutine of its own with a function that sends one message and reports
// false once the client cancelled.
func (c *Conn) Outbound(send func(emit func([]byte) bool)) int64 {
	ctx, cancel := context.WithCancel(c.ctx)
	c.mu.Lock()
	id := c.next
	c.next++
	c.cancelled[id] = cancel
	c.mu.Unlock()
	c.work.Go(func() {
		defer cancel()
		c.Notify(api.NotifyStreamStart, api.StreamParams{StreamID: id})
		send(func(data []byte) bool {
			if ctx.Err() != nil {
				return false
			}
			c.Notify(api.NotifyStreamEnqueue, api.StreamParams{StreamID: id, Data: data})
			return true
		})
		if ctx.Err() == nil {
			c.Notify(api.NotifyStreamEnd, api.StreamParams{StreamID: id})
		}
	})
	return id
}
