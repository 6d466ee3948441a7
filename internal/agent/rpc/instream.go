package rpc

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/atollhq/atoll/api"
)

// errStreamClosed is what Read returns after Close.
var errStreamClosed = errors.New("the stream has been closed")

// InStream carries bytes from the client. Read, WriteTo and Close belong to
// one goroutine; Cancel and LastActivity may be called from any.
//
// Data waits in memory, and behind it in a file. The connection's reader puts
// it in and blocks only when both are full.
type InStream struct {
	c  *Conn
	id int64

	mu       sync.Mutex
	changed  sync.Cond // of everything below
	memory   []chunk   // oldest first
	inMemory int64     // bytes in memory
	file     *spill    // nil until needed; holds what came after memory
	err      error     // after the data: io.EOF, or why it ended early
	claimed  bool      // somebody asked for it
	closed   error     // why nobody reads it any more; data is dropped
	told     bool      // the client knows that
	active   time.Time

	unread atomic.Bool // closed is set
}

// chunk is data and the buffer that it stands in.
type chunk struct {
	data []byte
	buf  *inBuffer
}

func newInStream(c *Conn, id int64) *InStream {
	s := &InStream{c: c, id: id, active: time.Now()}
	s.changed.L = &s.mu
	return s
}

// ID is the number that the client gave the stream.
func (s *InStream) ID() int64 { return s.id }

// LastActivity is when the client last sent something for this stream.
func (s *InStream) LastActivity() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.active
}

// Read returns data as it arrives, io.EOF at the end, and an
// *api.RemoteError when the client ended the stream with an error.
func (s *InStream) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.wait(); err != nil {
		return 0, err
	}
	if len(s.memory) == 0 {
		return s.readFile(p)
	}
	first := &s.memory[0]
	n := copy(p, first.data)
	first.data = first.data[n:]
	s.took(n)
	if len(first.data) == 0 {
		s.pop().free()
	}
	return n, nil
}

// WriteTo writes the whole stream to w without copying it first.
func (s *InStream) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for {
		c, err := s.next()
		if err != nil {
			return total, ignoreEOF(err)
		}
		n, err := w.Write(c.data)
		total += int64(n)
		c.buf.free()
		if err != nil {
			return total, err
		}
	}
}

// Close says that nobody reads the stream any more. A client that goes on to
// send is told so.
func (s *InStream) Close() error {
	s.drop(errStreamClosed)
	return nil
}

// Cancel is Close with a reason that the client is told at once, unless it
// has ended the stream. A Read that waits returns the reason.
func (s *InStream) Cancel(reason error) {
	if s.drop(reason) {
		s.tell(reason)
	}
}

// next takes the oldest chunk.
func (s *InStream) next() (chunk, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.wait(); err != nil {
		return chunk{}, err
	}
	if len(s.memory) > 0 {
		c := s.memory[0]
		s.took(len(c.data))
		return chunk{data: c.data, buf: s.pop()}, nil
	}
	buf := newInBuffer()
	n, err := s.readFile(buf.b)
	if err != nil {
		buf.free()
		return chunk{}, err
	}
	return chunk{data: buf.b[:n], buf: buf}, nil
}

// wait returns when there is data, or with what ends the stream. The lock is
// held.
func (s *InStream) wait() error {
	for {
		switch {
		case s.closed != nil:
			return s.closed
		case len(s.memory) > 0 || s.file != nil && s.file.unread() > 0:
			return nil
		case s.err != nil:
			s.release()
			return s.err
		}
		s.changed.Wait()
	}
}

// readFile reads from the file, without the lock while the disk works.
func (s *InStream) readFile(p []byte) (int, error) {
	at, unread := s.file.took, s.file.unread()
	s.mu.Unlock()
	n, err := s.file.readAt(p, at, unread)
	s.mu.Lock()
	switch {
	case s.closed != nil:
		return 0, s.closed
	case err != nil:
		return 0, err
	}
	s.file.took += int64(n)
	s.changed.Broadcast()
	return n, nil
}

func (s *InStream) took(n int) {
	s.inMemory -= int64(n)
	s.c.memory.Add(-int64(n))
	s.changed.Broadcast()
}

func (s *InStream) pop() *inBuffer {
	buf := s.memory[0].buf
	s.memory[0] = chunk{}
	s.memory = s.memory[1:]
	if len(s.memory) == 0 {
		s.memory = nil
	}
	return buf
}

// put adds data that the client sent. It owns buf. Only the connection's
// reader calls it.
func (s *InStream) put(data []byte, buf *inBuffer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active = time.Now()
	switch {
	case s.closed != nil && s.err == nil && !s.told:
		s.told = true
		reason := s.closed
		s.c.spawn(func() { s.tell(reason) }) // the reader never waits for a slow client
	case s.closed != nil || s.err != nil || len(data) == 0:
	case s.fitsMemory(len(data)):
		s.putMemory(data, buf)
		return
	default:
		s.putFile(data)
	}
	buf.free()
}

// smallChunk is the size from which on data stays in the buffer that it came
// in. Smaller data is copied together, so that a client that sends byte by
// byte takes no more memory than is counted.
const smallChunk = 64 << 10

