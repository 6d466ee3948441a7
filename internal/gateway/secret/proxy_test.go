package secret

import (
	"bufio"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo is a server that gives back what it gets, in many ways.
func echo(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	w.Header().Set("X-Echo", r.Header.Get("X-Key"))
	w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
	w.Header().Set("Trailer", "X-Last")
	coding := r.Header.Get("X-Coding")
	if coding != "" {
		w.Header().Set("Content-Encoding", coding)
	}
	if r.ContentLength < 0 { // answer in the same way
		w.(http.Flusher).Flush()
	}
	text := inAllForms(string(body))
	if coding != "" {
		text = encoders[coding](text)
	}
	_, _ = io.WriteString(w, text)
	w.Header().Set("X-Last", r.Header.Get("X-Key"))
}

func inAllForms(s string) string {
	quoted, _ := json.Marshal(s)
	return fmt.Sprintf("%s\n%x\n%s\n%s\n%s\n", s, s, base64.StdEncoding.EncodeToString([]byte(s)), quoted, url.QueryEscape(s))
}

// newProxy is a reverse proxy to a server, as the gateway has one.
func newProxy(t *testing.T, set *Set, server *httptest.Server) *httptest.Server {
	t.Helper()
	target, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httptest.NewUnstartedServer(&httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(target) },
		FlushInterval: -1,
		Transport:     exchanging{set, server.Client().Transport},
	})
	proxy.EnableHTTP2 = true
	proxy.StartTLS()
	t.Cleanup(proxy.Close)
	return proxy
}

// exchanging sends requests through a set.
type exchanging struct {
	set  *Set
	next http.RoundTripper
}

func (e exchanging) RoundTrip(r *http.Request) (*http.Response, error) {
	x, err := e.set.Begin(api, r)
	if err != nil {
		return nil, err
	}
	resp, err := e.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	return resp, x.Respond(resp)
}

func newServer(t *testing.T, handler http.HandlerFunc, http2 bool) *httptest.Server {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.EnableHTTP2 = http2
	if !http2 { // the test's client would negotiate it
		server.TLS = &tls.Config{NextProtos: []string{"http/1.1"}}
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	server.Client().Transport.(*http.Transport).DisableCompression = true
	return server
}

// TestThroughProxy sends placeholders of which a real server sends back
// values: it gets them, and the client never sees them.
func TestThroughProxy(t *testing.T) {
	const value = "hunter2+hunter2/hunter2"
	for _, http2 := range []bool{false, true} {
		set := newSet(t, func(s *Spec) { s.Value = value })
		key := set.Env()["KEY"]
		var sawValue bool
		server := newServer(t, func(w http.ResponseWriter, r *http.Request) {
			sawValue = r.Header.Get("X-Key") == value && strings.HasPrefix(r.Proto, "HTTP/2") == http2
			echo(w, r)
		}, http2)
		proxy := newProxy(t, set, server)
		for _, coding := range []string{"", "gzip", "deflate", "br", "zstd"} {
			for _, kind := range []string{"text/plain", "application/octet-stream"} {
				for _, known := range []bool{true, false} {
					sawValue = false
					r := newRequest(t, "POST", proxy.URL, "a "+key+" b")
					r.Header = http.Header{"Content-Type": {kind}, "X-Key": {key}, "X-Coding": {coding}}
					if !known {
						r.ContentLength = -1
					}
					body, header, trailer := do(t, proxy.Client(), r)
					if !sawValue {
						t.Errorf("http2 %t, coding %q, %s: the server didn't see the value", http2, coding, kind)
					}
					if survives(body, value) || header.Get("X-Echo") != key || !known && trailer.Get("X-Last") != key {
						t.Errorf("http2 %t, coding %q, %s: %q, %v, %v", http2, coding, kind, body, header, trailer)
					}
					if kind == "text/plain" && body != inAllForms("a "+key+" b") {
						t.Errorf("http2 %t, coding %q: %q", http2, coding, body)
					}
				}
			}
		}
	}
}

func do(t *testing.T, client *http.Client, r *http.Request) (body string, header, trailer http.Header) {
	t.Helper()
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status)
	}
	body = readAll(t, resp.Body)
	return body, resp.Header, resp.Trailer
}

// TestEventsArriveAtOnce has a server wait for the client to have read each
// event before it sends the next one, compressed and not.
func TestEventsArriveAtOnce(t *testing.T) {
	for _, coding := range []string{"", "gzip", "br", "zstd"} {
		set := newSet(t, nil)
		read := make(chan bool)
		server := newServer(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			var out io.Writer = w
			flush := func() error { return nil }
			if coding != "" {
				w.Header().Set("Content-Encoding", coding)
				c := writers[coding](w)
				defer c.Close()
				out, flush = c, c.Flush
			}
			for i := range 3 {
				fmt.Fprintf(out, "data: %d %s\n\n", i, value)
				_ = flush()
				w.(http.Flusher).Flush()
				<-read
			}
		}, false)
		proxy := newProxy(t, set, server)
		resp, err := proxy.Client().Do(newRequest(t, "GET", proxy.URL, ""))
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(resp.Body)
		for i := range 3 {
			line, err := lines.ReadString('\n')
			if want := fmt.Sprintf("data: %d %s\n", i, set.Env()["KEY"]); err != nil || line != want {
				t.Errorf("%s: %q, %v; want %q", coding, line, err, want)
			}
			_, _ = lines.ReadString('\n')
			read <- true
		}
		if rest := readAll(t, lines); rest != "" {
			t.Errorf("%s: %q is too much", coding, rest)
		}
		_ = resp.Body.Close()
	}
}

// TestRefusedWhileStreaming wants a body's refusal to come out of RoundTrip.
func TestRefusedWhileStreaming(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		set := newSet(t, nil)
		server := newServer(t, echo, http2)
		r := newRequest(t, "POST", server.URL, "not gzip")
		r.Header = http.Header{"Content-Type": {"text/plain"}, "Content-Encoding": {"gzip"}}
		r.ContentLength = -1
		resp, err := exchanging{set, server.Client().Transport}.RoundTrip(r)
		if err == nil {
			_ = resp.Body.Close()
		}
		wantRefusal(t, err, CodeBodyNotReadable)
	}
}
