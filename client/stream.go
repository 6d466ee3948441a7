package client

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/atollhq/atoll/api"
)

const (
	// streamBuffer is how far an inbound stream may run ahead of its consumer
	// before the connection waits for it, in bytes.
	streamBuffer = 4 << 20
	// pieceCost is what one buffered piece counts beside its data.
	pieceCost = 64
	// claimTimeout bounds the wait for the owner of a full stream that no call
	// has claimed. Only a confused server makes it pass.
	claimTimeout = 30 * time.Second
	// maxUnclaimed bounds the streams that a server may start unasked.
	maxUnclaimed = 1024
)

// inStream is a stream from the server. The read loop pushes, one consumer
// reads.
type inStream struct {
	id   int64
	conn *conn

	// readable and writable hold at most one wake-up each.
	readable, writable chan struct{}
	claimed            chan struct{} // closed by claim

	mu     sync.Mutex // guards the rest
	pieces [][]byte
	size   int   // bytes in pieces, with pieceCost
	ended  error // io.EOF or the stream's failure, once the server is done
	closed bool  // the consumer left: drop what comes
	taken  bool  // claim was called
}

func newInStream(c *conn, id int64) *inStream {
	return &inStream{
		id: id, conn: c,
		readable: make(chan struct{}, 1),
		writable: make(chan struct{}, 1),
		claimed:  make(chan struct{}),
	}
}

func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// inStream returns the stream of that number, new if need be.
func (c *conn) inStream(id int64) (*inStream, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closeErr != nil {
		return nil, c.closeErr
	}
	if s, ok := c.inbound[id]; ok {
		return s, nil
	}
	if len(c.inbound) >= maxUnclaimed && c.unclaimed() >= maxUnclaimed {
		return nil, tooManyStreams()
	}
	s := newInStream(c, id)
	c.inbound[id] = s
	return s, nil
}

// unclaimed counts streams without an owner; c.mu is held.
func (c *conn) unclaimed() int {
	n := 0
	for _, s := range c.inbound {
		select {
		case <-s.claimed:
		default:
			n++
		}
	}
	return n
}

// claim takes the stream that a call's result named. A nil id gives nil.
func (c *conn) claim(id *int64) (*inStream, error) {
	if id == nil {
		return nil, nil
	}
	s, err := c.inStream(*id)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	over := s.ended != nil
	if !s.taken {
		s.taken = true
		close(s.claimed)
	}
	s.mu.Unlock()
	if over {
		c.release(s.id)
	}
	return s, nil
}

// discard claims streams only to cancel them.
func (c *conn) discard(ids ...*int64) {
	for _, id := range ids {
		if s, err := c.claim(id); err == nil && s != nil {
			s.Close()
		}
	}
}

func (c *conn) release(id int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.inbound, id)
}

func (c *conn) lookup(id int64) *inStream {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.inbound[id]
}

// enqueue gives data to a stream, waiting while it is full. Data for unknown
// streams is dropped, as the official SDKs do.
func (c *conn) enqueue(id int64, data []byte) error {
	s := c.lookup(id)
	if s == nil {
		return nil
	}
	return s.push(data)
}

// endStream marks a stream's end; failure is nil for a good one.
func (c *conn) endStream(id int64, failure error) {
	s := c.lookup(id)
	if s == nil {
		return
	}
	if failure == nil {
		failure = io.EOF
	}
	s.mu.Lock()
	s.ended = failure
	owned := s.taken
	s.mu.Unlock()
	wake(s.readable)
	if owned {
		c.release(id)
	}
}

func (s *inStream) push(data []byte) error {
	for {
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			return nil
		}
		if s.size < streamBuffer {
			s.pieces = append(s.pieces, data)
			s.size += len(data) + pieceCost
			s.mu.Unlock()
			wake(s.readable)
			return nil
		}
		s.mu.Unlock()
		if err := s.waitWritable(); err != nil {
			return err
		}
	}
}

// waitWritable waits for the consumer: for ever if there is one, for
// claimTimeout if there is none.
func (s *inStream) waitWritable() error {
	orphan := time.NewTimer(claimTimeout)
	defer orphan.Stop()
	claimed := s.claimed
	for {
		select {
		case <-s.writable:
			return nil
		case <-s.conn.done:
			return s.conn.err()
		case <-claimed:
			orphan.Stop()
			claimed = nil
		case <-orphan.C:
			return &CloseError{
				Code:   int(websocket.StatusPolicyViolation),
				Reason: "the server filled a stream that no call asked for",
			}
		}
	}
}