func (s *InStream) putMemory(data []byte, buf *inBuffer) {
	s.inMemory += int64(len(data))
	s.c.memory.Add(int64(len(data)))
	s.changed.Broadcast()
	if len(data) >= smallChunk {
		s.memory = append(s.memory, chunk{data, buf})
		return
	}
	if last := len(s.memory) - 1; last >= 0 && s.memory[last].buf == nil && cap(s.memory[last].data)-len(s.memory[last].data) >= len(data) {
		s.memory[last].data = append(s.memory[last].data, data...)
	} else {
		room := len(data)
		if last >= 0 {
			room = max(room, smallChunk/4)
		}
		s.memory = append(s.memory, chunk{data: append(make([]byte, 0, room), data...)})
	}
	buf.free()
}

// fitsMemory says whether data may wait in memory: only as long as none
// waits in the file, which comes behind.
func (s *InStream) fitsMemory(n int) bool {
	l := &s.c.limits
	return (s.file == nil || s.file.unread() == 0) &&
		(len(s.memory) == 0 || s.inMemory+int64(n) <= l.StreamMemory) &&
		s.c.memory.Load()+int64(n) <= l.ConnMemory
}

// putFile stores data in the file, and waits for room there. The lock is
// held, except while the disk works.
func (s *InStream) putFile(data []byte) {
	if s.file == nil {
		file, err := newSpill(s.c.limits.SpillDir, s.c.limits.StreamSpill)
		if err != nil {
			s.err = err
			s.changed.Broadcast()
			return
		}
		s.file = file
	}
	for len(data) > 0 {
		if !s.waitForRoom() {
			return
		}
		n := min(int64(len(data)), s.file.free())
		s.mu.Unlock()
		err := s.file.writeAt(data[:n], s.file.put)
		s.mu.Lock()
		if err != nil {
			s.err = err
			s.changed.Broadcast()
			return
		}
		s.file.put += n
		data = data[n:]
		s.changed.Broadcast()
	}
}

// waitForRoom stops the connection's reader until the file takes more; false
// when nobody wants that any more. The lock is held.
func (s *InStream) waitForRoom() bool {
	if s.file.free() > 0 {
		return s.closed == nil
	}
	wake := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.changed.Broadcast()
	}
	defer context.AfterFunc(s.c.ctx, wake)()
	// The call that asks for it may be behind this message: waiting for that
	// could last for ever.
	patience, cancel := context.WithTimeout(s.c.ctx, s.c.limits.ClaimWait)
	defer cancel()
	defer context.AfterFunc(patience, wake)()
	for s.file.free() == 0 && s.closed == nil && s.c.ctx.Err() == nil {
		if !s.claimed && patience.Err() != nil {
			s.overflow()
			return false
		}
		s.changed.Wait()
	}
	return s.file.free() > 0 && s.closed == nil
}

// overflow gives up a stream of which too much came before anybody asked for
// it. The lock is held.
func (s *InStream) overflow() {
	s.err = NewError("RangeError", "ENOBUFS",
		"more than %d bytes of the stream came before the call that uses it: make the call first", s.c.limits.StreamSpill)
	s.empty()
	s.file.close()
	s.file = nil
}

// empty frees the data in memory. The lock is held.
func (s *InStream) empty() {
	s.c.memory.Add(-s.inMemory)
	s.inMemory = 0
	for len(s.memory) > 0 {
		s.pop().free()
	}
}

// end records that no more data comes: io.EOF or why.
func (s *InStream) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active = time.Now()
	if s.err == nil {
		s.err = err
	}
	s.changed.Broadcast()
}

// claim hands the stream to a reader; false when it has one already.
func (s *InStream) claim() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.claimed
	s.claimed = true
	s.changed.Broadcast()
	return !was
}

// disconnect is the connection's end: a reader still gets what has arrived.
func (s *InStream) disconnect() {
	s.end(ErrConnClosed)
	s.mu.Lock()
	claimed := s.claimed
	s.mu.Unlock()
	if !claimed {
		s.drop(ErrConnClosed)
	}
}

// drop frees everything and says whether the client still has to be told.
func (s *InStream) drop(reason error) (tell bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed != nil {
		return false
	}
	s.closed = reason
	s.unread.Store(true)
	s.empty()
	s.changed.Broadcast()
	if s.file != nil {
		s.file.close()
	}
	if s.err != nil {
		s.c.forgetIn(s)
		return false
	}
	return true
}

// release frees what a stream that was read to its end still holds.
func (s *InStream) release() {
	if s.file != nil {
		s.file.close()
		s.file = nil
	}
	s.c.forgetIn(s)
}

// tell asks the client to stop sending.
func (s *InStream) tell(reason error) {
	s.mu.Lock()
	s.told = true
	s.mu.Unlock()
	s.c.forgetIn(s)
	o := newOutBuffer()
	defer o.free()
	o.b = appendStreamError(o.b, api.NotifyStreamCancel, s.id, "reason", FromOS("", reason))
	_ = s.c.send(o)
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// dropped says whether nobody reads the stream any more. It takes no lock:
// the connection asks while it holds its own.
func (s *InStream) dropped() bool { return s.unread.Load() }
