// Package policy decides what a sandbox may reach.
//
// The decision is one pure function of a Policy and a Query: no clock, no
// network, no state. Whoever is about to do something for the guest (answer a
// name, connect, pass a datagram) asks first, about exactly the address that
// it is going to use.
//
// Terms: a query is one thing the guest wants to do; a decision is yes or no
// with the rule that said so; a refused range is one of the address blocks
// that no sandbox reaches in any mode, unless the operator excepted it.
//
// A Policy is a value. It is never changed after it was built and may be
// shared by goroutines.
package policy

import (
	"net/netip"
)

// Proto is what the guest wants to do.
type Proto string

// The protocols of a query.
const (
	TCP Proto = "tcp"
	UDP Proto = "udp"
	DNS Proto = "dns" // to have a name answered; the query has no address yet
)

// Query is one thing that the guest wants to do.
type Query struct {
	Proto Proto
	Name  string     // the name that led to Addr, in lower case without the final dot; empty when unknown
	Addr  netip.Addr // where the packet would go; unset for DNS
	Port  uint16     // unset for DNS
}

// Decision is the answer to a query.
type Decision struct {
	Allow bool
	Rule  string // which rule decided, for the log and the audit; stable text
}

// Policy says what a sandbox may reach. The zero Policy is the open internet
// without the refused ranges.
type Policy struct {
	// Allow is the sandbox's own list; nil allows everything. What it allows
	// must be in Ceiling, too, the operator's list.
	Allow, Ceiling *List

	// Exceptions are ranges that the operator opens although they would be
	// refused. A range does not open an address of the host that happens to
	// lie in it: only an exception for that very address (/32 or /128) does.
	Exceptions []netip.Prefix

	// Host are the host's own addresses, refused also where they are public.
	Host []netip.Addr

	// Own is the sandbox's own network. No exception opens it, because
	// nothing behind the gateway has these addresses.
	Own []netip.Prefix
}

// The rules that are not a refused range.
const (
	RuleOpen      = "open internet"
	RuleException = "operator's exception"
	RuleHost      = "the host's own address"
	RuleOwn       = "the sandbox's own network"
	RuleMalformed = "not a destination"
	RuleNotListed = "not in the allow-list"
	RuleCeiling   = "outside the operator's ceiling"
	RuleUDP       = "UDP is refused under an allow-list"
)

// Decide answers a query. An address is judged in all its spellings: an IPv6
// address that carries an IPv4 address is refused when either is.
func (p Policy) Decide(q Query) Decision {
	if q.Name != "" {
		if normal, err := NormalName(q.Name); err != nil || normal != q.Name {
			return Decision{Rule: RuleMalformed}
		}
	}
	switch q.Proto {
	case DNS:
		if q.Name == "" {
			return Decision{Allow: p.Allow == nil && p.Ceiling == nil, Rule: RuleOpen}
		}
		return p.decideLists(q)
	case TCP, UDP:
	default:
		return Decision{Rule: RuleMalformed}
	}
	if q.Port == 0 || !q.Addr.IsValid() && q.Name == "" || q.Addr.Zone() != "" {
		return Decision{Rule: RuleMalformed}
	}
	return p.decideConnection(q)
}

func (p Policy) decideConnection(q Query) Decision {
	if q.Proto == UDP && (p.Allow != nil || p.Ceiling != nil) {
		return Decision{Rule: RuleUDP}
	}
	lists := p.decideLists(q)
	if !lists.Allow || !q.Addr.IsValid() {
		return lists
	}
	if d := p.DecideAddr(q.Addr); !d.Allow || p.Allow == nil && p.Ceiling == nil {
		return d
	}
	return lists
}

// decideLists judges by the sandbox's list and the operator's. The rule that
// allows is the sandbox's own where it has one.
func (p Policy) decideLists(q Query) Decision {
	own, ok := match(p.Allow, q)
	if !ok {
		return Decision{Rule: RuleNotListed}
	}
	ceiling, ok := match(p.Ceiling, q)
	switch {
	case !ok:
		return Decision{Rule: RuleCeiling}
	case own != "":
		return Decision{Allow: true, Rule: own}
	case ceiling != "":
		return Decision{Allow: true, Rule: ceiling}
	}
	return Decision{Allow: true, Rule: RuleOpen}
}

func match(l *List, q Query) (entry string, ok bool) {
	if q.Name != "" {
		return l.MatchName(q.Name, q.Port)
	}
	return l.MatchAddr(q.Addr, q.Port)
}

// DecideAddr answers whether an address may be reached at all, on any port:
// what an answered name is judged by.
func (p Policy) DecideAddr(addr netip.Addr) Decision {
	if !addr.IsValid() || addr.Zone() != "" {
		return Decision{Rule: RuleMalformed}
	}
	addr = addr.Unmap()
	d := p.decideOne(addr)
	if v4, ok := embedded(addr); ok && d.Allow && d.Rule != RuleException {
		return p.decideOne(v4)
	}
	return d
}

func (p Policy) decideOne(addr netip.Addr) Decision {
	if containsAddr(p.Own, addr) {
		return Decision{Rule: RuleOwn}
	}
	if p.isHost(addr) {
		if p.excepted(addr, true) {
			return Decision{Allow: true, Rule: RuleException}
		}
		return Decision{Rule: RuleHost}
	}
	reason := refusedBecause(addr)
	if reason == "" {
		return Decision{Allow: true, Rule: RuleOpen}
	}
	if p.excepted(addr, false) {
		return Decision{Allow: true, Rule: RuleException}
	}
	return Decision{Rule: reason}
}

func (p Policy) isHost(addr netip.Addr) bool {
	for _, h := range p.Host {
		if h.WithZone("").Unmap() == addr {
			return true
		}
	}
	return false
}

func (p Policy) excepted(addr netip.Addr, exact bool) bool {
	for _, e := range p.Exceptions {
		if e.Contains(addr) && (!exact || e.IsSingleIP()) {
			return true
		}
	}
	return false
}

func containsAddr(ranges []netip.Prefix, addr netip.Addr) bool {
	for _, r := range ranges {
		if r.Contains(addr) {
			return true
		}
	}
	return false
}
