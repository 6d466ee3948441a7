package intercept

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/atollhq/atoll/internal/gateway/forward"
	"github.com/atollhq/atoll/internal/gateway/policy"
	"github.com/atollhq/atoll/internal/gateway/secret"
	"github.com/atollhq/atoll/internal/gateway/sniff"
)

const (
	handshakeTimeout = 15 * time.Second
	redialTimeout    = 45 * time.Second
)

// connection is one of the guest's, and those to its upstream.
type connection struct {
	of       *Interceptor
	query    policy.Query
	addr     netip.Addr // that was dialed first
	host     string     // name or address that upstream is known by, for certificates
	tls      bool
	http2    bool     // in plain text
	alpn     []string // that the guest offered
	guest    *guestConn
	redial   func(context.Context) (net.Conn, error)
	upstream *upstream // nil when refused is set
	refused  error     // why no request can be passed on; nil when they can

	requests sync.WaitGroup // being served; Add only with mu held and ended false

	mu    sync.Mutex   // guards the following
	first net.Conn     // to upstream, until the transport takes it
	ups   []*gathering // all to upstream; nil after close
	ended bool
}

func newConnection(i *Interceptor, o forward.Opened) *connection {
	c := &connection{
		of: i, query: o.Query, addr: o.Addr, host: i.hostOf(o), tls: o.Hello != nil, http2: o.Kind == sniff.HTTP2,
		guest: &guestConn{gathering: gather(o.Guest)}, redial: o.Redial,
	}
	up := gather(o.Up)
	c.first, c.ups = up, []*gathering{up}
	if o.Hello != nil {
		c.alpn = o.Hello.ALPN
	}
	c.guest.connection = c
	return c
}

// hostOf is what upstream's certificate must be for. Where an address is a
// secret's host, what the guest calls it doesn't count.
func (i *Interceptor) hostOf(o forward.Opened) string {
	switch {
	case o.Query.Name != "":
		return o.Query.Name
	case o.Hello != nil && o.Hello.Name != "" && !i.holdsAddr(o.Query):
		return o.Hello.Name
	}
	return o.Query.Addr.Unmap().String()
}

// dest is where the connection's requests go.
func (c *connection) dest() secret.Dest {
	return secret.Dest{Name: c.query.Name, Addr: c.query.Addr, Port: c.query.Port, Verified: c.tls}
}

// authority is the destination as a URL has it.
func (c *connection) authority() string {
	host := c.query.Name
	if host == "" {
		host = c.query.Addr.Unmap().String()
	}
	return net.JoinHostPort(host, strconv.Itoa(int(c.query.Port)))
}

// begin counts a request in. After close it returns false.
func (c *connection) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ended {
		c.requests.Add(1)
	}
	return !c.ended
}

// close ends the connection and waits for its requests.
func (c *connection) close() {
	_ = c.guest.Close()
	c.mu.Lock()
	c.ended = true
	ups := c.ups
	c.ups = nil
	c.mu.Unlock()
	for _, up := range ups {
		_ = up.Close()
	}
	c.requests.Wait()
	if c.upstream != nil {
		c.upstream.close()
	}
}

// cut ends the connection at once, with what is still being written.
func (c *connection) cut() {
	_ = c.guest.Conn.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	for _, up := range c.ups {
		_ = up.Conn.Close()
	}
}

// keep notes a connection to upstream, so that close ends it.
func (c *connection) keep(up *gathering) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ended {
		c.ups = append(c.ups, up)
	}
	return !c.ended
}

// forget is the opposite of keep.
func (c *connection) forget(up *gathering) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ups = slices.DeleteFunc(c.ups, func(other *gathering) bool { return other == up })
}

// take returns the connection that was dialed first, once.
func (c *connection) take() net.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	up := c.first
	c.first = nil
	return up
}

// prepare agrees on a protocol with upstream and makes the guest's end ready
// to be served.
func (c *connection) prepare(ctx context.Context) (net.Conn, error) {
	if c.tls {
		return c.prepareTLS(ctx)
	}
	c.upstream = newUpstream("http", c.authority(), func(p *http.Protocols) {
		p.SetHTTP1(!c.http2)
		p.SetUnencryptedHTTP2(c.http2)
	})
	c.upstream.transport.DialContext = c.dial
	if c.http2 {
		return newUpdates(c.guest), nil
	}
	return c.guest, nil
}

// bufferSize is how many bytes are read and written at once: of HTTP/2, one
// frame that fills whole records of TLS.
const bufferSize = 32<<10 - frameHead

// dial is the transport's way to upstream, in plain text.
func (c *connection) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	if up := c.take(); up != nil {
		return up, nil
	}
	return c.again(ctx)
}

// again connects to upstream once more.
func (c *connection) again(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, redialTimeout)
	defer cancel()
	up, err := c.redial(ctx)
	if err != nil {
		return nil, err
	}
	kept := &upConn{gathering: gather(up), of: c}
	if !c.keep(kept.gathering) {
		_ = kept.gathering.Close()
		return nil, net.ErrClosed
	}
	return kept, nil
}

// upConn is a connection to upstream that its connection forgets when it is
// closed.
type upConn struct {
	*gathering
	of *connection
}

// Close implements net.Conn.
func (u *upConn) Close() error {
	u.of.forget(u.gathering)
	return u.gathering.Close()
}

// guestConn is the guest's end, as its server sees it.
type guestConn struct {
	*gathering
	connection *connection
}

type connectionKey struct{}

// withConnection makes a request's connection known to its handler.
func withConnection(ctx context.Context, c net.Conn) context.Context {
	for {
		outer, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		c = outer.NetConn()
	}
	return context.WithValue(ctx, connectionKey{}, c.(*guestConn).connection)
}

func connectionOf(r *http.Request) *connection {
	return r.Context().Value(connectionKey{}).(*connection)
}
