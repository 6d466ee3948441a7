// Package gateway is the user-space end of a sandbox's network, and its only
// way out.
//
// A Gateway takes over the host end of the machine's network card. Everything
// the machine sends ends in a TCP/IP stack in this process (netstack): names
// go to the only resolver (dns), connections and flows are judged by the
// policy (policy) and carried on (forward) through an Upstream. Whatever none
// of these understands goes nowhere.
//
//	card → netstack ┬ port 53 → dns ──────────────────────┐
//	                └ the rest → forward ─┬───────────────┴→ policy → Upstream
//	                                      └ HTTP → intercept
//
// The guest is hostile. Each thing it can make the gateway hold is bounded by
// Limits. A Gateway's methods may be called concurrently; it owns all the
// goroutines it starts, and Close waits for them.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"

	"github.com/atollhq/atoll/internal/gateway/audit"
	"github.com/atollhq/atoll/internal/gateway/dns"
	"github.com/atollhq/atoll/internal/gateway/forward"
	"github.com/atollhq/atoll/internal/gateway/intercept"
	"github.com/atollhq/atoll/internal/gateway/names"
	"github.com/atollhq/atoll/internal/gateway/netstack"
	"github.com/atollhq/atoll/internal/gateway/policy"
	"github.com/atollhq/atoll/internal/gateway/secret"
	"github.com/atollhq/atoll/internal/gateway/upstream"
	"github.com/atollhq/atoll/internal/machine"
)

// Upstream is the gateway's way to the world: upstream.Host in production,
// gatewaytest.Internet in tests.
type Upstream = upstream.Upstream

// Limits bounds what one sandbox can hold open. Zero means the default.
type Limits struct {
	TCP int // connections, being set up included; default 4096
	UDP int // flows; default 512
	DNS int // queries in flight; default 256
}

// Config describes a gateway.
type Config struct {
	Network machine.Network
	// Policy is what this sandbox may reach. Its Host and Own are set by the
	// gateway.
	Policy policy.Policy
	// Exceptions are the operator's, added to the policy's.
	Exceptions []netip.Prefix
	// HostAddrs returns the host's own addresses. It is asked again when some
	// seconds have passed since the last time; while it fails, nothing is
	// allowed. Nil means upstream.HostAddrs.
	HostAddrs func() ([]netip.Addr, error)
	Upstream  Upstream
	TCPOnly   bool            // Upstream carries no UDP, so that it is refused at once
	Roots     intercept.Roots // for the certificates of hosts whose connections are opened
	Strict    bool            // every TLS connection is opened, and what isn't HTTP is refused
	Audit     audit.Log       // nil keeps none
	Log       *slog.Logger
	Limits    Limits
}

// Gateway is one sandbox's way out.
type Gateway struct {
	net     netstack.Config
	judge   *judge
	names   *names.Table
	forward *forward.Forwarder
	opener  *intercept.Interceptor
	ca      *intercept.CA
	strict  bool
	dns     *resolver

	mu     sync.Mutex      // guards the following
	ip     *netstack.Stack // nil without a card
	ended  bool
	closed sync.Once
}

// Errors of Attach and DialGuest.
var (
	ErrAttached = errors.New("gateway: a network card is attached already")
	ErrDetached = errors.New("gateway: no network card is attached")
	ErrClosed   = errors.New("gateway: closed")
)

// New makes a gateway without a card.
func New(cfg Config) (*Gateway, error) {
	if cfg.Upstream == nil || cfg.Log == nil {
		return nil, errors.New("gateway: Upstream and Log must be set")
	}
	limits := cfg.Limits.withDefaults()
	if cfg.Audit == nil {
		cfg.Audit = audit.Discard{}
	}
	ca, err := intercept.NewCA()
	if err != nil {
		return nil, fmt.Errorf("make gateway: %w", err)
	}
	g := &Gateway{judge: newJudge(cfg), names: names.NewTable(maxNames), ca: ca, strict: cfg.Strict}
	g.opener = intercept.New(intercept.Config{CA: ca, Roots: cfg.Roots, Strict: cfg.Strict, Audit: cfg.Audit, Log: cfg.Log})
	named, _ := cfg.Upstream.(upstream.NameDialer)
	server := dns.NewServer(dns.Config{
		Resolver:    cfg.Upstream,
		Decide:      g.judge.Decide,
		DecideAddr:  g.judge.DecideAddr,
		Virtual:     g.byName,
		Names:       g.names,
		Unresolved:  func(name string) bool { return named != nil && named.DialsName(name) },
		Refused:     func(name, rule string) { cfg.Audit.Add(refusedName(name, rule)) },
		MaxInFlight: limits.DNS,
		Log:         cfg.Log,
	})
	g.dns = newResolver(server, limits.DNS)
	g.forward = forward.New(forward.Config{
		Decide:   g.judge.Decide,
		Name:     g.nameOf,
		Resolve:  server.Addrs,
		Dial:     g.judge.guard(cfg.Upstream.Dial),
		Named:    named,
		Inspect:  g.inspect,
		Reserved: g.opener.Reserved,
		Opener:   g.opener,
		Audit:    cfg.Audit,
		MaxTCP:   limits.TCP,
		MaxUDP:   limits.UDP,
		Log:      cfg.Log,
	})
	g.net = netstack.Config{Network: cfg.Network, Handler: g, Log: cfg.Log}
	if err := g.net.Validate(); err != nil {
		g.opener.Close()
		return nil, fmt.Errorf("make gateway: %w", err)
	}
	return g, nil
}

