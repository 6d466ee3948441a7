package upstream

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/dns/dnsmessage"
)

const hidden = "hunter2" // the password of all proxies here

// fakeProxy is a proxy on loopback. It connects nowhere: it greets for the
// destination in the same packet as its answer, and then echoes.
type fakeProxy struct {
	addr string

	mu    sync.Mutex
	asked []string // destinations
}

const greeting = "220 hello\r\n"

// newProxy serves connections with shake, which returns what it was asked for,
// and what is to be answered.
func newProxy(t *testing.T, l net.Listener, shake func(c net.Conn) (asked, answer string)) *fakeProxy {
	t.Helper()
	p := &fakeProxy{addr: l.Addr().String()}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(time.Minute))
				asked, answer := shake(c)
				p.mu.Lock()
				p.asked = append(p.asked, asked)
				p.mu.Unlock()
				_, _ = io.WriteString(c, answer)
				_, _ = io.Copy(c, c)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		work.Wait()
	})
	return p
}

func (p *fakeProxy) last() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.asked) == 0 {
		return ""
	}
	return p.asked[len(p.asked)-1]
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// shakeHTTP is an HTTP proxy that wants the password.
func shakeHTTP(c net.Conn) (asked, answer string) {
	r, err := http.ReadRequest(bufio.NewReader(c))
	if err != nil {
		return err.Error(), "HTTP/1.1 400 Bad Request\r\n\r\n"
	}
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte("me:"+hidden))
	if r.Method != "CONNECT" || r.Host != r.RequestURI || r.Header.Get("Proxy-Authorization") != want {
		return r.RequestURI, "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"
	}
	return r.RequestURI, "HTTP/1.1 200 Connection established\r\nX: y\r\n\r\n" + greeting
}

// shakeSOCKS is a SOCKS5 proxy that wants the password.
func shakeSOCKS(c net.Conn) (asked, answer string) {
	read := func(n int) []byte {
		b := make([]byte, n)
		_, _ = io.ReadFull(c, b)
		return b
	}
	text := func() string { return string(read(int(read(1)[0]))) }
	methods := read(int(read(2)[1]))
	if methods[len(methods)-1] != socksPassword {
		return "without password", string([]byte{5, 0xff})
	}
	_, _ = c.Write([]byte{5, socksPassword})
	read(1)
	if text() != "me" || text() != hidden {
		return "wrong password", string([]byte{1, 1})
	}
	_, _ = c.Write([]byte{1, 0})
	host := ""
	switch read(4)[3] {
	case socksName:
		host = "name " + text()
	case socksIP4:
		host = netip.AddrFrom4([4]byte(read(4))).String()
	case socksIP6:
		host = netip.AddrFrom16([16]byte(read(16))).String()
	}
	asked = fmt.Sprintf("%s %d", host, binary.BigEndian.Uint16(read(2)))
	return asked, string([]byte{5, 0, 0, socksName, 1, 'x', 0, 80}) + greeting
}

