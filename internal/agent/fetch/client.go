package fetch

import (
	"cmp"
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Limits of one request.
const (
	maxRedirects       = 20 // as in the Fetch standard
	maxResponseHeaders = 512 << 10
	dialTimeout        = 30 * time.Second
	handshakeTimeout   = 30 * time.Second
	idleTimeout        = 30 * time.Second
)

// A DialFunc opens a connection to the HTTP server of a process. It fails
// with an error that is fit for the client when there is none.
type DialFunc func(ctx context.Context) (net.Conn, error)

// A Request is what to fetch. Body may be nil; Do closes it.
type Request struct {
	URL      string
	Method   string
	Headers  [][2]string
	Manual   bool // return redirects instead of following them
	Body     io.ReadCloser
	ToServer DialFunc // nil for the network
}

// A Response is what came back. Body is nil where the Fetch standard says
// that there is none; otherwise the caller closes it.
type Response struct {
	Status     int
	StatusText string
	Headers    [][2]string // names in lower case
	Body       io.ReadCloser
}

// Client makes requests. Its zero value is not usable: see NewClient.
type Client struct{ network *http.Transport }

// NewClient returns a client. Close frees its idle connections.
func NewClient() *Client {
	dialer := &net.Dialer{Timeout: dialTimeout, Resolver: &net.Resolver{PreferGo: true}}
	t := newTransport(dialer.DialContext)
	t.ForceAttemptHTTP2 = true
	return &Client{network: t}
}

// Close ends the idle connections. Running requests go on.
func (c *Client) Close() { c.network.CloseIdleConnections() }

func newTransport(dial func(context.Context, string, string) (net.Conn, error)) *http.Transport {
	return &http.Transport{
		DialContext:            dial,
		TLSHandshakeTimeout:    handshakeTimeout,
		IdleConnTimeout:        idleTimeout,
		MaxIdleConns:           32,
		MaxIdleConnsPerHost:    4,
		MaxResponseHeaderBytes: maxResponseHeaders,
		DisableCompression:     true, // see decode.go
	}
}

// transport picks the way for a request. A process's server may restart at
// any time, so its connections are not kept, and an attempt to reach it ends
// with the request (the context that http.Transport hands out lives on).
func (c *Client) transport(ctx context.Context, to DialFunc) http.RoundTripper {
	if to == nil {
		return c.network
	}
	t := newTransport(func(context.Context, string, string) (net.Conn, error) { return to(ctx) })
	t.DisableKeepAlives = true
	return t
}

// Do makes the request and follows redirects. The context also governs the
// response's body. Errors are *Error or the context's.
func (c *Client) Do(ctx context.Context, r Request) (*Response, error) {
	body := newReplay(r.Body)
	res, err := c.follow(ctx, r, body)
	if err != nil || res.Body == nil {
		body.close()
		return res, err
	}
	res.Body = &exchange{ReadCloser: res.Body, upload: body}
	return res, nil
}

// exchange is a response's body that ends the upload when it is closed.
type exchange struct {
	io.ReadCloser
	upload *replay
}

func (e *exchange) Close() error {
	e.upload.close()
	return e.ReadCloser.Close()
}

func (c *Client) follow(ctx context.Context, r Request, body *replay) (*Response, error) {
	hop, err := firstHop(r, body)
	if err != nil {
		return nil, err
	}
	transport := c.transport(ctx, r.ToServer)
	for redirects := 0; ; redirects++ {
		res, err := hop.send(ctx, transport, r.ToServer != nil)
		if err != nil {
			return nil, sendError(ctx, hop.url, err)
		}
		location, ok := redirectTarget(res)
		if r.Manual || !ok {
			return respond(hop, res)
		}
		res.Body.Close()
		if redirects == maxRedirects {
			return nil, failed(hop.url, "too many redirects")
		}
		if err := hop.redirect(res.StatusCode, location); err != nil {
			return nil, err
		}
	}
}

// A hop is one request on the way along the redirects.
type hop struct {
	url    *url.URL
	method string
	header http.Header
	host   string  // the caller's own Host header
	body   *replay // nil: no body
	decode bool    // undo the gzip that was asked for
}

func firstHop(r Request, body *replay) (*hop, error) {
	u, err := parseURL(r.URL)
	if err != nil {
		return nil, err
	}
	method, err := parseMethod(r.Method)
	if err != nil {
		return nil, err
	}
	header, err := parseHeaders(r.Headers)
	if err != nil {
		return nil, err
	}
	if r.Body == nil {
		body = nil
	} else if method == http.MethodGet || method == http.MethodHead {
		return nil, invalid("Request with GET/HEAD method cannot have body.")
	}
	h := &hop{url: u, method: method, header: header, body: body}
	h.host = header.Get("Host")
	header.Del("Host")
	h.defaults()
	return h, nil
}

// defaults sets the headers that fetch() sets by itself.
func (h *hop) defaults() {
	if h.header.Get("Accept") == "" {
		h.header.Set("Accept", "*/*")
	}
	if h.header.Get("User-Agent") == "" {
		h.header.Set("User-Agent", "Atoll")
	}
	if len(h.header.Values("Accept-Encoding")) == 0 {
		h.header.Set("Accept-Encoding", "gzip")
		h.decode = true
	}
	if user := h.url.User; user != nil {
		if h.header.Get("Authorization") == "" {
			password, _ := user.Password()
			h.header.Set("Authorization", basic(user.Username(), password))
		}
		h.url.User = nil
	}
}

// send makes one request. A process's server speaks plain HTTP, also for
// https URLs.
func (h *hop) send(ctx context.Context, via http.RoundTripper, plain bool) (*http.Response, error) {
	target := *h.url
	target.Fragment = ""
	if plain {
		target.Scheme = "http"
	}
	req := (&http.Request{
		Method: h.method, URL: &target, Host: cmp.Or(h.host, h.url.Host), Header: h.header.Clone(),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}).WithContext(ctx)
	if h.body != nil {
		req.Body, req.ContentLength = h.body.open(ctx)
	}
	return via.RoundTrip(req)
}

// redirectTarget returns the Location of a redirect. Without one, a 3xx is an
// ordinary response.
func redirectTarget(res *http.Response) (string, bool) {
	switch res.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther,
		http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		location := res.Header.Get("Location")
		return location, location != ""
	}
	return "", false
}

