// Package upstream is the gateway's way to the world: the host's own network
// and resolvers, a proxy, or an operator's overrides of them.
//
// Nothing here decides what a sandbox may reach; that has happened before.
// What is checked here is that a connection really goes to the address that
// was decided about. A proxy that is told names decides about their addresses
// itself.
//
// Everything in this package may be used by any number of goroutines.
package upstream

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Upstream is what the gateway needs of the world.
type Upstream interface {
	// Resolve asks one question and returns the answer's code and records.
	Resolve(ctx context.Context, q dnsmessage.Question) (dnsmessage.Message, error)
	// Dial connects to exactly addr; network is "tcp" or "udp". A TCP
	// connection should have CloseWrite.
	Dial(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error)
}

// NameDialer is an Upstream that connects to names which nobody resolves here.
// Which address such a name leads to is then unknown.
type NameDialer interface {
	// DialsName reports whether a name, in normal form, is connected to by
	// DialName. Other names are resolved and their addresses dialed.
	DialsName(name string) bool
	// DialName is Dial for a name.
	DialName(ctx context.Context, network, name string, port uint16) (net.Conn, error)
}

// Host is the host's network. The zero Host uses the resolvers that the
// host's own programs use.
type Host struct {
	// Nameservers are asked in order. Empty means those of ResolvConf.
	Nameservers []netip.AddrPort
	// ResolvConf is read again when it changes. Empty means /etc/resolv.conf.
	ResolvConf string

	conf resolvConf
}

var _ Upstream = (*Host)(nil)

const keepAlive = 30 * time.Second

// Dial implements Upstream. It takes a literal address only and verifies, as
// the last thing before the packet leaves, that the socket is about to
// connect to it.
func (h *Host) Dial(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
	d := net.Dialer{
		KeepAlive:      keepAlive,
		ControlContext: only(addr),
	}
	conn, err := d.DialContext(ctx, network, addr.String())
	if err != nil {
		return nil, fmt.Errorf("dial upstream: %w", err)
	}
	return conn, nil
}

// only refuses every address but one.
func only(want netip.AddrPort) func(context.Context, string, string, syscall.RawConn) error {
	return func(_ context.Context, _, address string, _ syscall.RawConn) error {
		got, err := netip.ParseAddrPort(address)
		if err != nil || got.Port() != want.Port() || got.Addr().Unmap() != want.Addr().Unmap() {
			return fmt.Errorf("about to connect to %q instead of %s", address, want)
		}
		return nil
	}
}

// HostAddrs returns the addresses of all the host's interfaces. When they
// can't be read it returns an error, and the caller must not go on as if there
// were none.
func HostAddrs() ([]netip.Addr, error) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("read the host's addresses: %w", err)
	}
	var out []netip.Addr
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, p.Addr())
		}
	}
	return out, nil
}
