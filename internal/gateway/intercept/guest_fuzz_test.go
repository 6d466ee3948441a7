package intercept

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/atollhq/atoll/internal/gateway/audit"
	"github.com/atollhq/atoll/internal/gateway/forward"
	"github.com/atollhq/atoll/internal/gateway/policy"
	"github.com/atollhq/atoll/internal/gateway/sniff"
)

// speaking is what a guest says on a connection to api.test, and what of it
// arrived.
type speaking struct {
	to      *Interceptor
	arrived chan string // hosts of requests; closed by stop
	server  *http.Server
	queue   *queue
	open    chan struct{} // one element per connection
}

func newSpeaking(t testing.TB) *speaking {
	t.Helper()
	ca, err := NewCA()
	if err != nil {
		t.Fatal(err)
	}
	s := &speaking{arrived: make(chan string, 1000), queue: newQueue(), open: make(chan struct{}, 512)}
	s.to = New(Config{CA: ca, Audit: audit.Discard{}, Log: slog.New(slog.DiscardHandler)})
	p := new(http.Protocols)
	p.SetHTTP1(true)
	p.SetUnencryptedHTTP2(true)
	s.server = &http.Server{Protocols: p, ErrorLog: silent, ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case s.arrived <- r.Host:
		default:
		}
		_, _ = io.Copy(io.Discard, r.Body)
	})}
	go func() { _ = s.server.Serve(s.queue) }()
	t.Cleanup(func() {
		s.to.Close()
		for range cap(s.open) {
			s.open <- struct{}{} // all have ended
		}
		_ = s.server.Close()
	})
	return s
}

// say sends bytes, and returns when the guest has heard the answer. The
// connection may take longer to end: HTTP/2 waits a second after an error.
func (s *speaking) say(said []byte) {
	guest, ours := net.Pipe()
	up, far := net.Pipe()
	if !s.queue.put(far) {
		return
	}
	kind, _ := sniff.Classify(said)
	s.open <- struct{}{}
	go func() {
		defer func() { <-s.open }()
		s.serve(ours, up, kind)
	}()
	_ = guest.SetDeadline(time.Now().Add(5 * time.Millisecond))
	_, _ = guest.Write(said)
	_, _ = io.Copy(io.Discard, guest)
	_ = guest.Close()
}

func (s *speaking) serve(ours, up net.Conn, kind sniff.Kind) {
	s.to.Open(context.Background(), forward.Opened{
		Query: policy.Query{Proto: policy.TCP, Name: "api.test", Port: 80}, Addr: netip.MustParseAddr("192.0.2.1"),
		Guest: ours, Up: up, Kind: kind,
		Redial: func(context.Context) (net.Conn, error) { return nil, net.ErrClosed },
	})
	_ = up.Close()
}

// h2 is a connection's beginning in HTTP/2 with one request.
func h2(fields ...hpack.HeaderField) []byte {
	var block writer
	enc := hpack.NewEncoder(&block)
	for _, f := range fields {
		_ = enc.WriteField(f)
	}
	out := []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
	out = append(out, 0, byte(len(block)>>8), byte(len(block)), 1, 5, 0, 0, 0, 1)
	return append(out, block...)
}

type writer []byte

func (w *writer) Write(b []byte) (int, error) { *w = append(*w, b...); return len(b), nil }

// Whatever a guest says on a connection, no request for another host arrives.
func FuzzGuest(f *testing.F) {
	for _, said := range []string{
		"GET / HTTP/1.1\r\nHost: api.test\r\n\r\n",
		"GET http://other.test/ HTTP/1.1\r\nHost: api.test\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\nTrailer: Host\r\n\r\n3;x=y\r\nabc\r\n0\r\nHost: other.test\r\n\r\nGET / HTTP/1.1\r\nHost: other.test\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: api.test\r\nContent-Length: 4\r\n\r\nGET GET / HTTP/1.1\r\nHost: api.test\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: api.test\r\n Host: other.test\r\nConnection: Host\r\n\r\n",
	} {
		f.Add([]byte(said))
	}
	ok := []hpack.HeaderField{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: "/"}, {Name: ":authority", Value: "api.test"}}
	f.Add(h2(ok...))
	f.Add(h2(append(ok[:3:3], hpack.HeaderField{Name: ":authority", Value: "other.test"}, hpack.HeaderField{Name: "host", Value: "api.test"})...))
	s := newSpeaking(f)
	f.Fuzz(func(t *testing.T, said []byte) {
		s.say(said)
		for {
			select {
			case host := <-s.arrived:
				if name, err := policy.NormalName(hostname(host)); err != nil || name != "api.test" {
					t.Fatalf("a request for %q arrived", host)
				}
			default:
				return
			}
		}
	})
}
