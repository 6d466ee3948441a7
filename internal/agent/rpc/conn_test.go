package rpc

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/link"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = time.Minute

// client is the other end of a Conn in tests.
type client struct {
	t    *testing.T
	conn net.Conn
	got  chan wire // messages from the server
	done chan error
}

type wire struct {
	ID     json.RawMessage `json:"id"`
	Method string          `json:"method"`
	Params struct {
		StreamID int64            `json:"streamId"`
		Data     api.Bytes        `json:"data"`
		Error    *api.RemoteError `json:"error"`
		Reason   *api.RemoteError `json:"reason"`
	} `json:"params"`
	Result *api.Result   `json:"result"`
	Error  *api.RPCError `json:"error"`
	size   int
}

func dial(t *testing.T, reg *Registry, maxMessage int, limits Limits) *client {
	t.Helper()
	near, far := net.Pipe()
	c := &client{t: t, conn: near, got: make(chan wire, 1024), done: make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	if limits.SpillDir == "" {
		limits.SpillDir = t.TempDir()
	}
	go func() {
		c.done <- Serve(ctx, far, link.RPCHeader{MaxMessage: maxMessage}, reg, slog.New(slog.DiscardHandler), limits)
	}()
	read := make(chan struct{})
	go func() {
		defer close(read)
		frames := link.NewFrameReader(near)
		for {
			b, err := frames.ReadMessage(1 << 30)
			if err != nil {
				close(c.got)
				return
			}
			m := wire{size: len(b)}
			if err := json.Unmarshal(b, &m); err != nil {
				t.Errorf("server sent %.200q: %v", b, err)
			}
			c.got <- m
		}
	}()
	t.Cleanup(func() {
		cancel()
		_ = near.Close()
		for range c.got { //nolint:revive // drained so that the reader ends
		}
		<-read
		select {
		case <-c.done:
		case <-time.After(patience):
			t.Error("Serve does not return")
		}
	})
	return c
}

func (c *client) send(format string, args ...any) {
	c.t.Helper()
	if err := link.WriteMessage(c.conn, fmt.Appendf(nil, format, args...)); err != nil {
		c.t.Fatalf("send: %v", err)
	}
}

func (c *client) call(id int, method, params string) {
	c.t.Helper()
	c.send(`{"jsonrpc":"2.0","id":%d,"method":%q,"params":%s}`, id, method, params)
}

func (c *client) enqueue(id int, data []byte) {
	c.t.Helper()
	c.send(`{"jsonrpc":"2.0","method":"$sandbox.stream.enqueue","params":{"streamId":%d,"data":"%s"}}`, id, base64.StdEncoding.EncodeToString(data))
}

func (c *client) note(method string, id int64) {
	c.t.Helper()
	c.send(`{"jsonrpc":"2.0","method":"$sandbox.stream.%s","params":{"streamId":%d}}`, method, id)
}

func (c *client) next() wire {
	c.t.Helper()
	select {
	case m, ok := <-c.got:
		if !ok {
			c.t.Fatal("the connection ended")
		}
		return m
	case <-time.After(patience):
		c.t.Fatal("no message")
	}
	panic("unreachable")
}

type pathParams struct {
	Path string `json:"path"`
	N    *int64 `json:"n,omitempty"`
}

func echoRegistry() *Registry {
	reg := NewRegistry()
	Register(reg, "echo", func(_ context.Context, _ *Conn, p pathParams) (string, error) { return p.Path, nil })
	Register(reg, "null", func(context.Context, *Conn, struct{}) (Null, error) { return Null{}, nil })
	Register(reg, "panic", func(context.Context, *Conn, struct{}) (Null, error) { panic("bug") })
	Register(reg, "bytes", func(_ context.Context, _ *Conn, p pathParams) (api.Bytes, error) {
		return bytes.Repeat([]byte("x"), int(*p.N)), nil
	})
	Register(reg, "data", func(_ context.Context, _ *Conn, p api.FileWriteParams) (api.Bytes, error) { return p.Data, nil })
	Register(reg, "fail", func(_ context.Context, _ *Conn, p pathParams) (Null, error) {
		return Null{}, fmt.Errorf("wrapped: %w", NewError("TypeError", "ENOENT", "no %s", p.Path))
	})
	Register(reg, "hang", func(ctx context.Context, c *Conn, p struct {
		AbortID *int64 `json:"abortId,omitempty"`
	}) (Null, error) {
		ctx, stop := c.Abortable(ctx, p.AbortID)
		defer stop()
		<-ctx.Done()
		return Null{}, errors.New("whatever")
	})
	Register(reg, "hash", func(_ context.Context, c *Conn, p api.StreamResult) (string, error) {
		s := c.InStream(p.StreamID)
		defer s.Close()
		h := sha256.New()
		n, err := io.Copy(h, s)
		return fmt.Sprintf("%d %x", n, h.Sum(nil)), err
	})
	return reg
}

func TestAnswers(t *testing.T) {
	c := dial(t, echoRegistry(), 0, Limits{})
	for _, tt := range []struct{ name, send, want string }{
		{"result", `{"jsonrpc":"2.0","id":7,"method":"echo","params":{"path":"a\n\u00e9"}}`, `7 {"ok":"a\né"}`},
		{"string id", `{"id":"x","method":"echo","params":{"path":""}}`, `"x" {"ok":""}`},
		{"null result", `{"id":1,"method":"null"}`, `1 {"ok":null}`},
		{"null params", `{"id":1,"method":"null","params":null}`, `1 {"ok":null}`},
		{"abort of nothing", `{"id":1,"method":"abort","params":{"abortId":99}}`, `1 {"ok":null}`},
		{"params before id", ` { "params" : {"path" : "p"} , "method":"echo", "id" : 2 } `, `2 {"ok":"p"}`},
		{"escaped names", `{"\u0069d":3,"m\u0065thod":"echo","params":{"p\u0061th":"q"}}`, `3 {"ok":"q"}`},
		{"unknown method", `{"id":1,"method":"vscode"}`, `1 -32601 Method not found`},
		{"panic", `{"id":1,"method":"panic"}`, `1 -32603 Internal error`},
		{"not JSON", `{"id":1,`, `null -32700`},
		{"no method", `{"id":1}`, `1 -32600`},
		{"method a number", `{"id":1,"method":1}`, `1 -32600`},
		{"batch", `[]`, `null -32600`},
		{"id an object", `{"id":{},"method":"null"}`, `null -32600`},
		{"missing", `{"id":1,"method":"echo","params":{}}`, `1 -32602 Invalid params ["path"]`},
		{"null required", `{"id":1,"method":"echo","params":{"path":null}}`, `1 -32602 Invalid params ["path"]`},
		{"wrong type", `{"id":1,"method":"echo","params":{"path":1,"n":"x"}}`, `1 -32602 Invalid params ["path"] ["n"]`},
		{"params a list", `{"id":1,"method":"echo","params":["a"]}`, `1 -32602 Invalid params []`},
		{"abort wrong", `{"id":1,"method":"abort","params":{}}`, `1 -32602 Invalid params ["abortId"]`},
		{"not base64", `{"id":1,"method":"data","params":{"fileHandleId":1,"data":"#"}}`, `1 -32602 Invalid params ["data"]`},
		{"error", `{"id":1,"method":"fail","params":{"path":"x"}}`, `1 TypeError ENOENT no x`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c.send("%s", tt.send)
			if got := describe(t, c.next()); !strings.HasPrefix(got, tt.want) {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// describe writes an answer on one line.
func describe(t *testing.T, m wire) string {
	t.Helper()
	switch {
	case m.Error != nil:
		out := fmt.Sprintf("%s %d %s", m.ID, m.Error.Code, m.Error.Message)
		if m.Error.Data != nil {
			var zod struct{ ConstructorName, Message string }
			var issues []api.ValidationIssue
			if json.Unmarshal(m.Error.Data, &zod) != nil || zod.ConstructorName != "ZodError" || json.Unmarshal([]byte(zod.Message), &issues) != nil {
				t.Errorf("data %s is not a ZodError", m.Error.Data)
			}
			for _, i := range issues {
				path, _ := json.Marshal(i.Path)
				out += " " + string(path)
			}
		}
		return out
	case m.Result.Error != nil:
		e := m.Result.Error
		code := ""
		if e.Code != nil {
			code = *e.Code
		}
		return fmt.Sprintf("%s %s %s %s", m.ID, e.ConstructorName, code, e.Message)
	default:
		return fmt.Sprintf(`%s {"ok":%s}`, m.ID, m.Result.OK)
	}
}

func TestLargeAnswer(t *testing.T) {
	const limit = 1 << 20
	c := dial(t, echoRegistry(), limit, Limits{})
	for _, n := range []int{0, 1, 2, 3, 98303, 98304, 98305, link.MaxFrame, link.MaxFrame + 1, 700_000} {
		c.call(1, "bytes", fmt.Sprintf(`{"path":"","n":%d}`, n))
		var got api.Bytes
		if err := json.Unmarshal(c.next().Result.OK, &got); err != nil || len(got) != n {
			t.Fatalf("%d bytes: got %d, %v", n, len(got), err)
		}
	}
	c.call(1, "bytes", `{"path":"","n":800000}`)
	if got := describe(t, c.next()); !strings.HasPrefix(got, "1 RangeError ERR_MESSAGE_TOO_LARGE") {
		t.Errorf("got %s", got)
	}
	c.call(1, "echo", `{"path":"`+strings.Repeat("x", limit)+`"}`)
	if got := describe(t, c.next()); !strings.HasPrefix(got, "1 RangeError ERR_MESSAGE_TOO_LARGE") {
		t.Errorf("got %.100s", got)
	}
}

func TestBinaryParameters(t *testing.T) {
	c := dial(t, echoRegistry(), 0, Limits{})
	for _, n := range []int{0, 1, 5, 12287, 12288, 12289, 1 << 20} {
		data := make([]byte, n)
		for i := range data {
			data[i] = byte(i * 7)
		}
		for _, encode := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding} {
			c.call(1, "data", fmt.Sprintf(`{"fileHandleId":1,"data":%q}`, encode.EncodeToString(data)))
			var got api.Bytes
			if err := json.Unmarshal(c.next().Result.OK, &got); err != nil || !bytes.Equal(got, data) {
				t.Fatalf("%d bytes come back as %d, %v", n, len(got), err)
			}
		}
	}
}

func TestOversizedMessageEndsConnection(t *testing.T) {
	c := dial(t, echoRegistry(), 0, Limits{MaxMessage: 1000})
	c.send(`{"id":1,"method":"echo","params":{"path":"%s"}}`, strings.Repeat("x", 1000))
	if err := <-c.done; !errors.Is(err, link.ErrMessageTooLarge) {
		t.Errorf("got %v", err)
	}
	c.done <- nil
}

func TestAbort(t *testing.T) {
	const want = "1 DOMException  The signal has been aborted"
	t.Run("running", func(t *testing.T) {
		c := dial(t, echoRegistry(), 0, Limits{})
		c.call(1, "hang", `{"abortId":5}`)
		c.call(2, "abort", `{"abortId":5}`)
		got := map[string]bool{describe(t, c.next()): true, describe(t, c.next()): true}
		if !got[want] || !got[`2 {"ok":null}`] {
			t.Errorf("got %v", got)
		}
	})
	t.Run("before it starts", func(t *testing.T) {
		c := dial(t, echoRegistry(), 0, Limits{})
		c.call(2, "abort", `{"abortId":5}`)
		c.next()
		c.call(1, "hang", `{"abortId":5}`)
		if got := describe(t, c.next()); got != want {
			t.Errorf("got %s", got)
		}
	})
}

func TestEndCancelsCallsAndRunsClosers(t *testing.T) {
	reg := NewRegistry()
	order := make(chan string, 3)
	Register(reg, "hang", func(ctx context.Context, c *Conn, _ struct{}) (Null, error) {
		c.OnClose(func() { order <- "first" })
		c.OnClose(func() { order <- "second" })
		go func() { _ = c.Notify("ready", struct{}{}) }()
		<-ctx.Done()
		order <- "call"
		return Null{}, ctx.Err()
	})
	c := dial(t, reg, 0, Limits{})
	c.call(1, "hang", "{}")
	c.next()
	_ = c.conn.Close()
	for _, want := range []string{"call", "second", "first"} {
		if got := <-order; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestFullBudgetStillAborts(t *testing.T) {
	c := dial(t, echoRegistry(), 0, Limits{Calls: 2})
	c.call(1, "hang", `{"abortId":1}`)
	c.call(2, "abort", `{"abortId":1}`)
	c.next()
	c.next()
}