// redirect turns h into the request that follows a redirect, by the rules of
// https://fetch.spec.whatwg.org/#http-redirect-fetch.
func (h *hop) redirect(status int, location string) error {
	next, err := h.url.Parse(location)
	if err != nil {
		return failed(h.url, "the server redirects to an invalid URL")
	}
	if next.Scheme != "http" && next.Scheme != "https" {
		return failed(h.url, "the server redirects to a URL that is not http or https")
	}
	if next.Fragment == "" {
		next.Fragment = h.url.Fragment
	}
	post := h.method == http.MethodPost
	get := h.method == http.MethodGet || h.method == http.MethodHead
	if (status <= http.StatusFound && post) || (status == http.StatusSeeOther && !get) {
		h.dropBody()
	}
	if h.body != nil && !h.body.rewind() {
		return failed(h.url, "the server redirects, but the request's body is too long to be sent again")
	}
	if !sameOrigin(h.url, next) {
		for _, name := range []string{"Authorization", "Proxy-Authorization", "Cookie"} {
			h.header.Del(name)
		}
		h.host = ""
	}
	next.User = nil
	h.url = next
	return nil
}

// dropBody makes the request a GET.
func (h *hop) dropBody() {
	h.method, h.body = http.MethodGet, nil
	for _, name := range []string{"Content-Encoding", "Content-Language", "Content-Location", "Content-Type", "Content-Length"} {
		h.header.Del(name)
	}
}

func sameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(a.Hostname(), b.Hostname()) && port(a) == port(b)
}

func port(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	if u.Scheme == "https" {
		return "443"
	}
	return "80"
}
