package gateway

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/atollhq/atoll/internal/gateway/policy"
	"github.com/atollhq/atoll/internal/gateway/upstream"
)

// hostAddrsAge is how old the knowledge of the host's addresses may be.
const hostAddrsAge = 3 * time.Second

// ruleBlind is given while the host's addresses can't be read: without them
// nobody knows which addresses are the host's.
const ruleBlind = "the host's addresses are unknown"

// ruleTCPOnly is given where connections go through a proxy.
const ruleTCPOnly = "UDP does not go through the operator's proxy"

// judge applies the policy with the host's addresses as they are now.
type judge struct {
	hostAddrs func() ([]netip.Addr, error)
	tcpOnly   bool
	log       *slog.Logger

	mu     sync.Mutex // guards the following
	policy policy.Policy
	read   time.Time // when policy.Host was read
	err    error     // why it couldn't be
}

func newJudge(cfg Config) *judge {
	p := cfg.Policy
	p.Exceptions = slices.Concat(p.Exceptions, cfg.Exceptions)
	p.Own = own(cfg)
	j := &judge{hostAddrs: cfg.HostAddrs, tcpOnly: cfg.TCPOnly, log: cfg.Log, policy: p}
	if j.hostAddrs == nil {
		j.hostAddrs = upstream.HostAddrs
	}
	return j
}

// own is the sandbox's network: nothing behind the gateway may have these
// addresses.
func own(cfg Config) (out []netip.Prefix) {
	n := cfg.Network
	for _, p := range []netip.Prefix{n.Guest4, n.Guest6} {
		if p.IsValid() {
			out = append(out, p.Masked())
		}
	}
	for _, a := range []netip.Addr{n.Gateway4, n.Gateway6} {
		if a.IsValid() {
			out = append(out, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return out
}

// current returns the policy with fresh host addresses.
func (j *judge) current() (policy.Policy, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if time.Since(j.read) < hostAddrsAge {
		return j.policy, j.err
	}
	addrs, err := j.hostAddrs()
	if err != nil && j.err == nil {
		j.log.Error("network closed: can't read the host's addresses", "error", err)
	}
	j.policy.Host, j.err, j.read = addrs, err, time.Now()
	return j.policy, j.err
}

// setLists replaces the sandbox's list and the operator's.
func (j *judge) setLists(allow, ceiling *policy.List) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.policy.Allow, j.policy.Ceiling = allow, ceiling
}

// lists returns what setLists was last told.
func (j *judge) lists() (allow, ceiling *policy.List) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.policy.Allow, j.policy.Ceiling
}

// listed reports whether a list says what may be reached: then connections
// must be known by their names.
func (j *judge) listed() bool {
	allow, ceiling := j.lists()
	return allow != nil || ceiling != nil
}

// Decide answers a query.
func (j *judge) Decide(q policy.Query) policy.Decision {
	p, err := j.current()
	if err != nil {
		return policy.Decision{Rule: ruleBlind}
	}
	if d := p.Decide(q); !d.Allow || q.Proto != policy.UDP || !j.tcpOnly {
		return d
	}
	return policy.Decision{Rule: ruleTCPOnly}
}

// DecideAddr answers whether an address may be reached at all.
func (j *judge) DecideAddr(a netip.Addr) policy.Decision {
	p, err := j.current()
	if err != nil {
		return policy.Decision{Rule: ruleBlind}
	}
	return p.DecideAddr(a)
}

type dialFunc = func(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error)

// guard judges once more what is really dialed, whoever asks for it. The lists
// have been applied before, to the name or address that the guest asked for.
func (j *judge) guard(dial dialFunc) dialFunc {
	return func(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
		d := j.DecideAddr(addr.Addr())
		if !d.Allow || addr.Port() == 0 {
			return nil, fmt.Errorf("dial %s: refused: %s", addr, d.Rule)
		}
		return dial(ctx, network, addr)
	}
}
