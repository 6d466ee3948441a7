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
)

// Rewrite implements Rewriter.
func (g *messages) Rewrite(dst, piece []byte, last bool) ([]byte, error) {
	var err error
	for len(piece) > 0 {
		if g.left == 0 {
			n := min(messageHead-len(g.head), len(piece))
			g.head = append(g.head, piece[:n]...)
			dst, piece = append(dst, piece[:n]...), piece[n:]
			if err := g.begin(); err != nil {
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
	if last && g.left > 0 { // cut off in the middle
		return g.inner.Rewrite(dst, nil, true)
	}
	return dst, nil
}

// begin reads the head of a message once it is complete.
func (g *messages) begin() error {
	if len(g.head) < messageHead {
		return nil
	}
	if g.head[0]&messageCompressed != 0 {
		return refuse(CodeResponseNotReadable, "the server compresses gRPC messages, which can't be read: send requests uncompressed")
	}
	g.left = binary.BigEndian.Uint32(g.head[1:])
	g.head = g.head[:0]
	return nil
}
