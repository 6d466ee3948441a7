package netstack

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

const (
	streamHead   = 4         // bytes before a frame: its length, big endian
	streamReadBy = 128 << 10 // bytes read at once
	streamQueue  = 1 << 20   // bytes that wait for the guest, at most
	streamKeep   = 256 << 10 // bytes of queue kept for the next use

	// streamPatience is how long a full queue holds up its writers before it
	// loses frames. Holding up is what keeps a burst from becoming loss;
	// losing is what keeps a guest that never reads from stopping us.
	streamPatience = time.Second
)

// errFrameSize is fatal: after a wrong length nothing in a stream is certain.
var errFrameSize = errors.New("frame of impossible size in the stream")

// stream is a wire whose frames stand one after the other in a byte stream,
// each behind its length: what QEMU's "-netdev stream" speaks.
//
// The other end decides when it reads. Frames therefore wait in a queue that
// is bounded in bytes and is drained by a goroutine of its own; a full queue
// holds up its writers for a moment.
type stream struct {
	file *os.File
	in   *bufio.Reader
	done sync.WaitGroup // the draining goroutine

	mu     sync.Mutex    // guards the following
	wake   sync.Cond     // the queue is not empty, or closed is set
	room   chan struct{} // closed, and made anew, when the queue is emptied
	queue  []byte        // whole frames, not yet being written
	stuck  bool          // patience has run out since the queue was last emptied
	closed bool
}

func newStream(file *os.File) (*stream, error) {
	s := &stream{file: file, in: bufio.NewReaderSize(file, streamReadBy), room: make(chan struct{})}
	s.wake.L = &s.mu
	s.done.Add(1)
	go s.drain()
	return s, nil
}

// ReadFrame implements wire.
func (s *stream) ReadFrame(head, body []byte) (int, error) { return readFrame(s.in, head, body) }

func readFrame(r io.Reader, head, body []byte) (int, error) {
	var prefix [streamHead]byte
	if _, err := io.ReadFull(r, prefix[:]); err != nil {
		return 0, err
	}
	size := int64(binary.BigEndian.Uint32(prefix[:]))
	if size == 0 || size > int64(len(head)+len(body)) {
		return 0, errFrameSize
	}
	head = head[:min(size, int64(len(head)))]
	for _, part := range [][]byte{head, body[:size-int64(len(head))]} {
		if _, err := io.ReadFull(r, part); err != nil {
			return 0, fmt.Errorf("read frame: %w", err)
		}
	}
	return int(size), nil
}

// WriteFrame implements wire.
func (s *stream) WriteFrame(pieces [][]byte) error {
	size := 0
	for _, p := range pieces {
		size += len(p)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.closed && len(s.queue)+streamHead+size > streamQueue {
		if s.stuck {
			return nil
		}
		s.awaitRoom()
	}
	if s.closed {
		return os.ErrClosed
	}
	s.queue = binary.BigEndian.AppendUint32(s.queue, uint32(size))
	for _, p := range pieces {
		s.queue = append(s.queue, p...)
	}
	s.wake.Signal()
	return nil
}

// awaitRoom waits, without the lock that it is called with, until the queue is
// emptied or patience runs out.
func (s *stream) awaitRoom() {
	room := s.room
	s.mu.Unlock()
	patience := time.NewTimer(streamPatience)
	defer patience.Stop()
	select {
	case <-room:
		s.mu.Lock()
	case <-patience.C:
		s.mu.Lock()
		s.stuck = s.room == room
	}
}

// drain writes what is queued, all of it at once.
func (s *stream) drain() {
	defer s.done.Done()
	var batch []byte
	for {
		var ok bool
		if batch, ok = s.next(batch); !ok {
			return
		}
		if _, err := s.file.Write(batch); err != nil {
			s.shut()
			return
		}
	}
}

// next waits for frames and takes them. The frames written before give their
// memory to the queue, unless a burst has made it large.
func (s *stream) next(written []byte) (batch []byte, ok bool) {
	if cap(written) > streamKeep {
		written = nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.queue) == 0 && !s.closed {
		s.wake.Wait()
	}
	batch, s.queue = s.queue, written[:0]
	s.renewRoom()
	return batch, !s.closed
}

// renewRoom lets the writers go on. It is called with the lock held.
func (s *stream) renewRoom() {
	s.stuck = false
	close(s.room)
	s.room = make(chan struct{})
}

func (s *stream) shut() {
	s.mu.Lock()
	s.closed = true
	s.renewRoom()
	s.mu.Unlock()
	s.wake.Signal()
}

// Close implements wire.
func (s *stream) Close() error {
	s.shut()
	err := s.file.Close()
	s.done.Wait()
	return err
}
