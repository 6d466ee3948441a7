package intercept

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
)

// The protocols that are read, as ALPN names them.
const (
	protoHTTP1 = "http/1.1"
	protoHTTP2 = "h2"
)

var (
	errProtocol  = errors.New("the guest speaks nothing that can be read")
	errHandshake = errors.New("handshake with the guest")
	errOther     = errors.New("upstream speaks another protocol than before")
)

// prepareTLS shakes hands with upstream first: what it speaks is what the
// guest is offered. When upstream can't be trusted, the guest's requests are
// answered with the reason.
func (c *connection) prepareTLS(ctx context.Context) (net.Conn, error) {
	offered, ok := readable(c.alpn)
	if !ok {
		return nil, errProtocol
	}
	leaf, err := c.of.cfg.CA.Leaf(c.host)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{Certificates: []tls.Certificate{*leaf}, NextProtos: offered, SessionTicketsDisabled: true, DynamicRecordSizingDisabled: true}
	up, err := c.handshake(ctx, c.take(), offered)
	if err != nil {
		c.refused = &untrusted{err}
		return tls.Server(c.guest, config), nil
	}
	chosen := up.ConnectionState().NegotiatedProtocol
	if len(offered) > 0 {
		config.NextProtos = []string{orHTTP1(chosen)}
	}
	c.useTLS(up, chosen)
	if chosen != protoHTTP2 {
		return tls.Server(c.guest, config), nil
	}
	config.CipherSuites = suitesOfHTTP2
	return c.prepareHTTP2(ctx, tls.Server(c.guest, config))
}

// suitesOfHTTP2 are those of TLS 1.2 that it may have (RFC 9113, 9.2.2), with
// the kind of key that leaves have.
var suitesOfHTTP2 = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
}

// prepareHTTP2 shakes hands with a guest that must speak HTTP/2, so that its
// server sees what is inside TLS only, as from a guest that speaks it in plain
// text.
func (c *connection) prepareHTTP2(ctx context.Context, guest *tls.Conn) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, headTimeout)
	defer cancel()
	if err := guest.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("%w: %w", errHandshake, err)
	}
	return newUpdates(guest), nil
}

// readable returns those of the offered protocols that can be read. No offer
// stands for HTTP/1.1.
func readable(offered []string) (out []string, ok bool) {
	for _, p := range offered {
		if p == protoHTTP1 || p == protoHTTP2 {
			out = append(out, p)
		}
	}
	return out, len(out) > 0 || len(offered) == 0
}

func orHTTP1(proto string) string {
	if proto == protoHTTP2 {
		return protoHTTP2
	}
	return protoHTTP1
}

// useTLS makes the way to upstream, which begins with a connection that is
// there.
func (c *connection) useTLS(first *tls.Conn, proto string) {
	c.upstream = newUpstream("https", c.authority(), func(p *http.Protocols) {
		p.SetHTTP1(proto != protoHTTP2)
		p.SetHTTP2(proto == protoHTTP2)
	})
	ready := make(chan *tls.Conn, 1)
	ready <- first
	c.upstream.transport.DialTLSContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		select {
		case up := <-ready:
			return up, nil
		default:
			return c.againTLS(ctx, proto)
		}
	}
}

// againTLS connects once more, to a server that speaks the same.
func (c *connection) againTLS(ctx context.Context, proto string) (net.Conn, error) {
	raw, err := c.again(ctx)
	if err != nil {
		return nil, err
	}
	var offer []string
	if proto != "" {
		offer = []string{proto}
	}
	up, err := c.handshake(ctx, raw, offer)
	if err != nil {
		_ = raw.Close()
		return nil, err
	}
	if up.ConnectionState().NegotiatedProtocol != proto {
		_ = raw.Close()
		return nil, errOther
	}
	return up, nil
}

// handshake verifies that upstream is who the guest wanted to reach.
func (c *connection) handshake(ctx context.Context, raw net.Conn, offer []string) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	roots, err := c.of.roots()
	if err != nil {
		return nil, err
	}
	up := tls.Client(raw, &tls.Config{
		ServerName: c.host, RootCAs: roots, NextProtos: offer, ClientSessionCache: c.of.sessions, DynamicRecordSizingDisabled: true,
	})
	if err := up.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("handshake with %s: %w", c.host, err)
	}
	return up, nil
}

func (i *Interceptor) roots() (*x509.CertPool, error) {
	if i.cfg.Roots == nil {
		return nil, nil
	}
	return i.cfg.Roots()
}

// untrusted is why nothing is sent to an upstream.
type untrusted struct{ cause error }

// Error has words of its own: those of the cause may hold names out of the
// certificate, which may be a value, and addresses of the host.
func (u *untrusted) Error() string {
	_, unknown := errors.AsType[x509.UnknownAuthorityError](u.cause)
	_, otherName := errors.AsType[x509.HostnameError](u.cause)
	_, invalid := errors.AsType[x509.CertificateInvalidError](u.cause)
	switch {
	case unknown:
		return "the host's certificate is from an authority that nobody here trusts"
	case otherName:
		return "the host's certificate is for another name"
	case invalid:
		return "the host's certificate is not valid for this use or at this time"
	}
	return "the TLS handshake with the host failed"
}

func (u *untrusted) Unwrap() error { return u.cause }
