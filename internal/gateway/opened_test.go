package gateway

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"

	"github.com/atollhq/atoll/internal/gateway/audit"
	"github.com/atollhq/atoll/internal/gateway/gatewaytest"
	"github.com/atollhq/atoll/internal/gateway/intercept"
	"github.com/atollhq/atoll/internal/gateway/secret"
	"github.com/atollhq/atoll/internal/machine"
)

// records is an audit that a test reads.
type records struct {
	mu  sync.Mutex
	all []audit.Record
}

func (r *records) Add(rec audit.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, rec)
}

func (r *records) requests() (out []audit.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rec := range r.all {
		if rec.Kind == audit.Request {
			out = append(out, rec)
		}
	}
	return out
}

// opened is a guest with a secret for api.test, whose connections are opened.
type opened struct {
	setup
	audit *records
	real  *intercept.CA // that hosts have their certificates from
	seen  chan *http.Request
}

const secretValue = "sk-the-real-value-0123456789"

func open(t testing.TB, change func(*Config)) opened {
	t.Helper()
	world, err := intercept.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	o := opened{audit: &records{}, real: world, seen: make(chan *http.Request, 64)}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(world.PEM()))
	o.setup = start(t, machine.NICTap, 65520, func(cfg *Config) {
		cfg.Audit, cfg.Roots = o.audit, func() (*x509.CertPool, error) { return roots, nil }
		if change != nil {
			change(cfg)
		}
	})
	set, err := secret.New(map[string]secret.Spec{"KEY": {Hosts: []string{"api.test"}, Value: secretValue}})
	if err != nil {
		t.Fatal(err)
	}
	o.gw.SetSecrets(set)
	o.world.Name("api.test", public4)
	o.world.Name("other.test", public4)
	return o
}

// serve makes the host api.test, or another one, answer with TLS.
func (o opened) serve(t *testing.T, host string, h http.HandlerFunc) {
	t.Helper()
	o.serveAs(t, o.real, host, h)
}

func (o opened) serveAs(t *testing.T, ca *intercept.CA, host string, h http.HandlerFunc) {
	t.Helper()
	leaf, err := ca.Leaf(host)
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{*leaf}, NextProtos: []string{"h2", "http/1.1"}}
	o.world.ServeHTTPS(public4+":443", config, o.note(h))
	o.world.ServeHTTP(public4+":80", o.note(h))
}

func (o opened) note(h http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o.seen <- r
		h(w, r)
	})
}

// client is a guest's program. It dials a name by its virtual address.
func (o opened) client(t *testing.T, http2 bool) *http.Client {
	t.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(o.gw.CAPEM())) {
		t.Fatal("no certificate in the authority's PEM")
	}
	p := new(http.Protocols)
	p.SetHTTP1(!http2)
	p.SetHTTP2(http2)
	tr := &http.Transport{DialContext: o.dialName, TLSClientConfig: &tls.Config{RootCAs: roots}, Protocols: p, DisableCompression: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

func (o opened) dialName(ctx context.Context, _, addr string) (net.Conn, error) {
	host, port, _ := net.SplitHostPort(addr)
	if _, err := netip.ParseAddr(host); err == nil {
		return o.guest.DialTCP(ctx, addr)
	}
	v4, _ := o.gw.names.Assign(host)
	return o.guest.DialTCP(ctx, net.JoinHostPort(v4.String(), port))
}

func get(t *testing.T, c *http.Client, url string) (status int, body string, proto int) {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatalf("get %s: %v", url, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("get %s: %v", url, err)
	}
	return resp.StatusCode, string(b), resp.ProtoMajor
}

// refusalOf is what the gateway answered.
func refusalOf(t *testing.T, body string) (no struct{ Code, Message, Host, Rule string }) {
	t.Helper()
	if err := json.Unmarshal([]byte(body), &no); err != nil {
		t.Fatalf("%q: %v", body, err)
	}
	if no.Message == "" || no.Host == "" || no.Rule == "" {
		t.Errorf("incomplete: %+v", no)
	}
	return no
}

func (o opened) nothingSeen(t *testing.T) {
	t.Helper()
	select {
	case r := <-o.seen:
		t.Errorf("reached upstream: %s %s", r.Method, r.URL)
	default:
	}
}

func TestOpenedKeepsTheProtocol(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		t.Run(fmt.Sprint(http2), func(t *testing.T) {
			o := open(t, nil)
			o.serve(t, "api.test", func(w http.ResponseWriter, r *http.Request) {
				_, _ = fmt.Fprintf(w, "%s %s %s", r.Proto, r.URL.RequestURI(), r.Host)
			})
			c := o.client(t, http2)
			proto := "HTTP/1.1"
			if http2 {
				proto = "HTTP/2.0"
			}
			for range 3 {
				status, body, _ := get(t, c, "https://api.test/a%2fb?q=1;2&x")
				if status != 200 || body != proto+" /a%2fb?q=1;2&x api.test" {
					t.Errorf("%d %q", status, body)
				}
			}
			dials := slices.DeleteFunc(o.world.Attempts(), func(a gatewaytest.Attempt) bool { return a.Network != "tcp" })
			if len(dials) != 1 {
				t.Errorf("dialed %v", dials)
			}
		})
	}
}

