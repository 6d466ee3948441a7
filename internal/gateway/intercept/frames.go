package intercept

import (
	"crypto/rand"
	"encoding/binary"

	"github.com/atollhq/atoll/internal/gateway/secret"
)

// Numbers of WebSocket (RFC 6455).
const (
	opContinuation = 0
	opText         = 1
	opBinary       = 2
	opClose        = 8
	opPong         = 10

	finBit    = 0x80
	maskBit   = 0x80
	maxHeader = 14
	maxInline = 125 // bytes whose number fits into the second byte; of a control frame at most
)

// frames rewrites the messages in one direction of a WebSocket. A frame may
// become several, since nothing waits for its end; control frames are taken
// whole.
type frames struct {
	masked                bool            // as the guest's are
	text, binary, control secret.Rewriter // nil leaves as it is

	head    []byte // of a frame, until it is complete
	inside  bool   // a frame's payload is being read
	opcode  byte
	final   bool
	left    uint64 // of the payload
	mask    [4]byte
	at      int    // place in the mask
	whole   []byte // payload of a control frame
	message byte   // opcode of the message under way; 0 for none
	begun   bool   // a frame of the message was passed on
}

// newFrames returns nil when nothing is to be rewritten.
func newFrames(masked bool, text, binary, control secret.Rewriter) *frames {
	if text == nil && binary == nil && control == nil {
		return nil
	}
	return &frames{masked: masked, text: text, binary: binary, control: control}
}

// next takes what comes next and appends what can be passed on to dst.
func (f *frames) next(dst, b []byte) (_ []byte, err error) {
	for len(b) > 0 {
		if !f.inside {
			if b, err = f.begin(b); err != nil {
				return dst, err
			}
			if !f.inside {
				return dst, nil // b is used up
			}
			if f.left > 0 {
				continue
			}
		}
		n := int(min(f.left, uint64(len(b))))
		f.left -= uint64(n)
		if dst, err = f.payload(dst, b[:n]); err != nil {
			return dst, err
		}
		b = b[n:]
		f.inside = f.left > 0
	}
	return dst, nil
}

// begin reads a frame's header and returns what follows it.
func (f *frames) begin(b []byte) (rest []byte, err error) {
	for len(b) > 0 {
		f.head, b = append(f.head, b[0]), b[1:]
		if len(f.head) == headerSize(f.head) {
			f.inside = true
			err = f.parse()
			f.head = f.head[:0]
			return b, err
		}
	}
	return b, nil
}

// headerSize is how long a header is, as far as its beginning tells.
func headerSize(h []byte) int {
	if len(h) < 2 {
		return 2
	}
	n := 2
	switch h[1] &^ maskBit {
	case 126:
		n += 2
	case 127:
		n += 8
	}
	if h[1]&maskBit != 0 {
		n += 4
	}
	return n
}

func (f *frames) parse() error {
	h := f.head
	f.opcode, f.final = h[0]&0x0f, h[0]&finBit != 0
	masked := h[1]&maskBit != 0
	f.left = uint64(h[1] &^ maskBit)
	rest := h[2:]
	switch f.left {
	case 126:
		f.left, rest = uint64(binary.BigEndian.Uint16(rest)), rest[2:]
	case 127:
		f.left, rest = binary.BigEndian.Uint64(rest), rest[8:]
	}
	f.mask, f.at = [4]byte{}, 0
	copy(f.mask[:], rest)
	switch {
	case h[0]&0x70 != 0:
		return badFrame("an extension that was not agreed on")
	case masked != f.masked:
		return badFrame("masked by the wrong side, or not at all")
	case f.left>>63 != 0:
		return badFrame("impossible length")
	}
	return f.order()
}

// order checks that a frame may come now.
func (f *frames) order() error {
	switch {
	case f.opcode >= opClose && f.opcode <= opPong:
		if !f.final || f.left > maxInline {
			return badFrame("a control frame that is too long or split")
		}
	case f.opcode == opContinuation && f.message != 0:
	case (f.opcode == opText || f.opcode == opBinary) && f.message == 0:
		f.message, f.begun = f.opcode, false
	default:
		return badFrame("a frame that can't come now")
	}
	return nil
}

// payload takes a piece of a frame's payload. The last piece of a frame may be
// empty.
func (f *frames) payload(dst, piece []byte) ([]byte, error) {
	plain := f.unmask(piece)
	if f.opcode >= opClose {
		f.whole = append(f.whole, plain...)
		if f.left > 0 {
			return dst, nil
		}
		whole, err := rewrite(f.control, f.whole, true)
		f.whole = f.whole[:0]
		return f.append(dst, f.opcode, true, whole), err
	}
	last := f.final && f.left == 0
	out, err := rewrite(f.rewriter(), plain, last)
	if err != nil || len(out) == 0 && !last {
		return dst, err
	}
	opcode := f.message
	if f.begun {
		opcode = opContinuation
	}
	f.begun = true
	if last {
		f.message = 0
	}
	return f.append(dst, opcode, last, out), nil
}

func (f *frames) rewriter() secret.Rewriter {
	if f.message == opText {
		return f.text
	}
	return f.binary
}

func rewrite(with secret.Rewriter, b []byte, last bool) ([]byte, error) {
	if with == nil {
		return b, nil
	}
	return with.Rewrite(nil, b, last)
}

func (f *frames) unmask(b []byte) []byte {
	if !f.masked {
		return b
	}
	out := make([]byte, len(b))
	for i, c := range b {
		out[i] = c ^ f.mask[(f.at+i)&3]
	}
	f.at = (f.at + len(b)) & 3
	return out
}

// append writes a frame.
func (f *frames) append(dst []byte, opcode byte, final bool, payload []byte) []byte {
	first, second := opcode, byte(0)
	if final {
		first |= finBit
	}
	if f.masked {
		second = maskBit
	}
	switch n := len(payload); {
	case n <= maxInline:
		dst = append(dst, first, second|byte(n))
	case n <= 0xffff:
		dst = binary.BigEndian.AppendUint16(append(dst, first, second|126), uint16(n))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, first, second|127), uint64(n))
	}
	if !f.masked {
		return append(dst, payload...)
	}
	var mask [4]byte
	_, _ = rand.Read(mask[:]) // never fails
	dst = append(dst, mask[:]...)
	for i, c := range payload {
		dst = append(dst, c^mask[i&3])
	}
	return dst
}
