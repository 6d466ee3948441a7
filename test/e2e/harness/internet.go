//go:build e2e

package harness

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"time"

	"github.com/atollhq/atoll/internal/gateway/upstream"
)

// Internet is everything that sandboxes can reach: a few listeners on
// 127.0.0.1.
type Internet struct {
	web, webTLS, wrongTLS *httptest.Server
	api, apiTLS, otherTLS *httptest.Server
	asked                 *httptest.Server // see desk; sandboxes can't reach it
	echo, trap, mail, db  net.Listener
	echoUDP               net.PacketConn
	evil, raw, public     *sink
	dns                   netip.AddrPort
	roots                 []byte
	log                   journal
	closers               []io.Closer
	done                  sync.WaitGroup

	mu      sync.Mutex // guards the fields below
	trapped []*string
	seen    []string
}

// NewInternet starts the listeners.
func NewInternet() (_ *Internet, err error) {
	n := &Internet{}
	defer func() {
		if err != nil {
			n.Close()
		}
	}()
	authority, err := newAuthority("Atoll test root")
	if err != nil {
		return nil, err
	}
	n.roots = authority.pem
	unknown, err := newAuthority("Atoll unknown root")
	if err != nil {
		return nil, err
	}
	return n, errors.Join(n.listenWeb(authority, unknown), n.listenEcho(), n.listenTrap(),
		n.listenServices(authority, unknown), n.listenDNS())
}

func (n *Internet) listenWeb(trusted, unknown *authority) error {
	n.web, n.api, n.asked = n.serve(n.handler(), nil), n.serve(n.apiHandler(), nil), n.serve(n.desk(), nil)
	for _, s := range []struct {
		server  **httptest.Server
		handler http.Handler
		signer  *authority
		hosts   []string
	}{
		{&n.webTLS, n.handler(), trusted, []string{WebHost}},
		{&n.wrongTLS, n.apiHandler(), unknown, []string{UntrustHost}},
		{&n.apiTLS, n.apiHandler(), trusted, []string{APIHost, TenantHost, MixedHost, FlipHost, AWSHost, SignHost, ExclusiveHost}},
		{&n.otherTLS, n.apiHandler(), trusted, []string{"somebody-else.atoll.test"}},
	} {
		cert, err := s.signer.issue(s.hosts...)
		if err != nil {
			return err
		}
		*s.server = n.serve(s.handler, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2", "http/1.1"},
			GetConfigForClient: n.noteHello})
	}
	return nil
}

// noteHello notes the name that a client of the web servers asks for.
func (n *Internet) noteHello(h *tls.ClientHelloInfo) (*tls.Config, error) {
	n.log.note(AtAPI, "hello %s", h.ServerName)
	return nil, nil
}

// listenServices starts what speaks neither HTTP nor DNS.
func (n *Internet) listenServices(trusted, unknown *authority) error {
	cert, err := trusted.issue(RawHost, MailHost, DBHost)
	if err != nil {
		return err
	}
	// The evil host claims to be others, with a certificate that nobody trusts.
	forged, err := unknown.issue(EvilHost, APIHost)
	if err != nil {
		return err
	}
	for _, s := range []struct {
		to   **sink
		at   string
		cert tls.Certificate
	}{{&n.evil, AtEvil, forged}, {&n.raw, AtRaw, cert}, {&n.public, AtResolver, forged}} {
		if *s.to, err = n.newSink(s.at, s.cert); err != nil {
			return err
		}
	}
	return errors.Join(n.listenMail(cert), n.listenDB(cert))
}

// serve starts a web server, with TLS if there is a configuration for it.
func (n *Internet) serve(h http.Handler, t *tls.Config) *httptest.Server {
	srv := httptest.NewUnstartedServer(h)
	srv.Config.ErrorLog = log.New(io.Discard, "", 0) // handshakes that clients refuse are part of the tests
	if t == nil {
		srv.Config.Protocols = new(http.Protocols)
		srv.Config.Protocols.SetHTTP1(true)
		srv.Config.Protocols.SetUnencryptedHTTP2(true)
		srv.Start()
		return srv
	}
	srv.TLS, srv.EnableHTTP2 = t, true
	srv.StartTLS()
	return srv
}