func TestOpenedRequestsAreAudited(t *testing.T) {
	o := open(t, nil)
	o.serve(t, "api.test", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusTeapot)
		_, _ = w.Write([]byte("short and stout"))
	})
	resp, err := o.client(t, false).Post("https://api.test/pot?token=x", "text/plain", strings.NewReader("tea"))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	o.gw.opener.Close() // so that the request is over
	want := []audit.Record{{
		Kind: audit.Request, Name: "api.test", Addr: netip.MustParseAddr(public4), Port: 443, Protocol: "http/1.1",
		Method: "POST", Path: "/pot", Status: 418, Sent: 3, Received: 15, Decision: audit.Allow, Rule: "for the connection's host",
	}}
	got := o.audit.requests()
	for i := range got {
		got[i].Time, got[i].Millis = time.Time{}, 0
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

func TestOpenedUpstreamMustBeTrusted(t *testing.T) {
	unknown, err := intercept.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	for name, serve := range map[string]func(o opened, h http.HandlerFunc){
		"unknown authority": func(o opened, h http.HandlerFunc) { o.serveAs(t, unknown, "api.test", h) },
		"another host":      func(o opened, h http.HandlerFunc) { o.serve(t, "other.test", h) },
	} {
		t.Run(name, func(t *testing.T) {
			for _, http2 := range []bool{false, true} {
				o := open(t, nil)
				serve(o, func(http.ResponseWriter, *http.Request) {})
				status, body, _ := get(t, o.client(t, http2), "https://api.test/")
				if no := refusalOf(t, body); status != http.StatusBadGateway || no.Code != "UPSTREAM_UNTRUSTED" || no.Host != "api.test" {
					t.Errorf("%d %+v", status, no)
				}
				o.nothingSeen(t)
			}
		})
	}
}

func TestOpenedConnectionIsForOneHost(t *testing.T) {
	o := open(t, nil)
	o.serve(t, "api.test", func(w http.ResponseWriter, r *http.Request) {})
	for _, tt := range []struct {
		scheme string
		http2  bool
		status int
	}{{"https", false, 403}, {"https", true, 421}, {"http", false, 403}} {
		if tt.scheme == "http" {
			o.gw.SetPolicy(parse(t, "api.test"), nil) // plain text is looked at where there is a list
		}
		c := o.client(t, tt.http2)
		for _, host := range []string{"api.test", "other.test", "API.test.:443", "api.test"} {
			req, _ := http.NewRequest("GET", tt.scheme+"://api.test/", nil)
			req.Host = host
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			switch {
			case host != "other.test":
				if resp.StatusCode != 200 {
					t.Errorf("%s: %d %s", host, resp.StatusCode, body)
				}
				<-o.seen
			case resp.StatusCode != tt.status || refusalOf(t, string(body)).Code != "HOST_MISMATCH":
				t.Errorf("%+v: %d %s", tt, resp.StatusCode, body)
			}
		}
		o.nothingSeen(t)
	}
}

// say sends raw text to a host's port 80 and returns what comes back.
func (o opened) say(t *testing.T, port, text string) string {
	t.Helper()
	c, err := o.dialName(timeout(t), "tcp", "api.test:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	_, _ = c.Write([]byte(text))
	out, _ := io.ReadAll(c)
	return string(out)
}

func TestPlainRequestsForOtherHosts(t *testing.T) {
	o := open(t, nil)
	o.gw.SetPolicy(parse(t, "api.test"), nil)
	o.serve(t, "api.test", func(w http.ResponseWriter, r *http.Request) {})
	for name, text := range map[string]string{
		"absolute form":    "GET http://other.test/ HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n",
		"CONNECT":          "CONNECT other.test:443 HTTP/1.1\r\nHost: api.test\r\n\r\n",
		"CONNECT itself":   "CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n\r\n",
		"no host":          "GET / HTTP/1.0\r\n\r\n",
		"two hosts":        "GET / HTTP/1.1\r\nHost: api.test\r\nHost: other.test\r\n\r\n",
		"both lengths":     "POST / HTTP/1.1\r\nHost: api.test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
		"HTTP/0.9":         "GET /a-path-that-is-long-enough\r\n\r\n",
		"space in header":  "GET / HTTP/1.1\r\nHost : other.test\r\n\r\n",
		"own method":       "BREW / HTTP/1.1\r\nHost: other.test\r\nConnection: close\r\n\r\n",
		"proxy protocol":   "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nGET / HTTP/1.1\r\nHost: api.test\r\n\r\n",
		"HTTP/2, in plain": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nGET / HTTP/1.1\r\nHost: other.test\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			out := o.say(t, "80", text)
			if strings.HasPrefix(out, "HTTP/1.1 2") {
				t.Errorf("answered %q", out)
			}
			o.nothingSeen(t)
		})
	}
}

