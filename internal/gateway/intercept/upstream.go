package intercept

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"
)

// maxUpstreams is how many connections to upstream one of the guest's may
// need: several where an HTTP/2 server allows few requests at a time, or leaves
// while some are still under way.
const maxUpstreams = 8

// upstream is the way that a connection's requests go on. It prefers the
// connections that are there.
type upstream struct {
	transport *http.Transport // makes connections, and pools none
	scheme    string
	authority string

	mu    sync.Mutex // guards the following; held while connecting
	conns []*http.ClientConn
}

func newUpstream(scheme, authority string, speak func(*http.Protocols)) *upstream {
	p := new(http.Protocols)
	speak(p)
	return &upstream{scheme: scheme, authority: authority, transport: &http.Transport{
		Protocols:              p,
		DisableCompression:     true, // what the guest accepts is the guest's to say
		MaxResponseHeaderBytes: maxHead,
		ReadBufferSize:         bufferSize, WriteBufferSize: bufferSize,
		ExpectContinueTimeout: time.Second,
		HTTP2:                 &http.HTTP2Config{MaxReceiveBufferPerStream: window, MaxReceiveBufferPerConnection: 2 * window},
	}}
}

// RoundTrip implements http.RoundTripper. A request that can be sent again is,
// once, when the connection turns out to have ended meanwhile.
func (u *upstream) RoundTrip(r *http.Request) (*http.Response, error) {
	conn, fresh, err := u.reserve(r.Context())
	if err != nil {
		return nil, err
	}
	resp, err := conn.RoundTrip(r)
	if err == nil || fresh || conn.Err() == nil || !repeatable(r) || r.Context().Err() != nil {
		return resp, err
	}
	if conn, _, err = u.reserve(r.Context()); err != nil {
		return nil, err
	}
	return conn.RoundTrip(r)
}

// repeatable reports whether a request without a body may be sent twice (RFC
// 9110, 9.2.2).
func repeatable(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodDelete, http.MethodPut:
		return r.Body == nil || r.Body == http.NoBody
	}
	return false
}

// reserve returns a connection with room for one request; fresh says that it
// was just made.
func (u *upstream) reserve(ctx context.Context) (conn *http.ClientConn, fresh bool, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.conns = slices.DeleteFunc(u.conns, func(c *http.ClientConn) bool { return c.Err() != nil })
	for _, c := range u.conns {
		if c.Reserve() == nil {
			return c, false, nil
		}
	}
	if len(u.conns) >= maxUpstreams {
		return u.conns[len(u.conns)-1], false, nil // waits there
	}
	c, err := u.transport.NewClientConn(ctx, u.scheme, u.authority)
	if err != nil {
		return nil, false, err
	}
	u.conns = append(u.conns, c)
	return c, true, c.Reserve()
}

// close ends the connections.
func (u *upstream) close() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, c := range u.conns {
		_ = c.Close()
	}
	u.conns = nil
}
