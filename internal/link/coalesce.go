package link

import (
	"encoding/binary"
	"io"
)

// The multiplexer writes a frame's header and its body one after the other.
// In a machine each write is a costly system call and wakes the other side,
// and these are most of what a small call takes.

// maxJoined is the largest body, in bytes, that is worth a copy.
const maxJoined = 16 << 10

// coalescer joins the header of a data frame with the body that follows it.
// The multiplexer writes from one goroutine.
type coalescer struct {
	io.ReadWriteCloser
	header [muxHeader]byte
	held   bool
	joined []byte // header and body, reused
}

// Write holds a data frame's header back until the body comes.
func (c *coalescer) Write(p []byte) (int, error) {
	if c.held {
		return c.writeBoth(p)
	}
	if len(p) == muxHeader && p[1] == muxTypeData && binary.BigEndian.Uint32(p[8:]) > 0 {
		copy(c.header[:], p)
		c.held = true
		return len(p), nil
	}
	return c.ReadWriteCloser.Write(p)
}

func (c *coalescer) writeBoth(p []byte) (int, error) {
	c.held = false
	if len(p) > maxJoined {
		if _, err := c.ReadWriteCloser.Write(c.header[:]); err != nil {
			return 0, err
		}
		return c.ReadWriteCloser.Write(p)
	}
	c.joined = append(append(c.joined[:0], c.header[:]...), p...)
	n, err := c.ReadWriteCloser.Write(c.joined)
	return max(0, n-muxHeader), err
}
