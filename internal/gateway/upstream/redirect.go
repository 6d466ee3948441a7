package upstream

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	maxOverrides = 1 << 20 // bytes of an overrides file
	overrideTTL  = 60      // seconds
)

// Overrides are an operator's host overrides: names with fixed addresses, and
// addresses that are reached elsewhere. The policy is applied to the address
// that the guest asked for, not to where it is redirected: the operator who
// writes an override vouches for its target.
type Overrides struct {
	// Names maps a name, in lower case and without a final dot, to its
	// addresses.
	Names map[string][]netip.Addr `json:"names,omitempty"`
	// Dial maps "address:port" or an address (all its ports) to the
	// "address:port" to connect to instead.
	Dial map[string]netip.AddrPort `json:"dial,omitempty"`
	// Only makes everything that is not overridden unreachable: names don't
	// exist, connections are refused.
	Only bool `json:"only,omitempty"`
	// Ask has the resolvers asked about names that are not overridden, with
	// Only, too.
	Ask bool `json:"ask,omitempty"`
}

// ReadOverrides reads overrides from a JSON file. Unknown fields and malformed
// keys are errors.
func ReadOverrides(file string) (Overrides, error) {
	var o Overrides
	f, err := os.Open(file)
	if err != nil {
		return o, fmt.Errorf("read host overrides: %w", err)
	}
	defer f.Close()
	dec := json.NewDecoder(io.LimitReader(f, maxOverrides))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&o); err != nil {
		return o, fmt.Errorf("read host overrides: %w", err)
	}
	return o, o.check()
}

func (o Overrides) check() error {
	for key := range o.Dial {
		if _, err := netip.ParseAddrPort(key); err == nil {
			continue
		}
		if _, err := netip.ParseAddr(key); err != nil {
			return fmt.Errorf("host overrides: %q is neither an address nor an address with a port", key)
		}
	}
	for name := range o.Names {
		if name != strings.ToLower(strings.TrimSuffix(name, ".")) {
			return fmt.Errorf("host overrides: write the name %q in lower case without a final dot", name)
		}
	}
	return nil
}

// Redirect is an Upstream with overrides.
type Redirect struct {
	Overrides Overrides
	Next      Upstream // for what is not overridden
}

var (
	_ Upstream   = (*Redirect)(nil)
	_ NameDialer = (*Redirect)(nil)
)

// Resolve implements Upstream.
func (r *Redirect) Resolve(ctx context.Context, q dnsmessage.Question) (dnsmessage.Message, error) {
	name := strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))
	addrs, ok := r.Overrides.Names[name]
	switch {
	case ok:
		return AddressAnswer(q, addrs), nil
	case r.Overrides.Only && !r.Overrides.Ask:
		return dnsmessage.Message{Header: dnsmessage.Header{RCode: dnsmessage.RCodeNameError}}, nil
	}
	return r.Next.Resolve(ctx, q)
}

// AddressAnswer is the answer to a question about a name that has exactly
// these addresses.
func AddressAnswer(q dnsmessage.Question, addrs []netip.Addr) (m dnsmessage.Message) {
	h := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: overrideTTL}
	for _, a := range addrs {
		switch {
		case a.Is4() && q.Type == dnsmessage.TypeA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: a.As4()}})
		case a.Is6() && q.Type == dnsmessage.TypeAAAA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
		}
	}
	return m
}

// Dial implements Upstream.
func (r *Redirect) Dial(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
	target, ok := r.Overrides.Dial[addr.String()]
	if !ok {
		target, ok = r.Overrides.Dial[addr.Addr().String()]
	}
	switch {
	case ok:
		return new(Host).Dial(ctx, network, target)
	case r.Overrides.Only:
		return nil, fmt.Errorf("no host override for %s", addr)
	}
	return r.Next.Dial(ctx, network, addr)
}

// DialsName implements NameDialer. A name with fixed addresses is resolved.
func (r *Redirect) DialsName(name string) bool {
	_, fixed := r.Overrides.Names[name]
	next, ok := r.Next.(NameDialer)
	return ok && !fixed && !r.Overrides.Only && next.DialsName(name)
}

// DialName implements NameDialer.
func (r *Redirect) DialName(ctx context.Context, network, name string, port uint16) (net.Conn, error) {
	next, ok := r.Next.(NameDialer)
	if !ok || !r.DialsName(name) {
		return nil, fmt.Errorf("the name %s is to be resolved", name)
	}
	return next.DialName(ctx, network, name, port)
}