// next returns the next message of the stream, or io.EOF, or its failure.
func (s *inStream) next(ctx context.Context) ([]byte, error) {
	for {
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			return nil, io.ErrClosedPipe
		}
		if len(s.pieces) > 0 {
			piece := s.pieces[0]
			s.pieces[0] = nil
			s.pieces = s.pieces[1:]
			s.size -= len(piece) + pieceCost
			s.mu.Unlock()
			wake(s.writable)
			return piece, nil
		}
		ended := s.ended
		s.mu.Unlock()
		if ended != nil {
			return nil, ended
		}
		select {
		case <-s.readable:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-s.conn.done:
			// What arrived before the end is still delivered.
			if s.drained() {
				return nil, s.conn.err()
			}
		}
	}
}

func (s *inStream) drained() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.pieces) == 0 && s.ended == nil
}

// Close tells the server to stop and drops what is buffered. It is safe to
// call twice.
func (s *inStream) Close() error {
	s.mu.Lock()
	was, over := s.closed, s.ended != nil
	s.closed, s.pieces, s.size = true, nil, 0
	s.mu.Unlock()
	wake(s.readable)
	wake(s.writable)
	if !was && !over {
		s.conn.notice(api.NotifyStreamCancel, api.StreamParams{StreamID: s.id})
	}
	return nil
}

// reader adapts a stream to io.ReadCloser.
type reader struct {
	*inStream
	rest []byte
}

func newReader(s *inStream) io.ReadCloser {
	if s == nil {
		return nil
	}
	return &reader{inStream: s}
}

func (r *reader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		piece, err := r.next(context.Background())
		if err != nil {
			return 0, err
		}
		r.rest = piece
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// WriteTo writes pieces as they came, without a copy.
func (r *reader) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for {
		piece := r.rest
		r.rest = nil
		if len(piece) == 0 {
			var err error
			if piece, err = r.next(context.Background()); err == io.EOF {
				return total, nil
			} else if err != nil {
				return total, err
			}
		}
		n, err := w.Write(piece)
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
}

// outStream is a stream to the server.
type outStream struct {
	id        int64
	conn      *conn
	cancelled chan struct{} // closed by cancelOut when the server lost interest

	mu   sync.Mutex // serialises writes; guards the rest
	buf  []byte
	over bool
}

// errStreamCancelled tells a writer that the other side stopped reading.
var errStreamCancelled = errors.New("the sandbox stopped reading the stream")

// startStream announces a stream. Its number goes into the call that uses it.
func (c *conn) startStream(ctx context.Context) (*outStream, error) {
	c.mu.Lock()
	if c.closeErr != nil {
		c.mu.Unlock()
		return nil, c.closeErr
	}
	s := &outStream{id: c.nextID, conn: c, cancelled: make(chan struct{})}
	c.nextID++
	c.outbound[s.id] = s
	c.mu.Unlock()
	if err := c.notify(ctx, api.NotifyStreamStart, api.StreamParams{StreamID: s.id}); err != nil {
		c.dropOut(s.id)
		return nil, err
	}
	return s, nil
}

func (c *conn) dropOut(id int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.outbound, id)
}

func (c *conn) cancelOut(id int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s, ok := c.outbound[id]; ok {
		delete(c.outbound, id)
		close(s.cancelled)
	}
}

// Write sends p in pieces of at most api.StreamChunk bytes.
func (s *outStream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sent := 0
	for sent < len(p) {
		if s.over {
			return sent, io.ErrClosedPipe
		}
		select {
		case <-s.cancelled:
			return sent, errStreamCancelled
		default:
		}
		piece := p[sent:min(len(p), sent+api.StreamChunk)]
		s.buf = appendEnqueue(s.buf[:0], s.id, piece)
		if _, err := s.conn.post(s.conn.ctx, s.buf); err != nil {
			s.buf = nil // it may still be in use
			return sent, err
		}
		sent += len(piece)
	}
	return sent, nil
}

// Close ends the stream well.
func (s *outStream) Close() error { return s.finish(nil) }

// finish ends the stream, with an error message when cause is not nil.
func (s *outStream) finish(cause error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return nil
	}
	s.over = true
	s.conn.dropOut(s.id)
	select {
	case <-s.cancelled:
		return nil
	default:
	}
	params := api.StreamParams{StreamID: s.id}
	if cause == nil {
		return s.conn.notify(s.conn.ctx, api.NotifyStreamEnd, params)
	}
	params.Error = &api.RemoteError{ConstructorName: "Error", Message: cause.Error()}
	return s.conn.notify(s.conn.ctx, api.NotifyStreamError, params)
}

// copyFrom sends all of r and ends the stream. It returns r's own failure;
// that the other side stopped reading is not one.
func (s *outStream) copyFrom(r io.Reader) error {
	_, err := io.CopyBuffer(onlyWriter{s}, onlyReader{r}, make([]byte, api.StreamChunk))
	if errors.Is(err, errStreamCancelled) {
		err = nil
	}
	return errors.Join(err, s.finish(err))
}

// onlyWriter and onlyReader hide ReadFrom and WriteTo, so that pieces have
// the intended size.
type (
	onlyWriter struct{ io.Writer }
	onlyReader struct{ io.Reader }
)
