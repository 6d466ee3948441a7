// Package gatewaytest has what tests put around a gateway: an internet that
// exists only in this process, and a guest.
//
// No packet of a test leaves the process. The Internet records every question
// and every dial, so that a test can assert on what reached the world instead
// of on what the guest was told.
package gatewaytest

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/atollhq/atoll/internal/gateway/upstream"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// Attempt is something that reached the world.
type Attempt struct {
	Network string // "tcp", "udp" or "dns"
	Target  string // "address:port", or the name and type that were asked for
}

// Internet is a world of names and servers. It implements upstream.Upstream.
// Its methods may be called concurrently; servers are best added before the
// first use.
type Internet struct {
	mu       sync.Mutex // guards the following
	names    map[string][]netip.Addr
	servers  map[Attempt]func(net.Conn)
	attempts []Attempt
	open     map[net.Conn]struct{} // the servers' ends
	closed   bool
	work     sync.WaitGroup // one per open
}

var _ upstream.Upstream = (*Internet)(nil)

// NewInternet makes an empty world.
func NewInternet() *Internet {
	return &Internet{
		names:   make(map[string][]netip.Addr),
		servers: make(map[Attempt]func(net.Conn)),
		open:    make(map[net.Conn]struct{}),
	}
}

// Name gives a name its addresses.
func (w *Internet) Name(name string, addrs ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range addrs {
		w.names[name] = append(w.names[name], netip.MustParseAddr(a))
	}
}

// ServeTCP runs handle for each connection to addr, "address:port", and
// closes the connection when it returns.
func (w *Internet) ServeTCP(addr string, handle func(net.Conn)) { w.serve("tcp", addr, handle) }

// ServeUDP is like ServeTCP for flows. Each Read and Write is one datagram.
func (w *Internet) ServeUDP(addr string, handle func(net.Conn)) { w.serve("udp", addr, handle) }

// ServeHTTP answers HTTP/1.1 requests to addr, one connection at a time each.
func (w *Internet) ServeHTTP(addr string, h http.Handler) {
	w.ServeTCP(addr, func(c net.Conn) {
		l := newOneConn(c)
		_ = (&http.Server{Handler: h, ReadHeaderTimeout: time.Minute}).Serve(l)
	})
}

// ServeHTTPS is ServeHTTP behind TLS, with HTTP/2 where config offers it.
func (w *Internet) ServeHTTPS(addr string, config *tls.Config, h http.Handler) {
	w.ServeTCP(addr, func(c net.Conn) {
		l := newOneConn(c)
		l.wrap = func(c net.Conn) net.Conn { return tls.Server(c, config) }
		_ = (&http.Server{Handler: h, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0)}).Serve(l)
	})
}

func (w *Internet) serve(network, addr string, handle func(net.Conn)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.servers[Attempt{network, netip.MustParseAddrPort(addr).String()}] = handle
}

// Echo is a handler that sends back what it gets, and ends when the other
// side does.
func Echo(c net.Conn) { _, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c}) }

// Attempts returns what has reached the world so far.
func (w *Internet) Attempts() []Attempt {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]Attempt(nil), w.attempts...)
}

// Resolve implements upstream.Upstream.
func (w *Internet) Resolve(_ context.Context, q dnsmessage.Question) (dnsmessage.Message, error) {
	name := strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))
	w.mu.Lock()
	defer w.mu.Unlock()
	w.attempts = append(w.attempts, Attempt{"dns", name + " " + strings.TrimPrefix(q.Type.String(), "Type")})
	addrs, ok := w.names[name]
	if !ok {
		return dnsmessage.Message{Header: dnsmessage.Header{RCode: dnsmessage.RCodeNameError}}, nil
	}
	return upstream.AddressAnswer(q, addrs), nil
}

// Dial implements upstream.Upstream. Where no server is, connections are
// refused.
func (w *Internet) Dial(_ context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	at := Attempt{network, addr.String()}
	w.attempts = append(w.attempts, at)
	handle := w.servers[at]
	if handle == nil || w.closed {
		return nil, fmt.Errorf("dial %s %s: %w", network, addr, unix.ECONNREFUSED)
	}
	kind := unix.SOCK_STREAM
	if network == "udp" {
		kind = unix.SOCK_SEQPACKET
	}
	ours, theirs, err := pair(kind)
	if err != nil {
		return nil, err
	}
	w.open[theirs] = struct{}{}
	w.work.Go(func() {
		handle(theirs)
		w.end(theirs)
	})
	return ours, nil
}

func (w *Internet) end(c net.Conn) {
	_ = c.Close()
	w.mu.Lock()
	delete(w.open, c)
	w.mu.Unlock()
}

// Open returns how many connections and flows the servers hold.
func (w *Internet) Open() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.open)
}

// Close ends all servers and waits for them.
func (w *Internet) Close() {
	w.mu.Lock()
	w.closed = true
	for c := range w.open {
		_ = c.Close()
	}
	w.mu.Unlock()
	w.work.Wait()
}

// pair returns two connected sockets. Unlike net.Pipe's they buffer, can be
// closed in one direction, and have descriptors, as real connections do.
func pair(kind int) (a, b net.Conn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	if a, err = connOf(fds[0]); err != nil {
		_ = unix.Close(fds[1])
		return nil, nil, err
	}
	if b, err = connOf(fds[1]); err != nil {
		_ = a.Close()
		return nil, nil, err
	}
	return a, b, nil
}

func connOf(fd int) (net.Conn, error) {
	f := os.NewFile(uintptr(fd), "pair")
	defer f.Close()
	return net.FileConn(f)
}

// oneConn is a listener with a single connection.
type oneConn struct {
	conns chan net.Conn
	once  sync.Once
	addr  net.Addr
	wrap  func(net.Conn) net.Conn // nil leaves it as it is
}

// closing tells its listener when the connection is closed.
type closing struct {
	net.Conn
	l *oneConn
}

func newOneConn(c net.Conn) *oneConn {
	l := &oneConn{conns: make(chan net.Conn, 1), addr: c.LocalAddr()}
	l.conns <- closing{c, l}
	return l
}

// Accept implements net.Listener.
func (l *oneConn) Accept() (net.Conn, error) {
	c, ok := <-l.conns
	if !ok {
		return nil, net.ErrClosed
	}
	if l.wrap != nil {
		c = l.wrap(c)
	}
	return c, nil
}

// Close implements net.Listener.
func (l *oneConn) Close() error {
	l.once.Do(func() { close(l.conns) })
	return nil
}

// Addr implements net.Listener.
func (l *oneConn) Addr() net.Addr { return l.addr }

// Close closes the connection and ends its listener.
func (c closing) Close() error {
	_ = c.l.Close()
	return c.Conn.Close()
}
