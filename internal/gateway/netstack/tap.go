package netstack

import (
	"fmt"
	"os"
	"syscall"

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
func (t *tap) ReadFrame(buf []byte) (int, error) { return t.file.Read(buf) }

// WriteFrame implements wire. A full queue drops the frame, as a wire would;
// a frame that the device refuses is lost too and ends nothing.
func (t *tap) WriteFrame(pieces [][]byte) error {
	return t.raw.Write(func(fd uintptr) bool {
		for {
			_, err := unix.Writev(int(fd), pieces)
			if err != unix.EINTR {
				return true
			}
		}
	})
}

// Close implements wire.
func (t *tap) Close() error { return t.file.Close() }