func (n *Internet) listenEcho() (err error) {
	s := &sink{}
	if err := s.listen(); err != nil {
		return err
	}
	n.echo, n.echoUDP = s.tcp, s.udp
	n.closers = append(n.closers, n.echo, n.echoUDP)
	n.accept(n.echo, func(c net.Conn) { _, _ = io.Copy(c, c) })
	n.done.Go(func() {
		buf := make([]byte, 64<<10)
		for {
			size, from, err := n.echoUDP.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = n.echoUDP.WriteTo(buf[:size], from)
		}
	})
	return nil
}

// listenTrap starts the listener behind the forbidden addresses, which talks
// like a web server to whoever comes so far.
func (n *Internet) listenTrap() (err error) {
	if n.trap, err = net.Listen("tcp4", "127.0.0.1:0"); err != nil {
		return err
	}
	n.closers = append(n.closers, n.trap)
	n.accept(n.trap, func(c net.Conn) {
		_ = c.SetDeadline(time.Now().Add(sinkIdle))
		said := n.trapOne()
		buf := make([]byte, 256)
		size, _ := c.Read(buf)
		n.mu.Lock()
		*said = string(buf[:size])
		n.mu.Unlock()
		_, _ = io.WriteString(c, "HTTP/1.0 200 OK\r\n\r\ntrapped\n")
	})
	return nil
}

// trapOne notes that somebody has come, before anything is said.
func (n *Internet) trapOne() (said *string) {
	said = new(string)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.trapped = append(n.trapped, said)
	return said
}

func (n *Internet) accept(l net.Listener, handle func(net.Conn)) {
	n.done.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n.done.Go(func() {
				defer c.Close()
				handle(c)
			})
		}
	})
}

// Trapped returns what arrived at the forbidden addresses since the start: an
// empty text for a connection that has said nothing yet.
func (n *Internet) Trapped() (out []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, said := range n.trapped {
		out = append(out, *said)
	}
	return out
}

// Forget forgets what was trapped, for tests that opened the trap.
func (n *Internet) Forget() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.trapped = nil
}

// Seen returns the requests that the web servers answered, as "host path".
func (n *Internet) Seen() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]string(nil), n.seen...)
}

// Roots is the certificate that is added to the sandboxes' trust store.
func (n *Internet) Roots() []byte { return n.roots }

// Overrides is the content of the server's host overrides: nothing leaves
// this machine, and names are asked of this internet's resolver.
func (n *Internet) Overrides() []byte {
	o := upstream.Overrides{Only: true, Ask: true, Dial: n.dial()}
	raw, err := json.Marshal(o)
	if err != nil {
		panic(err) // of strings and addresses only
	}
	return raw
}

// HostAddrs are the addresses of this host's cards.
func HostAddrs() []netip.Addr {
	addrs, _ := upstream.HostAddrs()
	return addrs
}

func port(a netip.Addr, p uint16) string { return netip.AddrPortFrom(a, p).String() }

func addrOf(a net.Addr) netip.AddrPort { return netip.MustParseAddrPort(a.String()) }

// Environ tells tests in other languages of this internet.
func (n *Internet) Environ() []string {
	return []string{"ATOLL_TEST_WEB=" + WebHost, "ATOLL_TEST_DESK=" + n.asked.URL}
}

// Close ends the listeners.
func (n *Internet) Close() {
	for _, s := range []*httptest.Server{n.web, n.webTLS, n.wrongTLS, n.api, n.apiTLS, n.otherTLS, n.asked} {
		if s != nil {
			s.CloseClientConnections()
			s.Close()
		}
	}
	for _, c := range n.closers {
		_ = c.Close()
	}
}
