package link

import (
	"encoding/binary"
	"errors"
	"io"
)

// ErrForbiddenFrame ends a session whose agent sent what only a shim may send.
var ErrForbiddenFrame = errors.New("link: the agent sent a frame that only the shim may send")

// The header of a yamux frame: version, type, flags (16 bits), stream id (32
// bits) and length (32 bits), big endian
// (https://github.com/hashicorp/yamux/blob/master/spec.md).
const (
	muxHeader   = 12
	muxTypeData = 0
	muxTypePing = 2
	muxFlagSYN  = 1
)

// inspected is the shim's view of the link. It lets no frame through that
// opens a stream or asks for an answer: the multiplexer starts a goroutine for
// each ping, which lives until its answer is written, and keeps what arrives
// on streams that nobody accepts. An agent that sends pings and reads nothing
// would take all of the host's memory.
//
// Only the multiplexer's reading goroutine calls Read.
type inspected struct {
	io.ReadWriteCloser
	header [muxHeader]byte
	have   int    // bytes of header that are there
	skip   uint32 // bytes of data before the next header
	err    error
}

// Read implements io.Reader.
func (c *inspected) Read(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.ReadWriteCloser.Read(p)
	if c.err = c.inspect(p[:n]); c.err != nil {
		return 0, c.err
	}
	return n, err
}

func (c *inspected) inspect(p []byte) error {
	for len(p) > 0 {
		if c.skip > 0 {
			n := min(uint32(len(p)), c.skip)
			c.skip -= n
			p = p[n:]
			continue
		}
		n := copy(c.header[c.have:], p)
		p = p[n:]
		if c.have += n; c.have < muxHeader {
			return nil
		}
		c.have = 0
		kind, flags := c.header[1], binary.BigEndian.Uint16(c.header[2:])
		if kind == muxTypePing || flags&muxFlagSYN != 0 {
			return ErrForbiddenFrame
		}
		if kind == muxTypeData {
			c.skip = binary.BigEndian.Uint32(c.header[8:])
		}
	}
	return nil
}
