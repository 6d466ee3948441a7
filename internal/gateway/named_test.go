package gateway

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/atollhq/atoll/internal/gateway/gatewaytest"
	"github.com/atollhq/atoll/internal/gateway/names"
	"github.com/atollhq/atoll/internal/gateway/upstream"
	"github.com/atollhq/atoll/internal/machine"
)

// proxied is a world that is told names, all but those that end in .fixed.
type proxied struct {
	*gatewaytest.Internet

	mu    sync.Mutex
	asked []string
}

var _ upstream.NameDialer = (*proxied)(nil)

func (p *proxied) DialsName(name string) bool { return !strings.HasSuffix(name, ".fixed") }

func (p *proxied) DialName(ctx context.Context, network, name string, port uint16) (net.Conn, error) {
	p.mu.Lock()
	p.asked = append(p.asked, fmt.Sprintf("%s %s %d", network, name, port))
	p.mu.Unlock()
	return p.Internet.Dial(ctx, network, netip.MustParseAddrPort(public4+":7"))
}

func (p *proxied) known() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.asked)
}

func behindProxy(t *testing.T, change func(*Config)) (setup, *proxied) {
	t.Helper()
	var p *proxied
	s := start(t, machine.NICTap, 1500, func(cfg *Config) {
		p = &proxied{Internet: cfg.Upstream.(*gatewaytest.Internet)}
		cfg.Upstream, cfg.TCPOnly = p, true
		if change != nil {
			change(cfg)
		}
	})
	s.world.ServeTCP(public4+":7", gatewaytest.Echo)
	return s, p
}

func (s setup) lookup(t *testing.T, name string) dnsmessage.Message {
	t.Helper()
	c, err := s.guest.DialUDP("10.11.12.1:53")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return lookup(t, c, name)
}

// addressOf is the virtual address that the guest is told.
func (s setup) addressOf(t *testing.T, name string) netip.Addr {
	t.Helper()
	m := s.lookup(t, name)
	if len(m.Answers) != 1 {
		t.Fatalf("%s: %+v", name, m)
	}
	return netip.AddrFrom4(m.Answers[0].Body.(*dnsmessage.AResource).A)
}

// TestNamesGoToTheProxy: without a list, without a question to any resolver,
// and as the guest wrote them but for their case.
func TestNamesGoToTheProxy(t *testing.T) {
	s, p := behindProxy(t, nil)
	addr := s.addressOf(t, "A.Corp.example.")
	if !names.IsVirtual(addr) {
		t.Fatalf("got %v", addr)
	}
	echo(t, dial(t, s, netip.AddrPortFrom(addr, 8443).String()), 100<<10)
	if diff := cmp.Diff([]string{"tcp a.corp.example 8443"}, p.known()); diff != "" {
		t.Error(diff)
	}
	if got := s.world.Attempts(); len(got) != 1 || got[0].Network != "tcp" {
		t.Errorf("reached the world: %v", got)
	}
}

// TestFixedNamesAreResolved: their addresses are judged and dialed.
func TestFixedNamesAreResolved(t *testing.T) {
	s, p := behindProxy(t, nil)
	s.world.Name("a.fixed", public4)
	s.world.Name("inside.fixed", "10.0.0.1")
	if addr := s.addressOf(t, "a.fixed."); addr.String() != public4 {
		t.Errorf("got %v", addr)
	}
	if m := s.lookup(t, "inside.fixed."); m.RCode != dnsmessage.RCodeRefused {
		t.Errorf("got %+v", m)
	}
	echo(t, dial(t, s, public4+":7"), 100)
	if got := p.known(); len(got) != 0 {
		t.Errorf("the proxy was told %q", got)
	}
}

// TestWhatTheProxyIsNotTold: names that mean this host or an address, refused
// addresses, and UDP.
func TestWhatTheProxyIsNotTold(t *testing.T) {
	s, p := behindProxy(t, nil)
	for _, name := range []string{"localhost.", "a.localhost.", "metadata.internal.", "printer.local.", "127.0.0.1.", "2130706433.", "a.0x7f."} {
		if m := s.lookup(t, name); len(m.Answers) != 0 || m.RCode == dnsmessage.RCodeSuccess {
			t.Errorf("%s: %+v", name, m)
		}
	}
	for _, dest := range []string{"10.0.0.1:80", "127.0.0.1:80", "169.254.169.254:80", "[::1]:80", netip.AddrPortFrom(names.Virtual4.Addr().Next(), 80).String()} {
		if conn, err := s.guest.DialTCP(timeout(t), dest); err == nil {
			t.Errorf("%s: connected", dest)
			_ = conn.Close()
		}
	}
	s.world.ServeUDP(public4+":443", gatewaytest.Echo)
	virtual := s.addressOf(t, "a.example.")
	for _, dest := range []string{public4 + ":443", netip.AddrPortFrom(virtual, 443).String()} {
		wantUnreachable(t, s, dest)
	}
	if got := p.known(); len(got) != 0 {
		t.Errorf("the proxy was told %q", got)
	}
	if got := s.world.Attempts(); len(got) != 0 {
		t.Errorf("reached the world: %v", got)
	}
}

// TestListsApplyBehindAProxy: to the names.
func TestListsApplyBehindAProxy(t *testing.T) {
	s, p := behindProxy(t, func(cfg *Config) { cfg.Policy.Allow = parse(t, "a.example:80") })
	if m := s.lookup(t, "b.example."); m.RCode != dnsmessage.RCodeRefused {
		t.Errorf("got %+v", m)
	}
	addr := s.addressOf(t, "a.example.")
	if conn, err := s.guest.DialTCP(timeout(t), netip.AddrPortFrom(addr, 443).String()); err == nil {
		t.Error("connected to a port that isn't listed")
		_ = conn.Close()
	}
	_ = dial(t, s, netip.AddrPortFrom(addr, 80).String()).Close()
	if diff := cmp.Diff([]string{"tcp a.example 80"}, p.known()); diff != "" {
		t.Error(diff)
	}
}
