package intercept

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/summerwind/h2spec/config"
	"github.com/summerwind/h2spec/generic"
	"github.com/summerwind/h2spec/hpack"
	"github.com/summerwind/h2spec/http2"
	"github.com/summerwind/h2spec/spec"

	"github.com/atollhq/atoll/internal/gateway/audit"
	"github.com/atollhq/atoll/internal/gateway/forward"
	"github.com/atollhq/atoll/internal/gateway/policy"
	"github.com/atollhq/atoll/internal/gateway/sniff"
)

// front opens connections to a loopback address, as the forwarder would.
type front struct {
	listener net.Listener
	up       netip.AddrPort
	to       *Interceptor
	work     sync.WaitGroup
}

// newFront puts an interceptor before a TLS server. It answers on the returned
// address until the test ends.
func newFront(t testing.TB, handler http.Handler) *front {
	t.Helper()
	up, authority := serveTLS(t, handler)
	return newFrontOf(t, up, authority)
}

// serveTLS is a server on a loopback address, until the test ends, and the
// authority of its certificate.
func serveTLS(t testing.TB, handler http.Handler) (at netip.AddrPort, authority string) {
	t.Helper()
	world, err := NewCA()
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := world.Leaf("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	up, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler, ErrorLog: silent, ReadHeaderTimeout: time.Minute, TLSConfig: &tls.Config{Certificates: []tls.Certificate{*leaf}}}
	go func() { _ = server.ServeTLS(up, "", "") }()
	t.Cleanup(func() { _ = server.Close() })
	return netip.MustParseAddrPort(up.Addr().String()), world.PEM()
}

// newFrontOf puts an interceptor before the server at up.
func newFrontOf(t testing.TB, up netip.AddrPort, authority string) *front {
	t.Helper()
	ca, err := NewCA()
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(authority))
	f := &front{up: up}
	f.to = New(Config{CA: ca, Roots: func() (*x509.CertPool, error) { return roots, nil }, Strict: true, Audit: audit.Discard{}, Log: slog.New(slog.DiscardHandler)})
	if f.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	f.work.Go(func() { f.accept(t) })
	t.Cleanup(func() {
		_ = f.listener.Close()
		f.to.Close()
		f.work.Wait()
	})
	return f
}

func (f *front) accept(t testing.TB) {
	for {
		c, err := f.listener.Accept()
		if err != nil {
			return
		}
		f.work.Go(func() {
			defer c.Close()
			f.open(t, c)
		})
	}
}

func (f *front) open(t testing.TB, c net.Conn) {
	in := bufio.NewReaderSize(c, sniff.MaxHead)
	var hello *sniff.Hello
	for n := 1; hello == nil; n++ {
		head, err := in.Peek(n)
		if err != nil {
			return
		}
		head, _ = in.Peek(in.Buffered())
		_, hello = sniff.Classify(head)
		n = len(head)
	}
	up, err := net.Dial("tcp", f.up.String())
	if err != nil {
		return
	}
	f.to.Open(t.Context(), forward.Opened{
		Query: policy.Query{Proto: policy.TCP, Addr: f.up.Addr(), Port: f.up.Port()}, Addr: f.up.Addr(),
		Guest: bufferedConn{c, in}, Up: up, Kind: sniff.TLS, Hello: hello,
		Redial: func(context.Context) (net.Conn, error) { return net.Dial("tcp", f.up.String()) },
	})
}

type bufferedConn struct {
	net.Conn
	in *bufio.Reader
}

func (b bufferedConn) Read(p []byte) (int, error) { return b.in.Read(p) }

// deviations are the cases in which net/http differs from what the suite
// expects, and why that is right.
var deviations = map[string]string{
	"Sends multiple values of SETTINGS_INITIAL_WINDOW_SIZE":                                        "settings given twice end the connection, against floods",
	"Sends a HEADERS frame that contains the connection-specific header field":                     "answered with 400, which RFC 9113, 8.1.1, allows",
	`Sends a HEADERS frame that contains the TE header field with any value other than "trailers"`: "answered with 400, likewise",
}

// The guest's side speaks HTTP/2 as the standard has it, whatever comes.
func TestHTTP2AsSpecified(t *testing.T) {
	f := newFront(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte("the answer"))
	}))
	at := f.listener.Addr().(*net.TCPAddr)
	c := &config.Config{Host: "127.0.0.1", Port: at.Port, Path: "/", Timeout: 2 * time.Second, MaxHeaderLen: 16000, TLS: true, Insecure: true}
	passed := 0
	for _, group := range []*spec.TestGroup{generic.Spec(), http2.Spec(), hpack.Spec()} {
		group.Test(c)
		passed += group.PassedCount
		report(t, group)
	}
	if passed < 100 {
		t.Errorf("only %d cases passed", passed)
	}
}

// report fails the test with what a group's cases found.
func report(t *testing.T, g *spec.TestGroup) {
	t.Helper()
	for _, sub := range g.Groups {
		report(t, sub)
	}
	for _, tc := range g.Tests {
		if _, known := deviations[tc.Desc]; !known && tc.Result != nil && tc.Result.Failed {
			t.Errorf("%s %s: %s: %v", g.ID(), g.Name, tc.Desc, tc.Result.Error)
		}
	}
}