func proxy(t *testing.T, url string) *Proxy {
	t.Helper()
	p, err := NewProxy(url, nil, &Host{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// wantTunnel checks that not a byte of the destination's is lost.
func wantTunnel(t *testing.T, conn net.Conn, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	_, _ = io.WriteString(conn, "ping")
	if half, ok := conn.(interface{ CloseWrite() error }); !ok || half.CloseWrite() != nil {
		t.Error("the connection can't be closed in one direction")
	}
	if got, err := io.ReadAll(conn); err != nil || string(got) != greeting+"ping" {
		t.Errorf("got %q, %v", got, err)
	}
}

var public = netip.MustParseAddrPort("8.8.8.8:443")

func TestHTTPProxy(t *testing.T) {
	server := newProxy(t, listen(t), shakeHTTP)
	p := proxy(t, "http://me:"+hidden+"@"+server.addr)
	conn, err := p.DialName(t.Context(), "tcp", "a.example.com", 443)
	wantTunnel(t, conn, err)
	if got := server.last(); got != "a.example.com:443" {
		t.Errorf("asked for %s", got)
	}
	for addr, want := range map[string]string{"8.8.8.8:443": "8.8.8.8:443", "[2606:4700::1]:80": "[2606:4700::1]:80", "[::ffff:8.8.8.8]:1": "8.8.8.8:1"} {
		conn, err := p.Dial(t.Context(), "tcp", netip.MustParseAddrPort(addr))
		wantTunnel(t, conn, err)
		if got := server.last(); got != want {
			t.Errorf("asked for %s, want %s", got, want)
		}
	}
}

func TestHTTPSProxy(t *testing.T) {
	cert := httptest.NewTLSServer(nil)
	defer cert.Close()
	server := newProxy(t, tls.NewListener(listen(t), cert.TLS), shakeHTTP)
	url := "https://me:" + hidden + "@" + server.addr
	roots := cert.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	p, err := NewProxy(url, roots, &Host{})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := p.DialName(t.Context(), "tcp", "a.example.com", 443)
	wantTunnel(t, conn, err)
	before := server.last()
	if _, err := proxy(t, url).DialName(t.Context(), "tcp", "b.example.com", 443); err == nil || strings.Contains(err.Error(), hidden) {
		t.Errorf("a certificate of nobody's: %v", err)
	}
	if got := server.last(); got != before && !strings.Contains(got, "bad certificate") {
		t.Errorf("the proxy was asked for %s", got)
	}
}

func TestSOCKSProxy(t *testing.T) {
	server := newProxy(t, listen(t), shakeSOCKS)
	p := proxy(t, "socks5h://me:"+hidden+"@"+server.addr)
	conn, err := p.DialName(t.Context(), "tcp", "a.example.com", 443)
	wantTunnel(t, conn, err)
	if got := server.last(); got != "name a.example.com 443" {
		t.Errorf("asked for %s", got)
	}
	p = proxy(t, "socks5://me:"+hidden+"@"+server.addr)
	for _, addr := range []string{"8.8.8.8:443", "[2606:4700::1]:80"} {
		ap := netip.MustParseAddrPort(addr)
		conn, err = p.Dial(t.Context(), "tcp", ap)
		wantTunnel(t, conn, err)
		if got, want := server.last(), fmt.Sprintf("%s %d", ap.Addr(), ap.Port()); got != want {
			t.Errorf("asked for %s, want %s", got, want)
		}
	}
	if _, err := p.DialName(t.Context(), "tcp", "a.example.com", 443); !errors.Is(err, errProxyName) {
		t.Errorf("a name for a proxy that is told addresses: %v", err)
	}
}

func TestProxyWithoutCredentials(t *testing.T) {
	http := newProxy(t, listen(t), func(c net.Conn) (string, string) {
		r, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil || r.Header.Get("Proxy-Authorization") != "" {
			return "credentials", ""
		}
		return r.RequestURI, "HTTP/1.0 200\n\n" + greeting
	})
	socks := newProxy(t, listen(t), func(c net.Conn) (string, string) {
		_, _ = io.ReadFull(c, make([]byte, 3))
		_, _ = c.Write([]byte{5, 0})
		_, _ = io.ReadFull(c, make([]byte, 10))
		return "", string([]byte{5, 0, 0, socksIP4, 1, 2, 3, 4, 0, 80}) + greeting
	})
	for _, url := range []string{"http://" + http.addr, "socks5://" + socks.addr} {
		conn, err := proxy(t, url).Dial(t.Context(), "tcp", public)
		wantTunnel(t, conn, err)
	}
}

// TestProxyFails: whatever a proxy answers, the error says what to look at and
// does not hold the password.
func TestProxyFails(t *testing.T) {
	for name, c := range map[string]struct{ scheme, answer, want string }{
		"refusal":          {"http", "HTTP/1.1 403 Forbidden\r\n\r\n", "status 403"},
		"not HTTP":         {"http", "SSH-2.0-x\r\n\r\n", "not HTTP"},
		"no end":           {"http", "HTTP/1.1 200 OK\r\nA: " + strings.Repeat("x", maxConnectHead), "no end"},
		"no SOCKS":         {"socks5", "HTTP/1.1 400 Bad Request\r\n\r\n", "not SOCKS5"},
		"credentials":      {"socks5", "\x05\xff", "credentials"},
		"wrong password":   {"socks5", "\x05\x02\x01\x01", "credentials"},
		"refused":          {"socks5", "\x05\x00\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00", "not allowed by its rules"},
		"unknown code":     {"socks5", "\x05\x00\x05\x63\x00\x01\x00\x00\x00\x00\x00\x00", "code 99"},
		"unknown address":  {"socks5", "\x05\x00\x05\x00\x00\x09\x00\x00\x00\x00\x00\x00", "not SOCKS5"},
		"other version":    {"socks5", "\x05\x00\x04\x00\x00\x01\x00\x00\x00\x00\x00\x00", "not SOCKS5"},
		"version of login": {"socks5", "\x04\x00", "not SOCKS5"},
	} {
		server := newProxy(t, listen(t), func(net.Conn) (string, string) { return "", c.answer })
		_, err := proxy(t, c.scheme+"://me:"+hidden+"@"+server.addr).Dial(t.Context(), "tcp", public)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), hidden) {
			t.Errorf("%s: %v", name, err)
		}
	}
	gone := listen(t)
	_ = gone.Close()
	if _, err := proxy(t, "http://me:"+hidden+"@"+gone.Addr().String()).Dial(t.Context(), "tcp", public); err == nil || strings.Contains(err.Error(), hidden) {
		t.Errorf("a proxy that isn't there: %v", err)
	}
	for _, url := range []string{"http://me:" + hidden + "@host", "ftp://me:" + hidden + "@host:1", "http://me:" + hidden + "\x7f@host:1"} {
		if _, err := NewProxy(url, nil, nil); err == nil || strings.Contains(err.Error(), hidden) {
			t.Errorf("%q: %v", url, err)
		}
	}
}

// TestSilentProxy: a proxy that says nothing holds nobody up for longer than
// they want to wait.
func TestSilentProxy(t *testing.T) {
	reached := make(chan struct{}, 2)
	server := newProxy(t, listen(t), func(c net.Conn) (string, string) {
		reached <- struct{}{}
		_, _ = io.Copy(io.Discard, c)
		return "", ""
	})
	for _, scheme := range []string{"http", "socks5h"} {
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-reached
			cancel()
		}()
		if _, err := proxy(t, scheme+"://"+server.addr).Dial(ctx, "tcp", public); err == nil {
			t.Errorf("%s: connected", scheme)
		}
	}
}

