//go:build e2e

package harness

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"github.com/coder/websocket"

	"github.com/atollhq/atoll/api"
)

// Refusal is the answer of a server that did not open a WebSocket.
type Refusal struct {
	Status  int
	Code    string
	Message string
	TraceID string
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("status %d, %s: %s", r.Status, r.Code, r.Message)
}

// Failure is a call that reached its method and failed there.
type Failure = api.RemoteError

// Conn is a raw connection to a sandbox.
type Conn struct {
	ID      string // of the sandbox
	TraceID string
	WS      *websocket.Conn

	closed chan struct{}
	err    error // why, once closed

	mu      sync.Mutex // guards the fields below
	next    int64
	pending map[string]chan api.Response
	streams map[int64]*Stream
	texts   []string // messages that are not JSON-RPC
}

// Stream collects what the sandbox sends on one stream.
type Stream struct {
	Done chan struct{} // closed at its end
	Data []byte        // complete when Done is closed
	Err  error         // likewise

	ended bool // Done is closed; only for the reading goroutine
}

func (s *Stream) end(err error) {
	if s.ended {
		return
	}
	s.ended, s.Err = true, err
	close(s.Done)
}

// Create makes a sandbox and is its primary client. A nil config is sent as
// an empty one.
func (s *Server) Create(ctx context.Context, config map[string]any) (*Conn, error) {
	if config == nil {
		config = map[string]any{}
	}
	raw, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	return s.CreateRaw(ctx, s.Token, base64.StdEncoding.EncodeToString(raw))
}

// CreateRaw is Create with any token and header.
func (s *Server) CreateRaw(ctx context.Context, token, header string) (*Conn, error) {
	c, err := s.dial(ctx, "/api/v3/sandboxes/create", http.Header{
		"Authorization": {"Bearer " + token}, api.HeaderConfig: {header},
	})
	if err == nil {
		s.mu.Lock()
		s.ids[c.ID] = true
		s.mu.Unlock()
	}
	return c, err
}

// Connect joins a running sandbox.
func (s *Server) Connect(ctx context.Context, id string) (*Conn, error) {
	return s.ConnectAs(ctx, s.Token, id)
}

// ConnectAs is Connect with another token.
func (s *Server) ConnectAs(ctx context.Context, token, id string) (*Conn, error) {
	return s.dial(ctx, "/api/v3/sandbox/"+id+"/connect", http.Header{"Authorization": {"Bearer " + token}})
}

func (s *Server) dial(ctx context.Context, path string, header http.Header) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	ws, res, err := websocket.Dial(ctx, s.socketURL(path), &websocket.DialOptions{HTTPHeader: header})
	if err != nil {
		return nil, refusal(res, err)
	}
	ws.SetReadLimit(api.MaxServerMessage)
	c := &Conn{
		ID: res.Header.Get(api.HeaderSandboxID), TraceID: res.Header.Get(api.HeaderTraceID), WS: ws,
		closed: make(chan struct{}), pending: map[string]chan api.Response{}, streams: map[int64]*Stream{},
	}
	go c.read()
	return c, nil
}

func (s *Server) socketURL(path string) string {
	return "ws" + strings.TrimPrefix(s.URL, "http") + path
}

func refusal(res *http.Response, err error) error {
	if res == nil || res.StatusCode == http.StatusSwitchingProtocols {
		return err
	}
	out := &Refusal{Status: res.StatusCode, TraceID: res.Header.Get(api.HeaderTraceID)}
	var body api.Error
	if derr := json.NewDecoder(res.Body).Decode(&body); derr != nil {
		return fmt.Errorf("status %d without a JSON body: %w", res.StatusCode, derr)
	}
	out.Code, out.Message = body.Code, body.Message
	return out
}

