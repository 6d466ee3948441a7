package fetch

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newClient returns a client that dials everything at the test's server.
func newClient(t *testing.T) *Client {
	c := NewClient()
	t.Cleanup(c.Close)
	return c
}

func serve(t *testing.T, h http.HandlerFunc) string {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// get fetches and reads the body.
func get(t *testing.T, c *Client, r Request) (*Response, string) {
	t.Helper()
	res, err := c.Do(t.Context(), r)
	if err != nil {
		t.Fatalf("Do(%s): %v", r.URL, err)
	}
	return res, text(t, res)
}

func text(t *testing.T, res *Response) string {
	t.Helper()
	if res.Body == nil {
		return ""
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("read body: %v", err)
	}
	return string(b)
}

func values(res *Response, name string) []string {
	var out []string
	for _, h := range res.Headers {
		if h[0] == name {
			out = append(out, h[1])
		}
	}
	return out
}

func body(s string) io.ReadCloser { return io.NopCloser(strings.NewReader(s)) }

func TestResponse(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("Set-Cookie", "a=1")
		w.Header().Add("Set-Cookie", "b=2")
		w.Header().Set("X-Seen", r.Header.Get("X-Custom")+r.Host)
		w.WriteHeader(http.StatusTeapot)
		io.WriteString(w, "short and stout")
	})
	res, got := get(t, newClient(t), Request{URL: url, Method: "get", Headers: [][2]string{{"x-custom", "v"}, {"host", "other.example"}}})
	if res.Status != 418 || res.StatusText != "I'm a teapot" || got != "short and stout" {
		t.Errorf("got %d %q %q", res.Status, res.StatusText, got)
	}
	if c := values(res, "set-cookie"); !slices.Equal(c, []string{"a=1", "b=2"}) {
		t.Errorf("set-cookie %q", c)
	}
	if c := values(res, "x-seen"); !slices.Equal(c, []string{"vother.example"}) {
		t.Errorf("x-seen %q", c)
	}
}

func TestNullBodies(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		var status int
		fmt.Sscanf(r.URL.Path, "/%d", &status)
		w.WriteHeader(status)
	})
	for _, tc := range []struct{ method, path string }{{"GET", "/204"}, {"GET", "/205"}, {"GET", "/304"}, {"HEAD", "/200"}} {
		res, _ := get(t, newClient(t), Request{URL: url + tc.path, Method: tc.method})
		if res.Body != nil {
			t.Errorf("%s %s has a body", tc.method, tc.path)
		}
	}
	if res, _ := get(t, newClient(t), Request{URL: url + "/200", Method: "GET"}); res.Body == nil {
		t.Error("an empty 200 has no body")
	}
}

func TestGzip(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept-Encoding") == "gzip" {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			defer z.Close()
			io.WriteString(z, "hello")
			return
		}
		io.WriteString(w, r.Header.Get("Accept-Encoding"))
	})
	res, got := get(t, newClient(t), Request{URL: url, Method: "GET"})
	if got != "hello" || values(res, "content-encoding") != nil || values(res, "content-length") != nil {
		t.Errorf("got %q with %v", got, res.Headers)
	}
	if _, got := get(t, newClient(t), Request{URL: url, Method: "GET", Headers: [][2]string{{"accept-encoding", "br"}}}); got != "br" {
		t.Errorf("accept-encoding sent: %q", got)
	}
}

func TestRequestBody(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %d %d", r.Method, r.ContentLength, len(b))
	})
	_, got := get(t, newClient(t), Request{URL: url, Method: "POST", Body: body("12345")})
	if got != "POST 5 5" {
		t.Errorf("short body: %q", got)
	}
	_, got = get(t, newClient(t), Request{URL: url, Method: "PUT", Body: body(strings.Repeat("x", 3*maxReplay))})
	if want := fmt.Sprintf("PUT -1 %d", 3*maxReplay); got != want {
		t.Errorf("long body: %q, want %q", got, want)
	}
	_, got = get(t, newClient(t), Request{URL: url, Method: "POST"})
	if got != "POST 0 0" {
		t.Errorf("no body: %q", got)
	}
}

// TestDuplex: the response starts before the request's body ends.
func TestDuplex(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).EnableFullDuplex()
		w.WriteHeader(200)
		http.NewResponseController(w).Flush()
		io.Copy(w, r.Body)
	})
	pr, pw := io.Pipe()
	res, err := newClient(t).Do(t.Context(), Request{URL: url, Method: "POST", Body: pr})
	if err != nil {
		t.Fatal(err)
	}
	pw.Write([]byte("ping"))
	pw.Close()
	if got := text(t, res); got != "ping" {
		t.Errorf("got %q", got)
	}
}

