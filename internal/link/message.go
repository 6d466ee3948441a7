package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A message is a sequence of frames. Each frame is a 32-bit big-endian word
// and as many bytes as its low 31 bits say; the top bit is set on every frame
// but a message's last. Frames let a relay pass a large message on without
// holding all of it.

const (
	// MaxFrame bounds the bytes in one frame.
	MaxFrame = 256 << 10

	moreBit = 1 << 31
)

// Errors of the message parser.
var (
	ErrFrameTooLarge   = errors.New("link: frame over the limit")
	ErrMessageTooLarge = errors.New("link: message over the limit")
)

// WriteMessage writes msg in one or more frames. Each frame is one Write.
func WriteMessage(w io.Writer, msg []byte) error {
	buf := make([]byte, 0, 4+min(len(msg), MaxFrame))
	for {
		chunk := msg[:min(len(msg), MaxFrame)]
		msg = msg[len(chunk):]
		buf = AppendFrame(buf[:0], chunk, len(msg) > 0)
		if _, err := w.Write(buf); err != nil {
			return err
		}
		if len(msg) == 0 {
			return nil
		}
	}
}

// AppendFrame appends one frame to buf. The chunk must not exceed MaxFrame.
func AppendFrame(buf, chunk []byte, more bool) []byte {
	word := uint32(len(chunk))
	if more {
		word |= moreBit
	}
	buf = binary.BigEndian.AppendUint32(buf, word)
	return append(buf, chunk...)
}

// FrameReader reads frames from a stream. It does not buffer ahead of a
// frame's end more than r does.
type FrameReader struct {
	r io.Reader
}

// NewFrameReader returns a reader of r's frames.
func NewFrameReader(r io.Reader) *FrameReader { return &FrameReader{r: r} }

// Next reads one frame into buf, which grows as needed up to MaxFrame, and
// returns its bytes and whether the message goes on. At a message boundary
// the end of the stream is io.EOF, inside a frame io.ErrUnexpectedEOF.
func (f *FrameReader) Next(buf []byte) (chunk []byte, more bool, err error) {
	var head [4]byte
	if _, err := io.ReadFull(f.r, head[:]); err != nil {
		return nil, false, err
	}
	word := binary.BigEndian.Uint32(head[:])
	size := int(word &^ moreBit)
	more = word&moreBit != 0
	if size > MaxFrame {
		return nil, false, ErrFrameTooLarge
	}
	if more && size == 0 {
		return nil, false, fmt.Errorf("link: empty frame inside a message")
	}
	if cap(buf) < size {
		buf = make([]byte, size)
	}
	buf = buf[:size]
	if _, err := io.ReadFull(f.r, buf); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, false, err
	}
	return buf, more, nil
}

// ReadMessage reads a whole message of at most limit bytes. The result is the
// caller's.
func (f *FrameReader) ReadMessage(limit int) ([]byte, error) {
	chunk, more, err := f.Next(nil)
	if err != nil {
		return nil, err
	}
	msg := chunk
	var buf []byte
	for more {
		chunk, more, err = f.Next(buf)
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		buf = chunk
		if len(msg)+len(chunk) > limit {
			return nil, ErrMessageTooLarge
		}
		msg = append(msg, chunk...)
	}
	if len(msg) > limit {
		return nil, ErrMessageTooLarge
	}
	return msg, nil
}
