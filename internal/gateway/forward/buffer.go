package forward

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// buffer holds the largest segment or datagram.
type buffer [64 << 10]byte

var pool = sync.Pool{New: func() any { return new(buffer) }}

func take() *buffer { return pool.Get().(*buffer) }

// release gives a buffer back. It ignores nil.
func release(b *buffer) {
	if b != nil {
		pool.Put(b)
	}
}

// reader returns a function that waits until c has something and reads it
// into a buffer taken only then. For connections without a descriptor the
// buffer is taken at once. With stream set, zero bytes mean the end.
func reader(c net.Conn, stream bool) func() (*buffer, int, error) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return func() (*buffer, int, error) { return readInto(c) }
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return func() (*buffer, int, error) { return readInto(c) }
	}
	return func() (*buffer, int, error) { return readRaw(raw, stream) }
}

func readInto(r io.Reader) (*buffer, int, error) {
	buf := take()
	n, err := r.Read(buf[:])
	return buf, n, err
}

func readRaw(raw syscall.RawConn, stream bool) (buf *buffer, n int, err error) {
	werr := raw.Read(func(fd uintptr) bool {
		buf = take()
		n, err = readOnce(int(fd), buf)
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

// readOnce is read(2), repeated when a signal interrupts it.
func readOnce(fd int, buf *buffer) (int, error) {
	for {
		n, err := unix.Read(fd, buf[:])
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}
