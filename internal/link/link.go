// Package link is the one byte stream between a shim and the agent inside its
// machine, multiplexed.
//
// The shim opens streams, the agent accepts them. A stream begins with a
// preamble: its kind, the link's generation and a small JSON header; what
// follows is up to the kind. The generation grows each time the machine is
// resumed from a saved state, so that both ends can tell a stream of an
// earlier life.
//
// The other end of the link is hostile for the shim: everything it sends is
// bounded here in size, count and time.
package link

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"
)

// Kind says what a stream is for.
type Kind byte

// The kinds of stream.
const (
	// KindControl carries messages from shim to agent, each answered by Ready:
	// one Config in a machine's life, then at most one Update, a Resume
	// whenever the machine stood still, and a Freeze before and after it is
	// saved for others.
	KindControl Kind = 1
	// KindRPC carries the JSON-RPC messages of one client connection.
	KindRPC Kind = 2
	// KindDial carries the bytes of one TCP connection to a port in the guest.
	KindDial Kind = 3
)

const (
	preambleSize    = 1 + 4 + 2
	maxHeader       = 16 << 10 // bytes of JSON in a preamble
	openTimeout     = 10 * time.Second
	streamWindow    = 1 << 20 // bytes in flight per stream
	acceptBacklog   = 1024    // streams opened and not yet accepted; more than maxStreams, so that opening never waits for the agent
	maxStreams      = 512     // open at a time, those that the agent hasn't closed included
	writeTimeout    = 30 * time.Second
	closeTimeout    = 10 * time.Second
	preambleTimeout = 10 * time.Second
)

// ErrBadPreamble is what Accept's stream yields when it starts with anything
// else than a preamble.
var ErrBadPreamble = errors.New("link: malformed stream preamble")

// ErrTooManyStreams is returned by Dial while the link carries as many streams
// as it may.
var ErrTooManyStreams = errors.New("link: too many streams")

// Session is one end of a link. Its methods may be called concurrently.
type Session struct {
	mux        *yamux.Session
	generation uint32
	dialing    atomic.Int64 // calls of Dial
}

// Stream is one accepted stream.
type Stream struct {
	net.Conn
	Kind       Kind
	Generation uint32
	Header     json.RawMessage
}

func muxConfig() *yamux.Config {
	c := yamux.DefaultConfig()
	c.AcceptBacklog = acceptBacklog
	c.EnableKeepAlive = false // the link is local: it breaks when an end dies
	c.ConnectionWriteTimeout = writeTimeout
	c.StreamOpenTimeout = 0 // a saved machine may sleep for hours
	c.StreamCloseTimeout = closeTimeout
	c.MaxStreamWindowSize = streamWindow
	c.LogOutput = io.Discard
	return c
}

// Open starts the shim's end on conn, which the session owns from then on, as
// soon as the agent answers.
func Open(ctx context.Context, conn net.Conn, generation uint32) (*Session, error) {
	if err := greet(ctx, conn, newHello(magicOpen)); err != nil {
		return nil, err
	}
	mux, err := yamux.Client(&inspected{ReadWriteCloser: &coalescer{ReadWriteCloser: conn}}, muxConfig())
	if err != nil {
		return nil, fmt.Errorf("open link: %w", err)
	}
	return &Session{mux: mux, generation: generation}, nil
}

// Serve starts the agent's end on conn, which the session owns from then on, as
// soon as the shim opens a session.
func Serve(conn io.ReadWriteCloser) (*Session, error) {
	if err := awaitHello(conn); err != nil {
		return nil, err
	}
	mux, err := yamux.Server(&coalescer{ReadWriteCloser: conn}, muxConfig())
	if err != nil {
		return nil, fmt.Errorf("serve link: %w", err)
	}
	return &Session{mux: mux}, nil
}

// Close ends the session and all its streams.
func (s *Session) Close() error { return s.mux.Close() }

// Done is closed when the session has ended.
func (s *Session) Done() <-chan struct{} { return s.mux.CloseChan() }

// Dial opens a stream of a kind. The header is encoded as JSON and must stay
// below 16 KiB. There are at most 512 streams at a time: each can hold a
// window of bytes that nobody has read yet.
func (s *Session) Dial(ctx context.Context, kind Kind, header any) (net.Conn, error) {
	preamble, err := encodePreamble(kind, s.generation, header)
	if err != nil {
		return nil, err
	}
	defer s.dialing.Add(-1)
	if s.dialing.Add(1)+int64(s.mux.NumStreams()) > maxStreams {
		return nil, ErrTooManyStreams
	}
	conn, err := s.mux.OpenStream()
	if err != nil {
		return nil, fmt.Errorf("open stream: %w", err)
	}
	deadline := time.Now().Add(openTimeout)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	_ = conn.SetWriteDeadline(deadline)
	if _, err := conn.Write(preamble); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("open stream: %w", err)
	}
	_ = conn.SetWriteDeadline(time.Time{})
	return conn, nil
}

// Accept returns the next raw stream; call ReadPreamble on it, in a goroutine
// of its own, so that a silent peer delays nobody else.
func (s *Session) Accept() (net.Conn, error) { return s.mux.AcceptStream() }

// ReadPreamble reads a stream's preamble. On failure the stream is closed.
func ReadPreamble(conn net.Conn) (*Stream, error) {
	_ = conn.SetReadDeadline(time.Now().Add(preambleTimeout))
	st, err := decodePreamble(conn)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	_ = conn.SetReadDeadline(time.Time{})
	st.Conn = conn
	return st, nil
}

func encodePreamble(kind Kind, generation uint32, header any) ([]byte, error) {
	body, err := json.Marshal(header)
	if err != nil {
		return nil, fmt.Errorf("encode stream header: %w", err)
	}
	if len(body) > maxHeader {
		return nil, fmt.Errorf("stream header of %d bytes is over the limit of %d", len(body), maxHeader)
	}
	out := make([]byte, preambleSize, preambleSize+len(body))
	out[0] = byte(kind)
	binary.BigEndian.PutUint32(out[1:], generation)
	binary.BigEndian.PutUint16(out[5:], uint16(len(body)))
	return append(out, body...), nil
}

func decodePreamble(r io.Reader) (*Stream, error) {
	var fixed [preambleSize]byte
	if _, err := io.ReadFull(r, fixed[:]); err != nil {
		return nil, fmt.Errorf("read preamble: %w", err)
	}
	st := &Stream{Kind: Kind(fixed[0]), Generation: binary.BigEndian.Uint32(fixed[1:])}
	if st.Kind < KindControl || st.Kind > KindDial {
		return nil, ErrBadPreamble
	}
	size := int(binary.BigEndian.Uint16(fixed[5:]))
	if size > maxHeader {
		return nil, ErrBadPreamble
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, fmt.Errorf("read preamble: %w", err)
	}
	if !json.Valid(body) {
		return nil, ErrBadPreamble
	}
	st.Header = body
	return st, nil
}
