package fake

import (
	"net"
	"sync"
)

// gated is a connection that can be held: until it is let go, nothing that
// arrives is handed out and nothing is sent.
type gated struct {
	net.Conn
	closed chan struct{}
	once   sync.Once

	mu   sync.Mutex
	open chan struct{} // closed unless the connection is held
}

func newGated(conn net.Conn) *gated {
	g := &gated{Conn: conn, closed: make(chan struct{}), open: make(chan struct{})}
	close(g.open)
	return g
}

func (g *gated) pause() {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.open:
		g.open = make(chan struct{})
	default:
	}
}

func (g *gated) resume() {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.open:
	default:
		close(g.open)
	}
}

func (g *gated) held() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.open:
		return false
	default:
		return true
	}
}

// pass returns when the connection isn't held, or is closed.
func (g *gated) pass() {
	g.mu.Lock()
	open := g.open
	g.mu.Unlock()
	select {
	case <-open:
	case <-g.closed:
	}
}

// Read hands out what arrived when the connection isn't held.
func (g *gated) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	g.pass()
	return n, err
}

// Write sends when the connection isn't held.
func (g *gated) Write(p []byte) (int, error) {
	g.pass()
	return g.Conn.Write(p)
}

// Close lets everybody go.
func (g *gated) Close() error {
	g.once.Do(func() { close(g.closed) })
	return g.Conn.Close()
}