// TestProxyOfWhatItIsNotAskedFor: nothing reaches the proxy, and nothing goes
// around it.
func TestProxyOfWhatItIsNotAskedFor(t *testing.T) {
	server := newProxy(t, listen(t), func(net.Conn) (string, string) { return "anything", "" })
	host, _, _ := net.SplitHostPort(server.addr)
	p := proxy(t, "http://"+server.addr)
	p.name = "proxy.example.com"
	for _, name := range []string{"proxy.example.com", "intranet", "127.0.0.1", "2130706433", "a.0x7f", "A.example.com", "a.example.com.", "", "a..com", "a\r\nb.com", "::1"} {
		if p.DialsName(name) {
			t.Errorf("%q is for the proxy", name)
		}
		if _, err := p.DialName(t.Context(), "tcp", name, 443); !errors.Is(err, errProxyName) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if _, err := p.Dial(t.Context(), "tcp", netip.AddrPortFrom(netip.MustParseAddr(host), 22)); !errors.Is(err, errProxyItself) {
		t.Errorf("the proxy's own address: %v", err)
	}
	if _, err := p.Dial(t.Context(), "udp", public); !errors.Is(err, errProxyUDP) {
		t.Errorf("UDP to an address: %v", err)
	}
	if _, err := p.DialName(t.Context(), "udp", "a.example.com", 443); !errors.Is(err, errProxyUDP) {
		t.Errorf("UDP to a name: %v", err)
	}
	for name, want := range map[string]dnsmessage.RCode{"a.Example.com.": dnsmessage.RCodeRefused, "proxy.example.com.": dnsmessage.RCodeNameError} {
		if m, err := p.Resolve(t.Context(), question(name)); err != nil || m.RCode != want {
			t.Errorf("%s: %v, %v", name, m.RCode, err)
		}
	}
	if got := server.last(); got != "" {
		t.Errorf("the proxy was asked for %s", got)
	}
}

// TestProxyWithAddressesResolvesHere: with the resolvers that were given.
func TestProxyWithAddressesResolvesHere(t *testing.T) {
	p, err := NewProxy("socks5://127.0.0.1:1", nil, &Host{Nameservers: []netip.AddrPort{newNameServer(t, plain).addr}})
	if err != nil {
		t.Fatal(err)
	}
	m, err := p.Resolve(t.Context(), question("a.example.com."))
	if err != nil || len(m.Answers) != 1 || p.DialsName("a.example.com") {
		t.Errorf("%v, %v", m, err)
	}
}

// TestOverridesWinOverProxy: by name and by address.
func TestOverridesWinOverProxy(t *testing.T) {
	server := newProxy(t, listen(t), shakeHTTP)
	direct := newProxy(t, listen(t), func(net.Conn) (string, string) { return "direct", greeting })
	fixed := netip.MustParseAddr("9.9.9.9")
	r := &Redirect{
		Overrides: Overrides{
			Names: map[string][]netip.Addr{"fixed.example.com": {fixed}},
			Dial:  map[string]netip.AddrPort{fixed.String(): netip.MustParseAddrPort(direct.addr)},
		},
		Next: proxy(t, "http://me:"+hidden+"@"+server.addr),
	}
	if r.DialsName("fixed.example.com") || !r.DialsName("a.example.com") {
		t.Error("the wrong names go to the proxy")
	}
	if _, err := r.DialName(t.Context(), "tcp", "fixed.example.com", 443); err == nil {
		t.Error("a fixed name goes to the proxy")
	}
	if m, err := r.Resolve(t.Context(), question("fixed.example.com.")); err != nil || len(m.Answers) != 1 {
		t.Errorf("resolve: %v, %v", m, err)
	}
	conn, err := r.Dial(t.Context(), "tcp", netip.AddrPortFrom(fixed, 443))
	wantTunnel(t, conn, err)
	conn, err = r.DialName(t.Context(), "tcp", "a.example.com", 443)
	wantTunnel(t, conn, err)
	conn, err = r.Dial(t.Context(), "tcp", public)
	wantTunnel(t, conn, err)
	if diff := cmp.Diff([]string{"a.example.com:443", "8.8.8.8:443"}, server.asked); diff != "" {
		t.Error(diff)
	}
	r.Overrides.Only = true
	if _, err := r.DialName(t.Context(), "tcp", "a.example.com", 443); err == nil || r.DialsName("a.example.com") {
		t.Error("the proxy is asked although nothing but the overrides is reachable")
	}
	if (&Redirect{Next: &Host{}}).DialsName("a.example.com") {
		t.Error("a name is dialed without a proxy")
	}
}

func FuzzConnectHead(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nA: b\r\n\r\nrest"))
	f.Add([]byte("HTTP/1.0 407\n\n"))
	f.Add([]byte("HTTP/1.1 200 OK\r\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r := strings.NewReader(string(raw))
		status, err := readConnectHead(r)
		read := raw[:len(raw)-r.Len()]
		switch {
		case len(read) > maxConnectHead:
			t.Fatalf("%d bytes were read", len(read))
		case err == nil && (status < 0 || status > 999 || !ends(read) || ends(read[:len(read)-1])):
			t.Fatalf("%q: status %d", read, status)
		}
	})
}

func FuzzSocksReply(f *testing.F) {
	f.Add([]byte{5, 0, 0, socksIP4, 1, 2, 3, 4, 0, 80, 'r'})
	f.Add([]byte{5, 0, 0, socksName, 1, 'x', 0, 80})
	f.Add([]byte{5, 1, 0, socksIP6, 0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		r := strings.NewReader(string(raw))
		if err := readSocksReply(r); err == nil && raw[0] != socksVersion {
			t.Fatal("another version")
		}
		if read := len(raw) - r.Len(); read > 4+1+maxSocksText+2 {
			t.Fatalf("%d bytes were read", read)
		}
	})
}
