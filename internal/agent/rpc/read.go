package rpc

import (
	"errors"
	"io"
	"sync"

	"github.com/atollhq/atoll/internal/link"
)

// inBuffer is memory that a message was read into. Nil is a buffer that the
// garbage collector takes care of.
type inBuffer struct{ b []byte }

var inBuffers = sync.Pool{New: func() any {
	return &inBuffer{b: make([]byte, link.MaxFrame)}
}}

func newInBuffer() *inBuffer { return inBuffers.Get().(*inBuffer) }

func (b *inBuffer) free() {
	if b != nil {
		inBuffers.Put(b)
	}
}

// smallMessage is the size up to which a message is copied out of the read
// buffer: most calls are this small.
const smallMessage = 16 << 10

// reader reads whole messages. It belongs to one goroutine.
type reader struct {
	frames *link.FrameReader
	limit  int // bytes in one message
}

// next returns a message and, when its memory is to be used again, the
// buffer that it stands in. At the end of the stream the error is io.EOF.
func (r *reader) next() ([]byte, *inBuffer, error) {
	buf := newInBuffer()
	part, more, err := r.frames.Next(buf.b)
	switch {
	case err != nil:
		buf.free()
		return nil, nil, err
	case len(part) > r.limit:
		buf.free()
		return nil, nil, link.ErrMessageTooLarge
	case more:
		msg, err := r.rest(append(make([]byte, 0, 4*link.MaxFrame), part...))
		buf.free()
		return msg, nil, err
	case len(part) <= smallMessage:
		msg := append([]byte(nil), part...)
		buf.free()
		return msg, nil, nil
	}
	return part, buf, nil
}

// rest reads a message's further frames behind msg, straight into its place.
func (r *reader) rest(msg []byte) ([]byte, error) {
	for more := true; more; {
		if cap(msg)-len(msg) < link.MaxFrame {
			msg = append(make([]byte, 0, r.grown(cap(msg))), msg...)
		}
		var part []byte
		var err error
		part, more, err = r.frames.Next(msg[len(msg):cap(msg)])
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		msg = msg[:len(msg)+len(part)]
		if len(msg) > r.limit {
			return nil, link.ErrMessageTooLarge
		}
	}
	return msg, nil
}

// grown is the next size of a buffer: doubled, but not far over the limit.
func (r *reader) grown(size int) int {
	return max(min(2*size, r.limit+link.MaxFrame), size+link.MaxFrame)
}
