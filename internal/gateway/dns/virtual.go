package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/atollhq/atoll/internal/gateway/names"
	"github.com/atollhq/atoll/internal/gateway/policy"
	"golang.org/x/net/dns/dnsmessage"
)

const (
	virtualTTL = 60 // seconds
	maxAddrs   = 16 // of one name that are worth a connection
)

// Types that describe a service by names that are judged in their turn. All
// others of a name that is reached by a virtual address are refused: their
// answers could carry addresses, keys for encrypted hellos, or just data.
var plainTypes = []dnsmessage.Type{
	dnsmessage.TypeMX, dnsmessage.TypeSRV, dnsmessage.TypeTXT, dnsmessage.TypeNS, dnsmessage.TypeSOA, dnsmessage.TypeCNAME, typeCAA,
}

const (
	typeCAA   = dnsmessage.Type(257)
	typeSVCB  = dnsmessage.Type(64)
	typeHTTPS = dnsmessage.Type(65)
)

func (s *Server) isVirtual(name string) bool {
	return s.cfg.Virtual != nil && s.cfg.Virtual(name) || s.isUnresolved(name)
}

func (s *Server) isUnresolved(name string) bool {
	return s.cfg.Unresolved != nil && s.cfg.Unresolved(name)
}

// virtual answers about a name that the guest reaches by a virtual address.
func (s *Server) virtual(ctx context.Context, q dnsmessage.Question) dnsmessage.Message {
	switch q.Type {
	case dnsmessage.TypeA, dnsmessage.TypeAAAA:
		return s.virtualAddress(ctx, q)
	case typeSVCB, typeHTTPS: // no hint at QUIC, at addresses or at encrypted hellos
		return dnsmessage.Message{}
	}
	if !slices.Contains(plainTypes, q.Type) {
		return refusal(dnsmessage.RCodeRefused)
	}
	return s.ask(ctx, q)
}

// virtualAddress answers with the virtual address where a real one exists, or
// may exist.
func (s *Server) virtualAddress(ctx context.Context, q dnsmessage.Question) dnsmessage.Message {
	if !s.isUnresolved(Canonical(q.Name)) {
		m := s.ask(ctx, q)
		if m.RCode != dnsmessage.RCodeSuccess || !slices.ContainsFunc(m.Answers, hasAddr) {
			m.Answers = nil
			return m
		}
	}
	v4, v6 := s.cfg.Names.Assign(Canonical(q.Name))
	head := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: virtualTTL}
	var body dnsmessage.ResourceBody = &dnsmessage.AResource{A: v4.As4()}
	if q.Type == dnsmessage.TypeAAAA {
		body = &dnsmessage.AAAAResource{AAAA: v6.As16()}
	}
	return dnsmessage.Message{Answers: []dnsmessage.Resource{{Header: head, Body: body}}}
}

func hasAddr(r dnsmessage.Resource) bool {
	_, ok := recordAddr(r.Body)
	return ok
}

// reverseName answers who has a virtual address.
func (s *Server) reverseName(q dnsmessage.Question, addr netip.Addr) dnsmessage.Message {
	if s.cfg.Names == nil {
		return refusal(dnsmessage.RCodeNameError)
	}
	name, ok := s.cfg.Names.Lookup(addr)
	target, err := dnsmessage.NewName(name + ".")
	if !ok || err != nil {
		return refusal(dnsmessage.RCodeNameError)
	}
	if q.Type != dnsmessage.TypePTR {
		return dnsmessage.Message{}
	}
	head := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: virtualTTL}
	return dnsmessage.Message{Answers: []dnsmessage.Resource{{Header: head, Body: &dnsmessage.PTRResource{PTR: target}}}}
}

// Errors of Addrs.
var (
	ErrNotFound = errors.New("dns: the name has no address")
	ErrRefused  = errors.New("dns: refused")
)

// Addrs resolves a name, in normal form, for the gateway itself: the addresses
// that the policy lets pass, IPv4 first. The error is ErrNotFound, ErrRefused
// with the rule, or why no resolver answered.
func (s *Server) Addrs(ctx context.Context, name string) ([]netip.Addr, error) {
	n, err := dnsmessage.NewName(name + ".")
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", name, ErrNotFound)
	}
	if d := s.cfg.Decide(policy.Query{Proto: policy.DNS, Name: name}); !d.Allow {
		return nil, fmt.Errorf("resolve %s: %w: %s", name, ErrRefused, d.Rule)
	}
	if isLocal(name) {
		return nil, fmt.Errorf("resolve %s: %w", name, ErrNotFound)
	}
	var out []netip.Addr
	var failed error
	for _, t := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA} {
		got, err := s.addrs(ctx, dnsmessage.Question{Name: n, Type: t, Class: dnsmessage.ClassINET})
		out, failed = append(out, got...), errors.Join(failed, err)
	}
	switch {
	case len(out) > 0:
		return out[:min(len(out), maxAddrs)], nil
	case failed != nil:
		return nil, fmt.Errorf("resolve %s: %w", name, failed)
	}
	return nil, fmt.Errorf("resolve %s: %w", name, ErrNotFound)
}

// addrs returns the addresses in one answer that may be dialed.
func (s *Server) addrs(ctx context.Context, q dnsmessage.Question) ([]netip.Addr, error) {
	m, err := s.cache.resolve(ctx, s.cfg.Resolver, q)
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	var refused error
	for _, r := range m.Answers[:min(len(m.Answers), maxAnswers)] {
		addr, ok := recordAddr(r.Body)
		if !ok || addr.Is4() != (q.Type == dnsmessage.TypeA) {
			continue
		}
		if d := s.decideAddr(addr); !d.Allow {
			refused = fmt.Errorf("%w: %s", ErrRefused, d.Rule)
			continue
		}
		out = append(out, addr)
	}
	if len(out) > 0 {
		refused = nil
	}
	return out, refused
}

// decideAddr refuses, beyond the policy, virtual addresses: no real answer has
// one.
func (s *Server) decideAddr(addr netip.Addr) policy.Decision {
	if names.IsVirtual(addr) {
		return policy.Decision{Rule: policy.RuleOwn}
	}
	return s.cfg.DecideAddr(addr)
}
