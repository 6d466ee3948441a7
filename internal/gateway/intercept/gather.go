package intercept

import (
	"net"
	"runtime"
	"sync"
	"time"
)

const (
	gatherSize = 256 << 10       // bytes that wait to be written, at most
	lastWrite  = 5 * time.Second // for what waits when the connection is closed
)

// gathering is a connection whose writes are done by a goroutine of its own,
// as many at once as have come meanwhile: TLS writes records of 16 KiB, and
// each write costs a system call or a packet. An error shows at the next
// write.
type gathering struct {
	net.Conn
	done chan struct{} // closed when the connection is

	mu     sync.Mutex // guards the following
	more   sync.Cond  // the queue is not empty, or closing is set
	room   sync.Cond  // the queue is empty, or err is set
	queue  []byte     // from the pool; nil when empty
	err    error      // of a write; or net.ErrClosed
	closed bool
}

func gather(c net.Conn) *gathering {
	g := &gathering{Conn: c, done: make(chan struct{})}
	g.more.L, g.room.L = &g.mu, &g.mu
	go g.drain()
	return g
}

var queues = sync.Pool{New: func() any { b := make([]byte, 0, gatherSize); return &b }}

// Write implements io.Writer. It returns when b is queued.
func (g *gathering) Write(b []byte) (n int, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for n < len(b) {
		for g.err == nil && len(g.queue) == gatherSize {
			g.room.Wait()
		}
		if g.err != nil {
			return n, g.err
		}
		if g.queue == nil {
			g.queue = (*queues.Get().(*[]byte))[:0]
		}
		part := b[n:min(len(b), n+gatherSize-len(g.queue))]
		g.queue = append(g.queue, part...)
		n += len(part)
		g.more.Signal()
	}
	return n, nil
}

// drain writes until the connection is closed or broken.
func (g *gathering) drain() {
	defer close(g.done)
	for {
		batch := g.next()
		if batch == nil {
			break
		}
		_, err := g.Conn.Write(batch)
		queues.Put(&batch)
		if err != nil {
			g.fail(err)
			break
		}
	}
	_ = g.Conn.Close()
}

// next waits for bytes and takes them; nil is the end.
func (g *gathering) next() (batch []byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.queue == nil && !g.closed {
		g.more.Wait()
		g.mu.Unlock()
		runtime.Gosched() // whoever is about to write more comes first
		g.mu.Lock()
	}
	batch, g.queue = g.queue, nil
	g.room.Broadcast()
	return batch
}

func (g *gathering) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err == nil {
		g.err = err
	}
	g.room.Broadcast()
}

// SetWriteDeadline does nothing: it would end writes that are on their way, as
// TLS does when it closes. Close ends those that wait.
func (g *gathering) SetWriteDeadline(time.Time) error { return nil }

// SetDeadline is for reading only.
func (g *gathering) SetDeadline(t time.Time) error { return g.SetReadDeadline(t) }

// Close implements net.Conn. What waits is still written, for a while.
func (g *gathering) Close() error {
	g.fail(net.ErrClosed)
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.closed = true
		_ = g.Conn.SetWriteDeadline(time.Now().Add(lastWrite))
		g.more.Signal()
	}
	return nil
}
