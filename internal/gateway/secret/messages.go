package secret

import "encoding/binary"

// messages rewrites a stream of gRPC messages: each is a flag, a length and so
// many bytes. No needle is in two of them, so that none is ever held up.
type messages struct {
	inner Rewriter // keeps lengths
	head  []byte
	left  uint32 // bytes of the message that haven't come yet
}

const (
	messageHead       = 5
	messageCompressed = 1
	messageTrailer    = 0x80 // gRPC-Web's last message
)

var errHead = refuse(CodeResponseNotReadable, "the server's gRPC messages are malformed, and a value in them would not be found")

// Rewrite implements Rewriter.
func (g *messages) Rewrite(dst, piece []byte, last bool) ([]byte, error) {
	var err error
	for len(piece) > 0 {
		if g.left == 0 {
			n := min(messageHead-len(g.head), len(piece))
			g.head, piece = append(g.head, piece[:n]...), piece[n:]
			if dst, err = g.begin(dst); err != nil {
				return nil, err
			}
			continue
		}
		n := int(min(uint64(g.left), uint64(len(piece))))
		g.left -= uint32(n)
		if dst, err = g.inner.Rewrite(dst, piece[:n], g.left == 0); err != nil {
			return nil, err
		}
		piece = piece[n:]
	}
	switch {
	case last && len(g.head) > 0:
		return nil, errHead
	case last && g.left > 0: // cut off in the middle
		return g.inner.Rewrite(dst, nil, true)
	}
	return dst, nil
}

// begin reads the head of a message and passes it on once it is complete. No
// value has a zero byte, and so none reaches into a head that begins with one.
func (g *messages) begin(dst []byte) ([]byte, error) {
	switch flag := g.head[0]; {
	case flag&messageCompressed != 0:
		return nil, refuse(CodeResponseNotReadable, "the server compresses gRPC messages, which can't be read: send requests uncompressed")
	case flag != 0 && flag != messageTrailer:
		return nil, errHead
	case len(g.head) < messageHead:
		return dst, nil
	case flag == messageTrailer && g.head[1] != 0:
		return nil, errHead
	}
	dst = append(dst, g.head...)
	g.left = binary.BigEndian.Uint32(g.head[1:])
	g.head = g.head[:0]
	return dst, nil
}
