package intercept

import (
	"cmp"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"net/netip"
	"net/textproto"
	"strconv"
	"strings"
	"sync"

	"github.com/atollhq/atoll/internal/gateway/policy"
	"github.com/atollhq/atoll/internal/gateway/secret"
)

// serve answers one request of the guest.
func serve(w http.ResponseWriter, r *http.Request) {
	c := connectionOf(r)
	if !c.begin() {
		panic(http.ErrAbortHandler) // its connection has ended
	}
	defer c.requests.Done()
	e := newExchange(c, r)
	defer e.report()
	out := &responseWriter{ResponseWriter: w, exchange: e}
	if no := e.judge(r); no != nil {
		no.answer(out, r)
		return
	}
	// Nothing is added to what upstream says.
	w.Header()["Date"], w.Header()["Content-Type"] = nil, nil
	r.Body = &countingBody{r.Body, &e.sent}
	proxy := &httputil.ReverseProxy{
		Rewrite:       e.rewrite,
		Transport:     e,
		FlushInterval: -1,
		BufferPool:    buffers,
		ErrorLog:      silent,
		ErrorHandler:  func(_ http.ResponseWriter, r *http.Request, err error) { e.fail(err).answer(out, r) },
	}
	proxy.ServeHTTP(out, r)
}

// exchange is one request and its response.
type exchange struct {
	*connection
	record
	secret *secret.Exchange // nil until the request was prepared
}

// judge is what is wrong with a request, or nil.
func (e *exchange) judge(r *http.Request) *refusal {
	switch {
	case r.Method == http.MethodConnect:
		return refuse(http.StatusForbidden, "CONNECT_REFUSED", e.host, ruleConnect, "no tunnel can be opened through a host: connect to its end directly")
	case !e.names(r.Host):
		return e.misdirected(r)
	case e.query.Name == "" && e.of.Reserved(hostname(r.Host), e.query.Port):
		return refuse(http.StatusForbidden, "HOST_BY_ADDRESS", hostname(r.Host), ruleByAddress, "a host of a secret is reached by its name only: resolve it in the sandbox")
	case e.refused != nil:
		return e.fail(e.refused)
	}
	return nil
}

// misdirected is a request for another host than the connection's. On HTTP/2
// its status makes clients that share connections try again on another one.
func (e *exchange) misdirected(r *http.Request) *refusal {
	status := http.StatusForbidden
	if r.ProtoMajor == 2 {
		status = http.StatusMisdirectedRequest
	}
	return refuse(status, "HOST_MISMATCH", cmp.Or(hostname(r.Host), r.Host), ruleOtherHost, "the connection is to "+e.host+" and the request is for another host")
}

// names reports whether a Host header is for the connection's destination. At
// an address it may be any, unless the address is a secret's host itself.
func (e *exchange) names(host string) bool {
	name := hostname(host)
	if e.query.Name != "" {
		normal, err := policy.NormalName(name)
		return err == nil && normal == e.query.Name
	}
	if e.of.holdsAddr(e.query) {
		addr, err := netip.ParseAddr(strings.Trim(name, "[]"))
		return err == nil && addr.Unmap() == e.query.Addr.Unmap()
	}
	return name != "" || host == ""
}

// hostname takes the port off a Host header. It is empty where there is
// something else than a port.
func hostname(host string) string {
	i := strings.LastIndexByte(host, ':')
	if i < 0 || strings.HasSuffix(host, "]") {
		return host
	}
	if port := host[i+1:]; port != "" {
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return ""
		}
	}
	return host[:i]
}

// rewrite makes the request that goes on: the guest's own, less what concerns
// the guest's connection only.
func (e *exchange) rewrite(p *httputil.ProxyRequest) {
	p.Out.URL.Scheme = "http"
	if e.tls {
		p.Out.URL.Scheme = "https"
	}
	p.Out.URL.Host, p.Out.Host = e.authority(), p.In.Host
	p.Out.URL.RawQuery = p.In.URL.RawQuery
	p.Out.Trailer = p.In.Trailer // is filled when the body ends
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		if values := p.In.Header[name]; values != nil {
			p.Out.Header[name] = values
		}
	}
	if !e.mayBecome(p.Out.Header.Get("Upgrade")) {
		p.Out.Header.Del("Upgrade")
		p.Out.Header.Del("Connection")
	}
}

// mayBecome reports whether a connection may change to a protocol. HTTP/2 and
// TLS would carry requests that nobody judges; where there are secrets, only
// what is read may follow.
func (e *exchange) mayBecome(proto string) bool {
	if strings.EqualFold(proto, protoWebSocket) {
		return true
	}
	proto = strings.ToLower(proto)
	for _, no := range []string{"h2", "http", "tls"} {
		if strings.HasPrefix(proto, no) {
			return false
		}
	}
	return !e.of.Opens(e.query)
}

// RoundTrip implements http.RoundTripper.
func (e *exchange) RoundTrip(r *http.Request) (*http.Response, error) {
	x, err := e.of.Secrets().Begin(e.dest(), r)
	if err != nil {
		return nil, err
	}
	e.secret = x
	r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(_ int, h textproto.MIMEHeader) error {
			x.Inform(http.Header(h))
			return nil
		},
	}))
	resp, err := e.upstream.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return e.upgrade(resp)
	}
	if err := x.Respond(resp); err != nil {
		_ = resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

// buffers are for the bodies of responses.
var buffers = &bufferPool{sync.Pool{New: func() any { b := make([]byte, bufferSize); return &b }}}

type bufferPool struct{ pool sync.Pool }

// Get implements httputil.BufferPool.
func (p *bufferPool) Get() []byte { return *p.pool.Get().(*[]byte) }

// Put implements httputil.BufferPool.
func (p *bufferPool) Put(b []byte) { p.pool.Put(&b) }
