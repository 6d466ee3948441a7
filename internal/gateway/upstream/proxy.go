package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/atollhq/atoll/internal/gateway/policy"
)

// proxyTimeout bounds what is said to a proxy before a connection is open.
const proxyTimeout = 30 * time.Second

// Errors of a Proxy. None of its errors holds its URL: that may hold a
// password.
var (
	errProxyURL    = errors.New("not the URL of an HTTP or SOCKS5 proxy")
	errProxyUDP    = errors.New("UDP does not go through a proxy")
	errProxyItself = errors.New("the proxy itself is not reached through it")
	errProxyName   = errors.New("not a name that a proxy is asked for")
)

// Proxy is an Upstream whose connections all go through an HTTP or SOCKS5
// proxy; there is no way around it. An HTTP proxy and a SOCKS5 proxy with
// names (socks5h) are told the name that the guest asked for, and nobody
// resolves it here. A SOCKS5 proxy without names is told addresses, which Host
// resolves.
type Proxy struct {
	host    *Host
	address string      // "host:port" of the proxy
	name    string      // its host, in lower case and without a final dot
	tls     *tls.Config // of the connection to it; nil for none
	shake   func(net.Conn, target) error
	named   bool // it is told names
}

var (
	_ Upstream   = (*Proxy)(nil)
	_ NameDialer = (*Proxy)(nil)
)

// target is what a proxy is asked to connect to: a name, or an address where
// that is empty.
type target struct {
	name string
	addr netip.Addr
	port uint16
}

func (t target) String() string {
	host := t.name
	if host == "" {
		host = t.addr.String()
	}
	return net.JoinHostPort(host, strconv.Itoa(int(t.port)))
}

// NewProxy makes the Upstream of a URL with the scheme http, https, socks5 or
// socks5h. The certificate of an https proxy is verified with roots, nil for
// the system's.
func NewProxy(raw string, roots *x509.CertPool, host *Host) (*Proxy, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Hostname() == "" || u.Port() == "" {
		return nil, errProxyURL
	}
	p := &Proxy{host: host, address: u.Host, name: strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))}
	switch u.Scheme {
	case "http", "https":
		p.named, p.shake = true, httpShake(u.User)
	case "socks5", "socks5h":
		p.named, p.shake = u.Scheme == "socks5h", socksShake(u.User)
	default:
		return nil, errProxyURL
	}
	if u.Scheme == "https" {
		p.tls = &tls.Config{ServerName: u.Hostname(), RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	return p, nil
}

// Resolve implements Upstream. A proxy that is told names leaves nothing to
// ask: what it isn't asked for does not exist.
func (p *Proxy) Resolve(ctx context.Context, q dnsmessage.Question) (dnsmessage.Message, error) {
	if !p.named {
		return p.host.Resolve(ctx, q)
	}
	code := dnsmessage.RCodeNameError
	if p.DialsName(strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))) {
		code = dnsmessage.RCodeRefused
	}
	return dnsmessage.Message{Header: dnsmessage.Header{RCode: code}}, nil
}

// Dial implements Upstream.
func (p *Proxy) Dial(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
	return p.dial(ctx, network, target{addr: addr.Addr().Unmap(), port: addr.Port()})
}

// DialsName implements NameDialer. A name of one label means a host of the
// proxy's own network, where the guest has nothing to look for.
func (p *Proxy) DialsName(name string) bool {
	normal, err := policy.NormalName(name)
	return p.named && err == nil && normal == name && strings.Contains(name, ".") && name != p.name
}

// DialName implements NameDialer.
func (p *Proxy) DialName(ctx context.Context, network, name string, port uint16) (net.Conn, error) {
	if !p.DialsName(name) {
		return nil, errProxyName
	}
	return p.dial(ctx, network, target{name: name, port: port})
}

func (p *Proxy) dial(ctx context.Context, network string, to target) (net.Conn, error) {
	if network != "tcp" {
		return nil, errProxyUDP
	}
	ctx, cancel := context.WithTimeout(ctx, proxyTimeout)
	defer cancel()
	conn, err := p.reach(ctx, to.addr)
	if err != nil {
		return nil, fmt.Errorf("reach proxy: %w", err)
	}
	open, err := p.open(ctx, conn, to)
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("connect to %s through proxy: %w", to, err)
	}
	return open, nil
}

// reach connects to the proxy, unless one of its addresses is what the guest
// asks for.
func (p *Proxy) reach(ctx context.Context, asked netip.Addr) (net.Conn, error) {
	host, port, err := net.SplitHostPort(p.address)
	if err != nil {
		return nil, err
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(addrs, func(a netip.Addr) bool { return a.Unmap() == asked }) {
		return nil, errProxyItself
	}
	var failed error
	for _, addr := range addrs {
		d := net.Dialer{KeepAlive: keepAlive}
		conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(addr.Unmap().String(), port))
		if err == nil {
			return conn, nil
		}
		failed = errors.Join(failed, err)
	}
	return nil, failed
}

// open has the proxy connect. When it returns, no byte of the destination has
// been read.
func (p *Proxy) open(ctx context.Context, raw net.Conn, to target) (net.Conn, error) {
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	conn := raw
	if p.tls != nil {
		secure := tls.Client(raw, p.tls)
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, err
		}
		conn = secure
	}
	if err := p.shake(conn, to); err != nil {
		return nil, err
	}
	if !stop() { // the deadline is set, or about to be
		return nil, ctx.Err()
	}
	return conn, nil
}
