package intercept

import (
	"encoding/binary"
	"io"
	"net"
)

// Numbers of HTTP/2 (RFC 9113).
const (
	frameData    = 0
	frameHeaders = 1
	frameReset   = 3
	frameUpdate  = 8

	frameHead     = 9 // bytes
	updateSize    = frameHead + 4
	flagEndStream = 1

	preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
)

const (
	// Bytes that a guest may send less than it could, at most: the rest of a
	// window keeps it busy until it hears of them.
	heldOfStream     = window / 4
	heldOfConnection = 2 * heldOfStream

	maxHeld = 64 // streams
)

// updates is a guest's connection whose server speaks HTTP/2, in which the
// server's window updates wait until they are worth a packet: net/http writes
// two with every read of a body, and a guest that uploads would do little else
// than wake up for them. As TLS does, it has one writer at a time.
type updates struct {
	net.Conn
	preface string // what the guest must still begin with

	out  []byte            // memory for what is written
	part []byte            // of a frame's head, or of an update, until it is complete
	left int               // of the frame's payload
	held map[uint32]uint32 // bytes that the guest isn't yet told of, by stream; 0 is the connection
}

func newUpdates(c net.Conn) *updates {
	return &updates{Conn: c, preface: preface, held: map[uint32]uint32{}}
}

// NetConn is what the connection is made of.
func (u *updates) NetConn() net.Conn { return u.Conn }

// Read implements io.Reader. What begins with anything but HTTP/2 ends there:
// the server would take it for HTTP/1.1.
func (u *updates) Read(b []byte) (int, error) {
	n, err := u.Conn.Read(b)
	m := min(n, len(u.preface))
	if string(b[:m]) != u.preface[:m] {
		return 0, io.EOF
	}
	u.preface = u.preface[m:]
	return n, err
}

// Write implements io.Writer.
func (u *updates) Write(b []byte) (int, error) {
	out := u.pass(b)
	if len(out) == 0 {
		return len(b), nil
	}
	if _, err := u.Conn.Write(out); err != nil {
		return 0, err
	}
	return len(b), nil
}

// pass returns what remains of b. The result is valid until the next call.
func (u *updates) pass(b []byte) []byte {
	if u.isPayload(b) {
		u.left -= len(b)
		return b
	}
	out := u.out[:0]
	for len(b) > 0 {
		n := min(u.left, len(b))
		out, b, u.left = append(out, b[:n]...), b[n:], u.left-n
		n = min(u.missing(), len(b))
		u.part, b = append(u.part, b[:n]...), b[n:]
		if u.missing() == 0 {
			out = u.begin(out, u.part)
			u.part = u.part[:0]
		}
	}
	u.out = out
	return out
}

// isPayload reports whether b is nothing but a piece of a frame that is no
// update, and may hold its head. Such pieces are large, and not copied.
func (u *updates) isPayload(b []byte) bool {
	if u.left > 0 || len(u.part) > 0 || len(b) < frameHead || b[3] == frameUpdate {
		return len(b) <= u.left
	}
	if len(b) > frameHead+payloadSize(b) {
		return false
	}
	u.begin(nil, b[:frameHead])
	u.left += frameHead
	return true
}

// missing is how much the part lacks.
func (u *updates) missing() int {
	if len(u.part) >= frameHead && u.part[3] == frameUpdate {
		return updateSize - len(u.part)
	}
	return frameHead - len(u.part)
}

func payloadSize(head []byte) int {
	return int(head[0])<<16 | int(head[1])<<8 | int(head[2])
}

// begin takes a frame's head, or an update, and appends what goes on.
func (u *updates) begin(dst, head []byte) []byte {
	kind, flags, stream := head[3], head[4], binary.BigEndian.Uint32(head[5:])
	if kind == frameUpdate {
		return u.hold(dst, stream, binary.BigEndian.Uint32(head[frameHead:]))
	}
	u.left = payloadSize(head)
	if kind == frameReset || (kind == frameData || kind == frameHeaders) && flags&flagEndStream != 0 {
		delete(u.held, stream)
	}
	return append(dst, head...)
}

// hold adds to what a stream holds, and appends the update when it is enough.
func (u *updates) hold(dst []byte, stream, n uint32) []byte {
	n += u.held[stream]
	if stream == 0 && n >= heldOfConnection || stream != 0 && n >= heldOfStream {
		delete(u.held, stream)
		return appendUpdate(dst, stream, n)
	}
	if u.held[stream] = n; len(u.held) <= maxHeld {
		return dst
	}
	for stream, n := range u.held { // the guest has ended some of them
		dst = appendUpdate(dst, stream, n)
	}
	clear(u.held)
	return dst
}

func appendUpdate(dst []byte, stream, n uint32) []byte {
	dst = append(dst, 0, 0, 4, frameUpdate, 0)
	dst = binary.BigEndian.AppendUint32(dst, stream)
	return binary.BigEndian.AppendUint32(dst, n)
}