func refusedName(name, rule string) audit.Record {
	return audit.Record{Kind: audit.Name, Name: name, Protocol: string(policy.DNS), Decision: audit.Refuse, Rule: rule}
}

// maxNames is how many names a sandbox may be about to connect to.
const maxNames = 8192

// nameOf returns the name that an address stands for; a virtual address that
// stands for none leads nowhere.
func (g *Gateway) nameOf(addr netip.Addr) (name string, virtual bool) {
	if !names.IsVirtual(addr) {
		return "", false
	}
	name, _ = g.names.Lookup(addr)
	return name, true
}

// Names is what the guest's virtual addresses stand for.
func (g *Gateway) Names() names.State { return g.names.State() }

// ContinueNames has virtual addresses stand for what they stood for in another
// gateway, whose guest this one's continues. It comes before Attach.
func (g *Gateway) ContinueNames(st names.State) error { return g.names.Continue(st) }

// byName reports whether connections to a name must be known by it.
func (g *Gateway) byName(name string) bool {
	return g.judge.listed() || g.strict || g.opener.Secrets().Covers(name)
}

const quicPort = 443

// inspect says how much of a connection or flow is read. Where there are
// secrets, no QUIC to whatever address goes past them.
func (g *Gateway) inspect(q policy.Query) forward.Inspection {
	opens, secrets := g.opener.Opens(q), g.opener.Secrets() != nil
	if q.Proto == policy.UDP {
		return forward.Inspection{Open: opens || secrets && q.Port == quicPort}
	}
	return forward.Inspection{Look: opens || secrets || g.judge.listed(), Open: opens}
}

// SetSecrets replaces the secrets, nil for none. It comes before the guest's
// first connection.
func (g *Gateway) SetSecrets(set *secret.Set) { g.opener.SetSecrets(set) }

// CAPEM is the certificate of the authority that opened TLS connections are
// signed with.
func (g *Gateway) CAPEM() string { return g.ca.PEM() }

// SetPolicy replaces the sandbox's list and the operator's; nil is none.
// Connections and flows that are no longer allowed are cut.
func (g *Gateway) SetPolicy(allow, ceiling *policy.List) {
	g.judge.setLists(allow, ceiling)
	g.forward.Reconsider()
}

// Policy returns the lists that apply.
func (g *Gateway) Policy() (allow, ceiling *policy.List) { return g.judge.lists() }

func (l Limits) withDefaults() Limits {
	return Limits{TCP: orElse(l.TCP, 4096), UDP: orElse(l.UDP, 512), DNS: orElse(l.DNS, 256)}
}

func orElse(n, fallback int) int {
	if n <= 0 {
		return fallback
	}
	return n
}

// Attach takes over the machine's network card. It owns nic.File from then
// on, also when it fails. After Detach another card can be attached.
func (g *Gateway) Attach(nic machine.NIC) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	var refused error
	switch {
	case g.ended:
		refused = ErrClosed
	case g.ip != nil:
		refused = ErrAttached
	}
	if refused != nil {
		_ = nic.File.Close()
		return refused
	}
	ip, err := netstack.New(g.net)
	if err != nil {
		_ = nic.File.Close()
		return fmt.Errorf("attach network card: %w", err)
	}
	if err := ip.Attach(nic); err != nil {
		ip.Close()
		return err
	}
	g.ip = ip
	return nil
}

// Detach gives up the card, and with it all connections and flows: the
// machine that had them is gone. Names that the guest knows addresses for
// stay known. It is idempotent.
func (g *Gateway) Detach() {
	ip := g.take()
	if ip == nil {
		return
	}
	g.forward.CutAll()
	ip.Close()
	g.forward.CutAll() // what began meanwhile
}

// take leaves the gateway without a stack.
func (g *Gateway) take() *netstack.Stack {
	g.mu.Lock()
	defer g.mu.Unlock()
	ip := g.ip
	g.ip = nil
	return ip
}

// DialGuest connects to a TCP port of the guest, as the gateway.
func (g *Gateway) DialGuest(ctx context.Context, port uint16) (net.Conn, error) {
	g.mu.Lock()
	ip := g.ip
	g.mu.Unlock()
	if ip == nil {
		return nil, ErrDetached
	}
	return ip.DialGuest(ctx, port)
}

// Close cuts everything, gives up the card and waits until nothing of the
// gateway runs. It is idempotent.
func (g *Gateway) Close() error {
	g.mu.Lock()
	g.ended = true
	g.mu.Unlock()
	g.closed.Do(func() {
		g.dns.stop()
		if ip := g.take(); ip != nil {
			ip.Close()
		}
		g.forward.Close()
		g.opener.Close()
		g.dns.wait()
	})
	return nil
}

const dnsPort = 53

// HandleTCP implements netstack.Handler.
func (g *Gateway) HandleTCP(syn *netstack.Syn) {
	if syn.Dest().Port() == dnsPort {
		g.dns.serveTCP(syn)
		return
	}
	g.forward.HandleTCP(syn)
}

// HandleUDP implements netstack.Handler.
func (g *Gateway) HandleUDP(d *netstack.Datagram) bool {
	if d.Dest().Port() == dnsPort {
		g.dns.serveUDP(d)
		return true
	}
	return g.forward.HandleUDP(d)
}