// TestCloseEndsUpload: who drops the response stops sending, too.
func TestCloseEndsUpload(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).EnableFullDuplex()
		w.WriteHeader(200)
		http.NewResponseController(w).Flush()
		io.Copy(io.Discard, r.Body)
	})
	pr, pw := io.Pipe()
	res, err := newClient(t).Do(t.Context(), Request{URL: url, Method: "POST", Body: pr})
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if _, err := pw.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("write after close: %v", err)
	}
}

func TestAbort(t *testing.T) {
	entered := make(chan struct{})
	url := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done()
	})
	aborted := errors.New("aborted")
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() { <-entered; cancel(aborted) }()
	if _, err := newClient(t).Do(ctx, Request{URL: url, Method: "GET"}); !errors.Is(err, aborted) {
		t.Errorf("err %v", err)
	}
}

func TestErrors(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := "http://" + l.Addr().String() + "/"
	l.Close()
	for _, tc := range []struct {
		name          string
		r             Request
		code, message string
	}{
		{"refused", Request{URL: closed}, "ECONNREFUSED", "error sending request for url (" + closed + "): "},
		{"no url", Request{URL: "nonsense"}, "", "Invalid URL: 'nonsense'"},
		{"no host", Request{URL: "http://"}, "", "Invalid URL: 'http://'"},
		{"scheme", Request{URL: "ftp://x/"}, "", "Url scheme 'ftp' not supported"},
		{"method", Request{URL: closed, Method: "A B"}, "", "Method is not valid: 'A B'"},
		{"forbidden method", Request{URL: closed, Method: "trace"}, "", "Method is forbidden: 'trace'"},
		{"header name", Request{URL: closed, Headers: [][2]string{{"a b", "c"}}}, "", "Invalid header name: 'a b'"},
		{"header value", Request{URL: closed, Headers: [][2]string{{"a", "b\nc"}}}, "", "Invalid header value of 'a'"},
		{"get with body", Request{URL: closed, Body: body("x")}, "", "Request with GET/HEAD method cannot have body."},
	} {
		_, err := newClient(t).Do(t.Context(), tc.r)
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Code != tc.code || !strings.HasPrefix(e.Message, tc.message) {
			t.Errorf("%s: got %+v (%v)", tc.name, e, err)
		}
	}
}

// TestToServer: whatever the URL says, the process's server gets the request
// in plain HTTP and sees the URL's host.
func TestToServer(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/away" {
			http.Redirect(w, r, "https://elsewhere.example/there", http.StatusFound)
			return
		}
		io.WriteString(w, r.Host+r.URL.Path)
	})
	dial := func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", strings.TrimPrefix(url, "http://"))
	}
	c := newClient(t)
	if _, got := get(t, c, Request{URL: "https://example.com:444/x", ToServer: dial}); got != "example.com:444/x" {
		t.Errorf("got %q", got)
	}
	if _, got := get(t, c, Request{URL: "http://a.example/away", ToServer: dial}); got != "elsewhere.example/there" {
		t.Errorf("redirected: got %q", got)
	}
	refuse := func(context.Context) (net.Conn, error) { return nil, &Error{Message: "no server", Code: "ENOENT"} }
	_, err := c.Do(t.Context(), Request{URL: "http://a.example/", ToServer: refuse})
	if e, ok := errors.AsType[*Error](err); !ok || e.Message != "no server" {
		t.Errorf("err %v", err)
	}
}

// TestAbortEndsTheWaitForAServer: a server that does not come up is no longer
// waited for when the request is aborted.
func TestAbortEndsTheWaitForAServer(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	dial := func(ctx context.Context) (net.Conn, error) {
		defer close(ended)
		cancel()
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if _, err := newClient(t).Do(ctx, Request{URL: "http://a.example/", ToServer: dial}); !errors.Is(err, context.Canceled) {
		t.Errorf("err %v", err)
	}
	<-ended
}

func TestStreamingDoesNotWaitForTheEnd(t *testing.T) {
	next := make(chan struct{})
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		for range 3 {
			io.WriteString(w, "tick")
			http.NewResponseController(w).Flush()
			select {
			case <-next:
			case <-time.After(time.Minute):
				return
			}
		}
	})
	res, err := newClient(t).Do(t.Context(), Request{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	for range 3 {
		tick := make([]byte, 4)
		if _, err := io.ReadFull(res.Body, tick); err != nil {
			t.Fatal(err)
		}
		next <- struct{}{}
	}
}
