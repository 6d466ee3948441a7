package process

import (
	"bytes"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// Tail keeps the last bytes written to it, for diagnosis. They may be the
// guest's and are hostile: bounded here, and stripped of what does not print.
type Tail struct {
	limit int

	mu  sync.Mutex
	buf []byte
}

// NewTail returns a tail that keeps so many bytes.
func NewTail(limit int) *Tail { return &Tail{limit: limit} }

// Write never fails.
func (t *Tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p[max(0, len(p)-t.limit):]...)
	if over := len(t.buf) - t.limit; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

func (t *Tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	clean := bytes.Map(func(r rune) rune {
		if r == '\n' || unicode.IsPrint(r) && r != utf8.RuneError {
			return r
		}
		return -1
	}, t.buf)
	return strings.TrimSpace(string(clean))
}
