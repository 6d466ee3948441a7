package secret

import (
	"bytes"
	"io"
	"sync"
	"sync/atomic"
)

// maxTogether bounds the bodies of one sandbox that are held whole at a time.
// Beyond it, they stream.
const maxTogether = 64 << 20 // bytes

// budget counts bytes in use. Its zero value has used none.
type budget struct{ used atomic.Int64 }

// take reports whether size more bytes may be held.
func (b *budget) take(size int64) bool {
	if b.used.Add(size) > maxTogether {
		b.used.Add(-size)
		return false
	}
	return true
}

func (b *budget) give(size int64) { b.used.Add(-size) }

// heldBody is a body that is held whole until it is closed.
type heldBody struct {
	*bytes.Reader
	release func()
}

func hold(b []byte, release func()) io.ReadCloser {
	return &heldBody{bytes.NewReader(b), sync.OnceFunc(release)}
}

// Close implements io.Closer.
func (w *heldBody) Close() error {
	w.release()
	return nil
}