func TestOpenedSecondRequestOnTheConnection(t *testing.T) {
	o := open(t, nil)
	o.gw.SetPolicy(parse(t, "api.test"), nil)
	o.serve(t, "api.test", func(w http.ResponseWriter, r *http.Request) {})
	out := o.say(t, "80", "GET /1 HTTP/1.1\r\nHost: api.test\r\n\r\nGET /2 HTTP/1.1\r\nHost: other.test\r\n\r\nGET /3 HTTP/1.1\r\nHost: api.test\r\n\r\n")
	if strings.Count(out, "HTTP/1.1 200") != 1 || strings.Count(out, "HTTP/1.1 403") != 1 {
		t.Errorf("%q", out)
	}
	if r := <-o.seen; r.URL.Path != "/1" {
		t.Errorf("first was %s", r.URL)
	}
	o.nothingSeen(t)
}

func TestOpenedHostsSpeakNothingElse(t *testing.T) {
	o := open(t, nil)
	heard := make(chan string, 1)
	o.world.ServeTCP(public4+":25", func(c net.Conn) {
		_, _ = c.Write([]byte("220 greetings\r\n"))
		b, _ := io.ReadAll(c)
		heard <- string(b)
	})
	if out := o.say(t, "25", "EHLO me\r\n"); out != "" {
		t.Errorf("the guest heard %q", out)
	}
	if got := <-heard; got != "" {
		t.Errorf("upstream heard %q", got)
	}
}

func TestOpenedTLSForAnotherName(t *testing.T) {
	o := open(t, nil)
	o.serve(t, "other.test", func(w http.ResponseWriter, r *http.Request) {})
	for _, addr := range []string{"api.test:443", public4 + ":443"} {
		c, err := o.dialName(timeout(t), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		name := "other.test"
		if addr == public4+":443" {
			name = "api.test" // a secret's host, by address
		}
		err = tls.Client(c, &tls.Config{ServerName: name, InsecureSkipVerify: true}).Handshake()
		if err == nil {
			t.Errorf("%s as %s: a handshake", addr, name)
		}
		_ = c.Close()
	}
	o.nothingSeen(t)
}

func TestOpenedStreamsAtOnce(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		o := open(t, nil)
		more := make(chan struct{})
		o.serve(t, "api.test", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = w.Write([]byte("data: 1\n\n"))
			w.(http.Flusher).Flush()
			<-more
			_, _ = w.Write([]byte("data: 2\n\n"))
		})
		resp, err := o.client(t, http2).Get("https://api.test/")
		if err != nil {
			t.Fatal(err)
		}
		in := bufio.NewReader(resp.Body)
		if line, err := in.ReadString('\n'); line != "data: 1\n" {
			t.Errorf("%q %v", line, err)
		}
		close(more)
		if rest, err := io.ReadAll(in); string(rest) != "\ndata: 2\n\n" || err != nil {
			t.Errorf("%q %v", rest, err)
		}
		_ = resp.Body.Close()
	}
}

