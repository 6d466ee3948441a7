// Package intercept reads HTTP on behalf of the policy and the secrets: in
// plain text, and inside TLS where a secret or strict mode asks for it.
//
// The guest's connection ends here, in a server of net/http, and each of its
// requests goes on over the connection that was dialed for it, by a transport
// of net/http. Both sides speak the same protocol: what the upstream server
// negotiates is what the guest is offered, so that HTTP/2, gRPC, event streams
// and WebSockets stay what they are.
//
// Terms: upstream is the server that the guest wanted to reach; an exchange is
// one request and its response.
//
// The guest is hostile, and so may be upstream. net/http parses what both say;
// nothing is passed on as it came but bodies and WebSocket payloads.
package intercept

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/atollhq/atoll/internal/gateway/audit"
	"github.com/atollhq/atoll/internal/gateway/forward"
	"github.com/atollhq/atoll/internal/gateway/policy"
	"github.com/atollhq/atoll/internal/gateway/secret"
)

const (
	headTimeout = time.Minute     // for a request's head
	idleTimeout = 5 * time.Minute // between requests
	maxHead     = 256 << 10       // bytes of a head, in either direction
	maxOpened   = 1024            // connections at a time
	maxSessions = 64              // with upstream servers that may be resumed
	maxStreams  = 256             // requests at a time on one HTTP/2 connection
)

// Config describes an interceptor.
type Config struct {
	CA     *CA
	Roots  Roots
	Strict bool // TLS is opened for every host
	Audit  audit.Log
	Log    *slog.Logger
}

// Roots are the certificates that upstream's are verified with. They are read
// when they are first needed; nil is the host's own.
type Roots func() (*x509.CertPool, error)

// Interceptor reads connections. It implements forward.Opener. Its methods may
// be called concurrently; it owns the goroutines it starts, and Close waits
// for them.
type Interceptor struct {
	cfg      Config
	secrets  atomic.Pointer[secret.Set]
	sessions tls.ClientSessionCache // with upstream servers
	server   *http.Server
	incoming *queue
	open     atomic.Int64   // connections
	done     chan struct{}  // closed when the server has ended
	serving  sync.WaitGroup // its connections
}

var _ forward.Opener = (*Interceptor)(nil)

// New makes an interceptor.
func New(cfg Config) *Interceptor {
	i := &Interceptor{cfg: cfg, sessions: tls.NewLRUClientSessionCache(maxSessions), incoming: newQueue(), done: make(chan struct{})}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	i.server = &http.Server{
		Handler:           http.HandlerFunc(serve),
		Protocols:         protocols,
		ReadHeaderTimeout: headTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHead,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxStreams, MaxReadFrameSize: frameSize, MaxReceiveBufferPerStream: window, MaxReceiveBufferPerConnection: 2 * window},
		ConnContext:       withConnection,
		ConnState:         i.count,
		ErrorLog:          silent,
	}
	go func() {
		defer close(i.done)
		_ = i.server.Serve(i.incoming) // until Close
	}()
	return i
}

// silent takes what net/http logs: broken handshakes and heads are the guest's
// business.
var silent = log.New(io.Discard, "", 0)

// frameSize is how many bytes one frame of a guest's HTTP/2 may have. With its
// head, a frame fills whole records of TLS.
const frameSize = 64<<10 - frameHead

// window is how many bytes of an HTTP/2 stream may be under way.
const window = 1 << 20

// SetSecrets replaces the secrets, nil for none.
func (i *Interceptor) SetSecrets(set *secret.Set) { i.secrets.Store(set) }

// Secrets returns what SetSecrets was last told.
func (i *Interceptor) Secrets() *secret.Set { return i.secrets.Load() }

// Opens reports whether TLS to a destination is opened.
func (i *Interceptor) Opens(q policy.Query) bool {
	return i.cfg.Strict || i.Secrets().CoversDest(q.Name, q.Addr, q.Port)
}

// holdsAddr reports whether a destination is an address that is a secret's
// host.
func (i *Interceptor) holdsAddr(q policy.Query) bool {
	return q.Name == "" && i.Secrets().CoversDest("", q.Addr, q.Port)
}

// Reserved reports whether a host may be reached by its name only: elsewhere
// its secrets would be seen by nobody.
func (i *Interceptor) Reserved(host string, port uint16) bool {
	name, err := policy.NormalName(host)
	return err == nil && i.Secrets().CoversDest(name, netip.Addr{}, port)
}

// Close ends every connection.
func (i *Interceptor) Close() {
	_ = i.server.Close()
	<-i.done
	i.serving.Wait()
}

// count follows the goroutines of the server's connections.
func (i *Interceptor) count(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		i.serving.Add(1)
	case http.StateClosed, http.StateHijacked:
		i.serving.Done()
	}
}

// Open implements forward.Opener.
func (i *Interceptor) Open(ctx context.Context, o forward.Opened) forward.Outcome {
	defer i.open.Add(-1)
	if i.open.Add(1) > maxOpened {
		_ = o.Guest.Close()
		return forward.Outcome{Rule: ruleTooMany}
	}
	c := newConnection(i, o)
	defer c.close()
	defer context.AfterFunc(ctx, c.cut)()
	served, err := c.prepare(ctx)
	if errors.Is(err, errHandshake) {
		return forward.Outcome{Note: noteHandshake}
	}
	if err != nil {
		i.cfg.Log.Debug("connection not opened", "name", o.Query.Name, "error", err)
		return forward.Outcome{Rule: ruleProtocol}
	}
	if i.incoming.put(served) {
		<-c.guest.done
	}
	if t, ok := served.(*tls.Conn); ok && !t.ConnectionState().HandshakeComplete {
		return forward.Outcome{Note: noteHandshake}
	}
	return forward.Outcome{}
}

// queue is a listener whose connections come from Open.
type queue struct {
	conns chan net.Conn
	once  sync.Once
	ended chan struct{}
}

func newQueue() *queue { return &queue{conns: make(chan net.Conn), ended: make(chan struct{})} }

// put hands a connection to the server; false after Close.
func (q *queue) put(c net.Conn) bool {
	select {
	case q.conns <- c:
		return true
	case <-q.ended:
		return false
	}
}

var errQueueClosed = errors.New("closed")

// Accept implements net.Listener.
func (q *queue) Accept() (net.Conn, error) {
	select {
	case c := <-q.conns:
		return c, nil
	case <-q.ended:
		return nil, errQueueClosed
	}
}

// Close implements net.Listener.
func (q *queue) Close() error {
	q.once.Do(func() { close(q.ended) })
	return nil
}

// Addr implements net.Listener.
func (q *queue) Addr() net.Addr { return &net.UnixAddr{Net: "unix", Name: "intercept"} }
