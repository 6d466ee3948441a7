//go:build e2e

package harness

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/atollhq/atoll/internal/gateway/upstream"
)

// The names of the fake internet. None of them exists anywhere else.
const (
	WebHost     = "web.atoll.test"     // HTTP on 80, HTTPS on 443 with the extra root's certificate
	EchoHost    = "echo.atoll.test"    // TCP and UDP on EchoPort: what comes in goes out
	RebindHost  = "rebind.atoll.test"  // resolves to 127.0.0.1, which must not be reached
	PrivateHost = "private.atoll.test" // resolves to 10.0.0.1, likewise
	UntrustHost = "untrusted.atoll.test"
	EchoPort    = 7
)

var (
	webAddr4  = netip.MustParseAddr("93.184.215.14")
	webAddr6  = netip.MustParseAddr("2606:2800:21f:cb07::14")
	echoAddr  = netip.MustParseAddr("93.184.215.15")
	wrongAddr = netip.MustParseAddr("93.184.215.16")
)

// Forbidden are addresses that no sandbox may reach. Behind each is a trap,
// on every port.
var Forbidden = []netip.Addr{
	netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.8.8.8"), netip.MustParseAddr("::1"),
	netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("::"),
	netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("172.16.0.1"), netip.MustParseAddr("192.168.1.1"),
	netip.MustParseAddr("100.64.0.1"), netip.MustParseAddr("169.254.169.254"), netip.MustParseAddr("169.254.1.1"),
	netip.MustParseAddr("224.0.0.1"), netip.MustParseAddr("255.255.255.255"),
	netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00:a701::99"), netip.MustParseAddr("fd00:ec2::254"), netip.MustParseAddr("fe80::1"),
	netip.MustParseAddr("::ffff:127.0.0.1"), netip.MustParseAddr("64:ff9b::7f00:1"), netip.MustParseAddr("2002:7f00:1::1"),
}

// Internet is everything that sandboxes can reach: a few listeners on
// 127.0.0.1.
type Internet struct {
	web, webTLS, wrongTLS *httptest.Server
	echo                  net.Listener
	echoUDP               net.PacketConn
	trap                  net.Listener
	roots                 []byte
	done                  sync.WaitGroup

	mu      sync.Mutex // guards the fields below
	trapped []string
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
	n.web = n.serve(nil)
	if n.webTLS, err = n.serveTLS(authority, WebHost); err != nil {
		return nil, err
	}
	if n.wrongTLS, err = n.serveTLS(unknown, UntrustHost); err != nil {
		return nil, err
	}
	return n, errors.Join(n.listenEcho(), n.listenTrap())
}

func (n *Internet) serveTLS(a *authority, host string) (*httptest.Server, error) {
	cert, err := a.issue(host)
	if err != nil {
		return nil, err
	}
	return n.serve(&tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2", "http/1.1"}}), nil
}

// serve starts a web server, with TLS if there is a configuration for it.
func (n *Internet) serve(t *tls.Config) *httptest.Server {
	srv := httptest.NewUnstartedServer(n.handler())
	srv.Config.ErrorLog = log.New(io.Discard, "", 0) // handshakes that clients refuse are part of the tests
	if t == nil {
		srv.Start()
		return srv
	}
	srv.TLS, srv.EnableHTTP2 = t, true
	srv.StartTLS()
	return srv
}

func (n *Internet) listenEcho() (err error) {
	if n.echo, err = net.Listen("tcp4", "127.0.0.1:0"); err != nil {
		return err
	}
	if n.echoUDP, err = net.ListenPacket("udp4", n.echo.Addr().String()); err != nil {
		return err
	}
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
	n.accept(n.trap, func(c net.Conn) {
		_ = c.SetDeadline(time.Now().Add(time.Second))
		buf := make([]byte, 256)
		size, _ := c.Read(buf)
		n.mu.Lock()
		n.trapped = append(n.trapped, string(buf[:size]))
		n.mu.Unlock()
		_, _ = io.WriteString(c, "HTTP/1.0 200 OK\r\n\r\ntrapped\n")
	})
	return nil
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

// Trapped returns what arrived at the forbidden addresses since the start.
func (n *Internet) Trapped() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]string(nil), n.trapped...)
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

