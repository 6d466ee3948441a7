package rpc

import (
	"fmt"
	"io"
	"os"
)

// spill is a queue of bytes in an unlinked file, which is used as a ring so
// that it never grows over its limit. One goroutine puts and one takes; the
// owner serialises the positions.
type spill struct {
	f         *os.File
	limit     int64
	put, took int64 // positions in the whole stream
}

func newSpill(dir string, limit int64) (*spill, error) {
	f, err := os.CreateTemp(dir, ".atoll-stream-*")
	if err != nil {
		return nil, fmt.Errorf("make stream buffer: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("make stream buffer: %w", err)
	}
	return &spill{f: f, limit: limit}, nil
}

// unread is how many bytes wait.
func (s *spill) unread() int64 { return s.put - s.took }

// free is how many more bytes fit.
func (s *spill) free() int64 { return s.limit - s.unread() }

// writeAt stores p, which must fit, behind position at.
func (s *spill) writeAt(p []byte, at int64) error {
	for len(p) > 0 {
		off := at % s.limit
		n := min(int64(len(p)), s.limit-off)
		if _, err := s.f.WriteAt(p[:n], off); err != nil {
			return err
		}
		p, at = p[n:], at+n
	}
	return nil
}

// readAt fills a part of p from position at, at most unread bytes.
func (s *spill) readAt(p []byte, at, unread int64) (int, error) {
	off := at % s.limit
	n := min(int64(len(p)), unread, s.limit-off)
	got, err := s.f.ReadAt(p[:n], off)
	if got > 0 {
		return got, nil
	}
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return 0, err
}

func (s *spill) close() { _ = s.f.Close() }
