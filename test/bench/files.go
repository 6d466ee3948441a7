//go:build e2e

package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/atollhq/atoll/client"
)

// fileSize is large and still fits a single message to a client as base64.
const fileSize = 75_000_000

// callSize is the issue's: one writeFile carries it whole; readFile reads it
// through a handle, because no client takes a message of that size.
const callSize = 100_000_000

const fileRuns = 5

// echoPair is a WebSocket echo that does what a file call cannot avoid: JSON
// with the bytes in base64, one way.
type echoPair struct {
	server *httptest.Server
	conn   *websocket.Conn
}

func newEchoPair(ctx context.Context) (*echoPair, error) {
	server := httptest.NewServer(http.HandlerFunc(serveEcho))
	conn, _, err := websocket.Dial(ctx, "ws"+strings.TrimPrefix(server.URL, "http"), nil)
	if err != nil {
		server.Close()
		return nil, err
	}
	conn.SetReadLimit(-1)
	return &echoPair{server, conn}, nil
}

type echoMessage struct {
	Content []byte `json:"content"`
	Size    int    `json:"size"`
}

// serveEcho answers content with its size, and a size with that much content.
func serveEcho(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	conn.SetReadLimit(-1)
	for {
		_, raw, err := conn.Read(r.Context())
		if err != nil {
			return
		}
		var m, answer echoMessage
		if json.Unmarshal(raw, &m) != nil {
			return
		}
		answer.Size = len(m.Content)
		if m.Size > 0 {
			answer.Content = make([]byte, m.Size)
		}
		out, err := json.Marshal(answer)
		if err != nil || conn.Write(r.Context(), websocket.MessageText, out) != nil {
			return
		}
	}
}

func (e *echoPair) trip(ctx context.Context, m echoMessage) error {
	raw, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := e.conn.Write(ctx, websocket.MessageText, raw); err != nil {
		return err
	}
	_, raw, err = e.conn.Read(ctx)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, &m)
}

func (e *echoPair) close() {
	_ = e.conn.CloseNow()
	e.server.Close()
}

// filesFigure measures whole-file calls beside the same bytes through a bare
// WebSocket.
func filesFigure(ctx context.Context, b *bench) error {
	s, err := b.client.Sandboxes.Create(ctx, client.CreateOptions{})
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	pair, err := newEchoPair(ctx)
	if err != nil {
		return err
	}
	defer pair.close()
	for _, c := range []struct {
		what string
		size int
		ours func([]byte) error
		bare func([]byte) echoMessage
	}{
		{"writeFile 100 MB", callSize, writer(ctx, s), func(d []byte) echoMessage { return echoMessage{Content: d} }},
		{"readFile 75 MB, one message", fileSize, reader(ctx, s), func(d []byte) echoMessage { return echoMessage{Size: len(d)} }},
		{"readFile 100 MB, by handle", callSize, reader(ctx, s), func(d []byte) echoMessage { return echoMessage{Size: len(d)} }},
	} {
		if err := compare(ctx, b, s, pair, c.what, c.size, c.ours, c.bare); err != nil {
			return fmt.Errorf("%s: %w", c.what, err)
		}
	}
	return nil
}

const benchFile = "/tmp/bench.bin"

func writer(ctx context.Context, s *client.Sandbox) func([]byte) error {
	return func(data []byte) error { return s.FS.WriteFile(ctx, benchFile, data, nil) }
}

func reader(ctx context.Context, s *client.Sandbox) func([]byte) error {
	return func(want []byte) error {
		got, err := s.FS.ReadFile(ctx, benchFile)
		if err == nil && !bytes.Equal(got, want) {
			err = fmt.Errorf("%d bytes came back, not the %d that were written", len(got), len(want))
		}
		return err
	}
}

func compare(ctx context.Context, b *bench, s *client.Sandbox, pair *echoPair, what string, size int, ours func([]byte) error, bare func([]byte) echoMessage) error {
	data := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	if err := writer(ctx, s)(data); err != nil {
		return err
	}
	var a, t []time.Duration
	for range fileRuns {
		took, err := times(1, func() error { return ours(data) })
		if err != nil {
			return err
		}
		a = append(a, took...)
		if took, err = times(1, func() error { return pair.trip(ctx, bare(data)) }); err != nil {
			return err
		}
		t = append(t, took...)
	}
	mine, theirs := percentile(sorted(a), 50), percentile(sorted(t), 50)
	b.add(what, rate(size, mine), fmt.Sprintf("bare WebSocket, %d%% base64: %s", base64.StdEncoding.EncodedLen(300)/3, rate(size, theirs)),
		fmt.Sprintf("%.2f (speed)", float64(theirs)/float64(mine)))
	return nil
}