// read runs until the connection ends.
func (c *Conn) read() {
	defer close(c.closed)
	for {
		kind, raw, err := c.WS.Read(context.Background())
		if err != nil {
			c.fail(err)
			return
		}
		var m struct {
			api.Response
			Method string           `json:"method"`
			Params api.StreamParams `json:"params"`
		}
		if kind != websocket.MessageText || json.Unmarshal(raw, &m) != nil {
			c.mu.Lock()
			c.texts = append(c.texts, string(raw))
			c.mu.Unlock()
			continue
		}
		if m.Method != "" {
			c.notified(m.Method, m.Params)
			continue
		}
		c.mu.Lock()
		answer := c.pending[string(m.ID)]
		delete(c.pending, string(m.ID))
		c.mu.Unlock()
		if answer != nil {
			answer <- m.Response
		}
	}
}

func (c *Conn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
	for _, s := range c.streams {
		s.end(err)
	}
}

func (c *Conn) notified(method string, p api.StreamParams) {
	s := c.stream(p.StreamID)
	switch method {
	case api.NotifyStreamEnqueue:
		s.Data = append(s.Data, p.Data...)
	case api.NotifyStreamError:
		s.end(fmt.Errorf("the stream failed: %+v", p.Error))
	case api.NotifyStreamEnd:
		s.end(nil)
	}
}

func (c *Conn) stream(id int64) *Stream {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[id]
	if s == nil {
		s = &Stream{Done: make(chan struct{})}
		c.streams[id] = s
	}
	return s
}

// Texts are the messages so far that were not JSON-RPC.
func (c *Conn) Texts() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.texts...)
}

// Send sends one text message as it is.
func (c *Conn) Send(ctx context.Context, text string) error {
	return c.WS.Write(ctx, websocket.MessageText, []byte(text))
}

// Request sends a request and returns the whole answer.
func (c *Conn) Request(ctx context.Context, method string, params any) (api.Response, error) {
	c.mu.Lock()
	c.next++
	id := fmt.Sprint(c.next)
	answer := make(chan api.Response, 1)
	c.pending[id] = answer
	c.mu.Unlock()
	in := map[string]any{"jsonrpc": "2.0", "id": json.RawMessage(id), "method": method}
	if params != nil {
		in["params"] = params
	}
	raw, err := json.Marshal(in)
	if err != nil {
		return api.Response{}, err
	}
	if err := c.Send(ctx, string(raw)); err != nil {
		return api.Response{}, err
	}
	select {
	case r := <-answer:
		return r, nil
	case <-c.closed:
		return api.Response{}, fmt.Errorf("%s: connection closed: %w", method, c.err)
	case <-ctx.Done():
		return api.Response{}, fmt.Errorf("%s: no answer: %w", method, ctx.Err())
	}
}

// Notify sends a notification.
func (c *Conn) Notify(ctx context.Context, method string, params any) error {
	raw, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "method": method, "params": params})
	if err != nil {
		return err
	}
	return c.Send(ctx, string(raw))
}

// Call makes a call and decodes its result into out, unless that is nil. The
// error is an *api.RPCError, a *Failure or of the connection.
func (c *Conn) Call(ctx context.Context, method string, params, out any) error {
	r, err := c.Request(ctx, method, params)
	if err != nil {
		return err
	}
	if r.Error != nil {
		return r.Error
	}
	var res api.Result
	if err := json.Unmarshal(r.Result, &res); err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	if res.Error != nil {
		return res.Error
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(res.OK, out)
}

// Close ends the connection politely.
func (c *Conn) Close() { _ = c.WS.Close(websocket.StatusNormalClosure, "") }

// Vanish ends the connection as a lost network does.
func (c *Conn) Vanish() { _ = c.WS.CloseNow() }

// AwaitClose waits for the server's close frame and returns code and reason.
func (c *Conn) AwaitClose(ctx context.Context) (websocket.StatusCode, string, error) {
	select {
	case <-c.closed:
	case <-ctx.Done():
		return 0, "", fmt.Errorf("the connection is still open: %w", ctx.Err())
	}
	var frame websocket.CloseError
	if errors.As(c.err, &frame) {
		return frame.Code, frame.Reason, nil
	}
	return 0, "", fmt.Errorf("no close frame: %w", c.err)
}
