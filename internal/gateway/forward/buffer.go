package forward

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"

	"github.com/atollhq/atoll/internal/gateway/rawfd"

	"golang.org/x/sys/unix"
)

// The sizes of buffers, in bytes. Where the card takes packets of 65520 bytes,
// this is what the payload of one holds, whatever its headers: what is read at
// once goes on without a small packet at its end.
const (
	payload    = 65448
	smallSize  = payload
	packetSize = 64 << 10     // any datagram
	largeSize  = 16 * payload // fewer reads, and fewer times that somebody is woken
)

// buffer is memory that belongs to a pool.
type buffer struct {
	bytes []byte
	pool  *pool
}

// pool lends buffers of one size.
type pool struct{ free sync.Pool }

func newPool(size int) *pool {
	p := new(pool)
	p.free.New = func() any { return &buffer{bytes: make([]byte, size), pool: p} }
	return p
}

func (p *pool) take() *buffer { return p.free.Get().(*buffer) }

var small, packets, large = newPool(smallSize), newPool(packetSize), newPool(largeSize)

// release gives a buffer back. It ignores nil.
func release(b *buffer) {
	if b != nil {
		b.pool.free.Put(b)
	}
}

// reader returns a function that waits until c has something and reads it
// into a buffer taken only then. For connections without a descriptor the
// buffer is taken at once. With stream set, zero bytes mean the end.
func reader(c net.Conn, stream bool, from *pool) func() (*buffer, int, error) {
	if raw := rawOf(c); raw != nil {
		return func() (*buffer, int, error) { return readRaw(raw, stream, from) }
	}
	return func() (*buffer, int, error) { return readInto(c, from) }
}

// rawOf returns nil for connections without a descriptor.
func rawOf(c net.Conn) syscall.RawConn {
	if sc, ok := c.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			return raw
		}
	}
	return nil
}

func readInto(r io.Reader, from *pool) (*buffer, int, error) {
	buf := from.take()
	n, err := r.Read(buf.bytes)
	return buf, n, err
}

func readRaw(raw syscall.RawConn, stream bool, from *pool) (buf *buffer, n int, err error) {
	werr := raw.Read(func(fd uintptr) bool {
		buf = from.take()
		n, err = rawfd.Read(fd, buf.bytes, nil)
		if err == unix.EAGAIN {
			release(buf)
			buf = nil
			return false
		}
		return true
	})
	switch {
	case werr != nil:
		return nil, 0, werr
	case err != nil:
		return buf, 0, os.NewSyscallError("read", err)
	case n == 0 && stream:
		return buf, 0, io.EOF
	}
	return buf, n, nil
}

// writeRaw writes all of b, and waits where it must.
func writeRaw(raw syscall.RawConn, b []byte) (n int, err error) {
	werr := raw.Write(func(fd uintptr) bool {
		for err = nil; n < len(b) && err == nil; {
			var wrote int
			wrote, err = rawfd.Write(fd, b[n:])
			n += wrote
		}
		return err != unix.EAGAIN
	})
	switch {
	case werr != nil:
		return n, werr
	case err != nil:
		return n, os.NewSyscallError("write", err)
	}
	return n, nil
}
