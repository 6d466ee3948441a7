package netstack

import (
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/atollhq/atoll/internal/gateway/rawfd"

	"golang.org/x/sys/unix"
)

// tap is a wire on which each read and write is one frame: a TAP device, or a
// datagram socket in tests.
type tap struct {
	file *os.File
	raw  syscall.RawConn
}

func newTap(file *os.File) (*tap, error) {
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("open TAP: %w", err)
	}
	return &tap{file: file, raw: raw}, nil
}

// ReadFrame implements wire.
func (t *tap) ReadFrame(head, body []byte) (n int, err error) {
	closed := t.raw.Read(func(fd uintptr) bool {
		n, err = rawfd.Read(fd, head, body)
		return err != unix.EAGAIN
	})
	switch {
	case closed != nil:
		return 0, os.ErrClosed
	case err == nil && n == 0:
		return 0, io.EOF
	}
	return n, err
}

// WriteFrame implements wire. A full queue drops the frame, as a wire would;
// a frame that the device refuses is lost too and ends nothing.
func (t *tap) WriteFrame(pieces [][]byte) error {
	return t.raw.Write(func(fd uintptr) bool {
		_, _ = rawfd.Write(fd, pieces...)
		return true
	})
}

// Close implements wire.
func (t *tap) Close() error { return t.file.Close() }
