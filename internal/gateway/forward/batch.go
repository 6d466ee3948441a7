package forward

// batched reads a connection to the world in large pieces, for readers that
// take little at a time. A piece is in a buffer of the pool only until it is
// used up. One goroutine reads at a time.
type batched struct {
	*upEnd
	buf  *buffer
	rest []byte // of buf
}

// Read implements io.Reader.
func (b *batched) Read(p []byte) (int, error) {
	if len(b.rest) == 0 {
		buf, n, err := b.next()
		if n == 0 {
			release(buf)
			return 0, err
		}
		b.buf, b.rest = buf, buf.bytes[:n]
	}
	n := copy(p, b.rest)
	if b.rest = b.rest[n:]; len(b.rest) == 0 {
		release(b.buf)
		b.buf = nil
	}
	return n, nil
}
