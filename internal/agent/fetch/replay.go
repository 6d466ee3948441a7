package fetch

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"
)

const (
	// maxReplay is how many bytes of a request's body are kept to send them
	// again after a redirect, and to tell the server their number in advance.
	maxReplay = 1 << 20
	// settle is how long a request waits for its body to be complete before
	// it goes out with a body of unknown length. Servers that can't take
	// chunked bodies are common; bodies that arrive whole are, too.
	settle = 30 * time.Millisecond
)

// replay is a request body that can be sent again as long as it is short.
//
// One goroutine, the pump, reads the source into the buffer until the end or
// the limit; what comes after the limit is read straight from the source.
type replay struct {
	src  io.ReadCloser
	full chan struct{} // closed when the pump is done

	pumping, closing sync.Once

	mu    sync.Mutex
	more  chan struct{} // replaced and closed when the buffer grew
	buf   []byte
	err   error // why the pump stopped; nil: the buffer is full
	pass  int   // counts rewinds: readers of an earlier pass get nothing more
	spent bool  // bytes beyond the buffer were read: no way back
}

// newReplay takes over src, which may be nil.
func newReplay(src io.ReadCloser) *replay {
	return &replay{src: src, full: make(chan struct{}), more: make(chan struct{})}
}

// close ends the upload. It is idempotent; requests that still send the body
// fail.
func (r *replay) close() {
	if r.src == nil {
		return
	}
	r.closing.Do(func() { r.src.Close() })
}

// open returns the body from its start and its length, -1 if not yet known.
func (r *replay) open(ctx context.Context) (io.ReadCloser, int64) {
	r.pumping.Do(func() { go r.pump() }) // ends with the source, at the latest by close
	timer := time.NewTimer(settle)
	defer timer.Stop()
	select {
	case <-r.full:
	case <-timer.C:
	case <-ctx.Done():
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	length := int64(-1)
	if r.err == io.EOF {
		length = int64(len(r.buf))
	}
	return &replayReader{replay: r, pass: r.pass}, length
}

// rewind makes the body ready to be opened again, if that is possible.
func (r *replay) rewind() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pass++
	return !r.spent
}

func (r *replay) pump() {
	defer close(r.full)
	chunk := make([]byte, 32<<10)
	for size := 0; size < maxReplay; {
		n, err := r.src.Read(chunk[:min(len(chunk), maxReplay-size)])
		size += n
		r.mu.Lock()
		r.buf = append(r.buf, chunk[:n]...)
		r.err = err
		close(r.more)
		r.more = make(chan struct{})
		r.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// replayReader is one pass over the body.
type replayReader struct {
	*replay
	at, pass int
}

// errSuperseded stops the transport from sending a body whose request was
// already redirected.
var errSuperseded = errors.New("the request was redirected")

func (r *replayReader) Read(p []byte) (int, error) {
	for {
		n, err, wait := r.buffered(p)
		if n > 0 || err != nil {
			return n, err
		}
		select {
		case <-wait:
		case <-r.full:
			if n, err, _ := r.buffered(p); n > 0 || err != nil {
				return n, err
			}
			return r.beyond(p)
		}
	}
}

// buffered reads from the buffer; without anything there it says what to
// wait for.
func (r *replayReader) buffered(p []byte) (int, error, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := copy(p, r.buf[r.at:])
	r.at += n
	if n > 0 {
		return n, nil, nil
	}
	return 0, r.err, r.more
}

func (r *replayReader) beyond(p []byte) (int, error) {
	r.mu.Lock()
	if r.pass != r.replay.pass {
		r.mu.Unlock()
		return 0, errSuperseded
	}
	r.spent = true
	r.mu.Unlock()
	return r.src.Read(p)
}

// Close is called by the transport when it no longer sends this pass; the
// source stays open for the next one.
func (r *replayReader) Close() error { return nil }
