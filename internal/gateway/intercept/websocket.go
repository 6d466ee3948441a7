package intercept

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/atollhq/atoll/internal/gateway/secret"
)

const protoWebSocket = "websocket"

var errNotWritable = errors.New("upstream changed the protocol of a connection that can't be written to")

// isWebSocket reports whether a request or response is for a WebSocket.
func isWebSocket(h http.Header) bool { return strings.EqualFold(h.Get("Upgrade"), protoWebSocket) }

// upgrade takes over a connection that has changed its protocol.
func (e *exchange) upgrade(resp *http.Response) (*http.Response, error) {
	raw, ok := resp.Body.(io.ReadWriteCloser)
	if !ok {
		_ = resp.Body.Close()
		return nil, errNotWritable
	}
	x := e.secret
	toServer, fromServer := x.TextToServer(), x.FromServer(true)
	if (toServer != nil || fromServer != nil) && (!isWebSocket(resp.Header) || resp.Header.Get("Sec-Websocket-Extensions") != "") {
		_ = raw.Close()
		return nil, &secret.Refusal{Code: secret.CodeResponseNotReadable, Reason: "the host changed to a protocol that can't be read, which may carry a secret"}
	}
	body := resp.Body
	resp.Body = nil // only the head is looked at
	err := x.Respond(resp)
	resp.Body = body
	if err != nil {
		_ = raw.Close()
		return nil, err
	}
	resp.Status = "" // its words are the host's
	e.Status, e.Protocol = resp.StatusCode, protoWebSocket
	resp.Body = &socket{
		ReadWriteCloser: raw, exchange: e,
		out: newFrames(true, toServer, nil, nil),
		in:  newFrames(false, fromServer, x.FromServer(false), x.FromServer(false)),
	}
	return resp, nil
}

// socket is upstream's end of a WebSocket.
type socket struct {
	io.ReadWriteCloser
	exchange *exchange
	out, in  *frames // nil where nothing is rewritten
	raw      []byte  // what is read into
	pending  []byte  // rewritten, and not yet read
	rest     []byte  // of the buffer that pending is in
}

// Read implements io.Reader.
func (s *socket) Read(p []byte) (int, error) {
	if s.in == nil {
		n, err := s.ReadWriteCloser.Read(p)
		s.exchange.received.Add(int64(n))
		return n, err
	}
	if s.raw == nil {
		s.raw = make([]byte, bufferSize)
	}
	for len(s.pending) == 0 {
		n, err := s.ReadWriteCloser.Read(s.raw)
		out, bad := s.in.next(s.rest[:0], s.raw[:n])
		s.pending, s.rest = out, out
		if bad != nil {
			return 0, bad
		}
		if err != nil && len(out) == 0 {
			return 0, err
		}
	}
	n := copy(p, s.pending)
	s.pending = s.pending[n:]
	s.exchange.received.Add(int64(n))
	return n, nil
}

// Write implements io.Writer.
func (s *socket) Write(b []byte) (int, error) {
	s.exchange.sent.Add(int64(len(b)))
	if s.out == nil {
		return s.ReadWriteCloser.Write(b)
	}
	out, err := s.out.next(nil, b)
	if err != nil {
		return 0, err
	}
	if len(out) > 0 {
		if _, err := s.ReadWriteCloser.Write(out); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

var errFrame = errors.New("malformed WebSocket frame")

func badFrame(why string) error { return fmt.Errorf("%w: %s", errFrame, why) }