// Requests and responses of gRPC stream both ways and end with trailers.
func TestOpenedStreamsBothWays(t *testing.T) {
	o := open(t, nil)
	o.serve(t, "api.test", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		buf := make([]byte, 100)
		for {
			n, err := r.Body.Read(buf)
			_, _ = w.Write(buf[:n])
			w.(http.Flusher).Flush()
			if err != nil {
				break
			}
		}
		w.Header().Set("Grpc-Status", "0")
		w.Header().Set(http.TrailerPrefix+"Grpc-Message", "fine "+r.Header.Get("Te"))
	})
	out, in := io.Pipe()
	req, _ := http.NewRequestWithContext(timeout(t), "POST", "https://api.test/svc/method", out)
	req.Header.Set("Te", "trailers")
	req.Header.Set("Content-Type", "application/grpc")
	resp, err := o.client(t, true).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	for _, message := range []string{"\x00\x00\x00\x00\x03one", "\x00\x00\x00\x00\x00", "\x00\x00\x00\x00\x05three"} {
		if _, err := in.Write([]byte(message)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, len(message))
		if _, err := io.ReadFull(resp.Body, b); err != nil || string(b) != message {
			t.Fatalf("%q %v", b, err)
		}
	}
	_ = in.Close()
	if rest, err := io.ReadAll(resp.Body); len(rest) > 0 || err != nil {
		t.Errorf("%q %v", rest, err)
	}
	if resp.Trailer.Get("Grpc-Status") != "0" || resp.Trailer.Get("Grpc-Message") != "fine trailers" {
		t.Errorf("trailers %v", resp.Trailer)
	}
}

func TestOpenedWebSocket(t *testing.T) {
	o := open(t, nil)
	o.serve(t, "api.test", func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer c.CloseNow()
		c.SetReadLimit(-1)
		for {
			kind, b, err := c.Read(r.Context())
			if err != nil {
				return
			}
			if c.Write(r.Context(), kind, b) != nil {
				return
			}
		}
	})
	ctx := timeout(t)
	c, _, err := websocket.Dial(ctx, "wss://api.test/ws", &websocket.DialOptions{HTTPClient: o.client(t, false), CompressionMode: websocket.CompressionContextTakeover})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	c.SetReadLimit(-1)
	for _, size := range []int{0, 1, 125, 126, 65536, 1 << 20} {
		for _, kind := range []websocket.MessageType{websocket.MessageText, websocket.MessageBinary} {
			sent := strings.Repeat("x", size)
			go func() { _ = c.Write(ctx, kind, []byte(sent)) }()
			got, b, err := c.Read(ctx)
			if err != nil || got != kind || string(b) != sent {
				t.Fatalf("%v of %d bytes: %v, %d bytes, %v", kind, size, got, len(b), err)
			}
		}
	}
	if err := c.Ping(contextWithReader(ctx, c)); err != nil {
		t.Error(err)
	}
}

// contextWithReader reads while a ping waits for its pong.
func contextWithReader(ctx context.Context, c *websocket.Conn) context.Context {
	go func() { _, _, _ = c.Read(ctx) }()
	return ctx
}

func TestStrictOpensEveryHost(t *testing.T) {
	o := open(t, func(cfg *Config) { cfg.Strict = true })
	o.serve(t, "other.test", func(w http.ResponseWriter, r *http.Request) {})
	if status, _, _ := get(t, o.client(t, true), "https://other.test/"); status != 200 {
		t.Errorf("status %d", status)
	}
	if len(o.audit.requests()) == 0 {
		o.gw.opener.Close()
		if len(o.audit.requests()) == 0 {
			t.Error("no record")
		}
	}
}

func TestEndToEndWhereNothingIsOpened(t *testing.T) {
	o := open(t, nil)
	o.gw.SetPolicy(parse(t, "other.test"), nil)
	o.serve(t, "other.test", func(w http.ResponseWriter, r *http.Request) {})
	c := o.client(t, true)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(o.real.PEM()))
	c.Transport.(*http.Transport).TLSClientConfig.RootCAs = roots
	if status, _, _ := get(t, c, "https://other.test/"); status != 200 {
		t.Errorf("status %d", status)
	}
}

// A program that doesn't trust the authority shows in the audit.
func TestOpenedUntrustedByTheGuest(t *testing.T) {
	o := open(t, nil)
	o.serve(t, "api.test", func(w http.ResponseWriter, r *http.Request) {})
	c := o.client(t, false)
	c.Transport.(*http.Transport).TLSClientConfig.RootCAs = x509.NewCertPool()
	if resp, err := c.Get("https://api.test/"); err == nil {
		_ = resp.Body.Close()
		t.Fatal("trusted")
	}
	_ = o.gw.Close()
	o.audit.mu.Lock()
	defer o.audit.mu.Unlock()
	for _, rec := range o.audit.all {
		if rec.Kind == audit.Connection && strings.Contains(rec.Note, "trust") {
			return
		}
	}
	t.Errorf("no record says so: %+v", o.audit.all)
}
