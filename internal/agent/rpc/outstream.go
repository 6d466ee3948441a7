package rpc

import (
	"errors"
	"sync"

	"github.com/atollhq/atoll/api"
)

// Errors of OutStream.Write.
var (
	// ErrStreamCancelled says that the client wants no more data.
	ErrStreamCancelled = errors.New("the client has cancelled the stream")
	// ErrConnClosed says that the connection has ended.
	ErrConnClosed = errors.New("the connection has ended")
)

// OutStream carries bytes to the client. Write, Close and Fail belong to one
// goroutine; the rest may be called from any.
type OutStream struct {
	c    *Conn
	id   int64
	gate <-chan struct{} // nil: open

	cancel    chan struct{} // closed when the client cancels
	cancelled sync.Once
	ended     bool // of the writing goroutine
}

// ID is the stream's number on this connection.
func (s *OutStream) ID() int64 { return s.id }

// Gate holds everything back until open is closed. It is called before the
// first Write.
func (s *OutStream) Gate(open <-chan struct{}) { s.gate = open }

// Cancelled is closed when the client cancels the stream.
func (s *OutStream) Cancelled() <-chan struct{} { return s.cancel }

// Write sends p. As long as p is not larger than api.StreamChunk (or what the
// client takes, if that is less) it becomes exactly one message. It blocks
// while the client is slow. After a cancellation it returns
// ErrStreamCancelled, after the connection's end ErrConnClosed.
func (s *OutStream) Write(p []byte) (int, error) {
	if err := s.ready(); err != nil {
		return 0, err
	}
	sent := 0
	for len(p) > 0 {
		if err := s.stopped(); err != nil {
			return sent, err
		}
		n := min(len(p), s.c.chunk)
		if err := s.enqueue(p[:n]); err != nil {
			return sent, err
		}
		sent += n
		p = p[n:]
	}
	return sent, nil
}

// Close ends the stream.
func (s *OutStream) Close() error {
	return s.end(func(b []byte) []byte {
		return append(appendStream(b, api.NotifyStreamEnd, s.id), "}}"...)
	})
}

// Fail ends the stream with an error, which reaches whoever reads it.
func (s *OutStream) Fail(err error) {
	_ = s.end(func(b []byte) []byte {
		return appendStreamError(b, api.NotifyStreamError, s.id, "error", FromOS("", err))
	})
}

func (s *OutStream) end(message func([]byte) []byte) error {
	if s.ended {
		return nil
	}
	s.ended = true
	defer s.c.forgetOut(s.id)
	if err := s.ready(); err != nil {
		return err
	}
	o := newOutBuffer()
	defer o.free()
	o.b = message(o.b)
	return s.c.send(o)
}

func (s *OutStream) enqueue(p []byte) error {
	o := newOutBuffer()
	defer o.free()
	o.b = appendEnqueue(o.b, s.id, p)
	return s.c.send(o)
}

// ready waits for the gate.
func (s *OutStream) ready() error {
	if s.gate == nil {
		return s.stopped()
	}
	select {
	case <-s.gate:
		return s.stopped()
	case <-s.cancel:
		return ErrStreamCancelled
	case <-s.c.Done():
		return ErrConnClosed
	}
}

func (s *OutStream) stopped() error {
	select {
	case <-s.cancel:
		return ErrStreamCancelled
	case <-s.c.Done():
		return ErrConnClosed
	default:
		return nil
	}
}

func (s *OutStream) onCancel() { s.cancelled.Do(func() { close(s.cancel) }) }