// Overrides is the content of the server's host overrides.
func (n *Internet) Overrides() []byte {
	o := upstream.Overrides{Only: true, Names: map[string][]netip.Addr{
		WebHost:     {webAddr4, webAddr6},
		EchoHost:    {echoAddr},
		UntrustHost: {wrongAddr},
		RebindHost:  {netip.MustParseAddr("127.0.0.1")},
		PrivateHost: {netip.MustParseAddr("10.0.0.1")},
	}, Dial: map[string]netip.AddrPort{
		port(echoAddr, EchoPort): addrOf(n.echo.Addr()),
		port(wrongAddr, 443):     addrOf(n.wrongTLS.Listener.Addr()),
	}}
	for _, a := range []netip.Addr{webAddr4, webAddr6} {
		o.Dial[port(a, 80)] = addrOf(n.web.Listener.Addr())
		o.Dial[port(a, 443)] = addrOf(n.webTLS.Listener.Addr())
	}
	for _, a := range Forbidden {
		o.Dial[a.String()] = addrOf(n.trap.Addr())
	}
	for _, a := range HostAddrs() {
		o.Dial[a.String()] = addrOf(n.trap.Addr())
	}
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

// Environ tells tests in other languages the names of this internet.
func (n *Internet) Environ() []string {
	return []string{"ATOLL_TEST_WEB=" + WebHost}
}

// Close ends the listeners.
func (n *Internet) Close() {
	for _, s := range []*httptest.Server{n.web, n.webTLS, n.wrongTLS} {
		if s != nil {
			s.CloseClientConnections()
			s.Close()
		}
	}
	for _, l := range []net.Listener{n.echo, n.trap} {
		if l != nil {
			_ = l.Close()
		}
	}
	if n.echoUDP != nil {
		_ = n.echoUDP.Close()
	}
}

// maxBytes bounds what one request can ask of /bytes.
const maxBytes = 64 << 20

func (n *Internet) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/hello", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello from outside\n") })
	mux.HandleFunc("/redirect", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/hello", http.StatusFound) })
	mux.HandleFunc("/loop", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/loop", http.StatusFound) })
	mux.HandleFunc("/echo", echoRequest)
	mux.HandleFunc("/bytes/{n}", func(w http.ResponseWriter, r *http.Request) {
		size, err := strconv.ParseInt(r.PathValue("n"), 10, 64)
		if err != nil || size < 0 || size > maxBytes {
			http.Error(w, "bad size", http.StatusBadRequest)
			return
		}
		_, _ = io.CopyN(w, zeros{}, size)
	})
	mux.HandleFunc("/endless", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.Copy(w, zeros{}) })
	mux.HandleFunc("/hang", func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-time.After(Patience):
		}
	})
	mux.HandleFunc("/status/{n}", func(w http.ResponseWriter, r *http.Request) {
		if code, err := strconv.Atoi(r.PathValue("n")); err == nil && code >= 200 && code < 600 {
			w.WriteHeader(code)
		}
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.mu.Lock()
		n.seen = append(n.seen, r.Host+" "+r.URL.Path)
		n.mu.Unlock()
		mux.ServeHTTP(w, r)
	})
}

// echoRequest answers with the request as JSON.
func echoRequest(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBytes))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	headers := map[string]string{}
	for name := range r.Header {
		headers[strings.ToLower(name)] = r.Header.Get(name)
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{
		"method": r.Method, "host": r.Host, "path": r.URL.Path, "query": r.URL.RawQuery,
		"headers": headers, "body": string(body), "tls": r.TLS != nil, "proto": r.Proto,
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
