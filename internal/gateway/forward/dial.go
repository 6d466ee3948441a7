package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/atollhq/atoll/internal/gateway/policy"
)

// attemptTimeout is how long one of several addresses of a name may take.
const attemptTimeout = 10 * time.Second

var (
	errNoConn = errors.New("upstream returned no connection")
	errNoName = errors.New("a virtual address without a name")
)

// query is what the guest asks for when it sends to dest.
func (f *Forwarder) query(proto policy.Proto, dest netip.AddrPort) (policy.Query, error) {
	q := policy.Query{Proto: proto, Addr: dest.Addr(), Port: dest.Port()}
	name, virtual := f.cfg.Name(dest.Addr())
	switch {
	case virtual && name == "":
		return q, errNoName
	case virtual:
		q.Name, q.Addr = name, netip.Addr{}
	}
	return q, nil
}

// dial connects to what was asked for: an address, or a name's addresses in
// turn. The record learns which, or that it failed.
func (f *Forwarder) dial(q policy.Query, rec *record) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(f.ctx, dialTimeout)
	defer cancel()
	conn, addr, err := f.dialEach(ctx, q)
	if err != nil {
		rec.Note = "could not be reached"
		f.cfg.Log.Debug("dial failed", "network", string(q.Proto), "name", q.Name, "addr", q.Addr, "port", q.Port, "error", err)
	}
	rec.Addr = addr
	return conn, err
}

func (f *Forwarder) dialEach(ctx context.Context, q policy.Query) (net.Conn, netip.Addr, error) {
	if q.Name == "" {
		conn, err := f.dialAddr(ctx, q, q.Addr)
		return conn, q.Addr, err
	}
	if f.cfg.Named != nil && f.cfg.Named.DialsName(q.Name) {
		conn, err := f.cfg.Named.DialName(ctx, string(q.Proto), q.Name, q.Port)
		return conn, netip.Addr{}, err
	}
	addrs, err := f.cfg.Resolve(ctx, q.Name)
	if err != nil {
		return nil, netip.Addr{}, err
	}
	var failed error
	for _, a := range addrs {
		attempt, cancel := context.WithTimeout(ctx, attemptTimeout)
		conn, err := f.dialAddr(attempt, q, a)
		cancel()
		if err == nil {
			return conn, a, nil
		}
		failed = errors.Join(failed, err)
	}
	return nil, netip.Addr{}, fmt.Errorf("dial %s: %w", q.Name, failed)
}

func (f *Forwarder) dialAddr(ctx context.Context, q policy.Query, addr netip.Addr) (net.Conn, error) {
	conn, err := f.cfg.Dial(ctx, string(q.Proto), netip.AddrPortFrom(addr, q.Port))
	if err == nil && conn == nil {
		err = errNoConn
	}
	return conn, err
}
