package microvm

import (
	"bytes"
	"io"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	tailBytes = 4 << 10               // kept of what QEMU and the guest's kernel print, for diagnosis
	drainRest = 20 * time.Millisecond // between reads, so that a guest that floods its console keeps nobody busy
)

// tail keeps the last bytes written to it. They are hostile: bounded here, and
// stripped of what does not print.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

func newTail() *tail { return &tail{} }

// Write never fails.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p[max(0, len(p)-tailBytes):]...)
	if over := len(t.buf) - tailBytes; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
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

// drain reads a console to its end, which is QEMU's, and closes it and
// drained.
func (t *tail) drain(r io.ReadCloser, drained chan<- struct{}) {
	defer close(drained)
	defer func() { _ = r.Close() }()
	buf := make([]byte, tailBytes)
	for {
		n, err := r.Read(buf)
		_, _ = t.Write(buf[:n])
		if err != nil {
			return
		}
		time.Sleep(drainRest) // QEMU passes on each byte alone
	}
}
