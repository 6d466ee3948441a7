// Package dns is the only resolver that a sandbox can reach.
//
// Queries to port 53 of any address end here, over UDP and TCP. A query is
// parsed, judged, asked again upstream as a new message, and the answer is
// built anew from the parsed records: no byte of the guest's message reaches
// a resolver, and no byte of a resolver's message reaches the guest, that was
// not understood in between. Addresses that the policy refuses are taken out
// of answers (rebinding); a name that has no other ones is refused.
//
// Both the guest and whoever runs the queried zone are hostile. Messages are
// bounded in size, queries in number and time.
//
// Concurrency: a Server may be used by any number of goroutines. It starts
// none.
package dns

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"github.com/atollhq/atoll/internal/gateway/names"
	"github.com/atollhq/atoll/internal/gateway/policy"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	// MaxQuery bounds a query in bytes. A question, the header and a
	// generous OPT record fit.
	MaxQuery = 1232

	maxAnswers = 256 // records in each section of an answer
	classic    = 512 // bytes in a UDP answer without EDNS (RFC 1035)
	ednsSize   = 1232

	queryTimeout = 12 * time.Second
)

// Resolver asks the world.
type Resolver interface {
	// Resolve asks one question with recursion and returns the answer's
	// response code and records. An error means that no resolver gave one.
	Resolve(ctx context.Context, q dnsmessage.Question) (dnsmessage.Message, error)
}

// Config describes a server.
type Config struct {
	Resolver Resolver
	// Decide judges names.
	Decide func(policy.Query) policy.Decision
	// DecideAddr judges the addresses in answers.
	DecideAddr func(netip.Addr) policy.Decision
	// Virtual tells which names are answered with virtual addresses, which
	// come from Names. Nil means none.
	Virtual func(name string) bool
	Names   *names.Table
	// Unresolved tells which names are answered with virtual addresses without
	// asking whether they exist. Nil means none.
	Unresolved func(name string) bool
	// Refused is told of each question that the policy refuses, or of whose
	// answer it leaves nothing. It may be nil.
	Refused func(name, rule string)

	MaxInFlight int // queries at a time
	Log         *slog.Logger
}

// Server answers queries.
type Server struct {
	cfg   Config
	cache *cache
	slots chan struct{} // one element per query in flight
}

// NewServer makes a server.
func NewServer(cfg Config) *Server {
	return &Server{cfg: cfg, cache: newCache(), slots: make(chan struct{}, cfg.MaxInFlight)}
}

// Answer answers one message from the guest. With udp set, the answer is cut
// to what the guest can take. The result is nil when the message deserves no
// answer.
func (s *Server) Answer(ctx context.Context, msg []byte, udp bool) []byte {
	q, code := parse(msg)
	if q == nil {
		return nil
	}
	answer := dnsmessage.Message{Header: dnsmessage.Header{RCode: code}}
	if code == dnsmessage.RCodeSuccess {
		answer = s.resolve(ctx, q.question)
	}
	return q.pack(answer, udp)
}

// TryAcquire counts a query in, before a goroutine is started for it. It
// reports false when there are too many; otherwise release ends the query.
func (s *Server) TryAcquire() (release func(), ok bool) {
	select {
	case s.slots <- struct{}{}:
		return func() { <-s.slots }, true
	default:
		return nil, false
	}
}

func (s *Server) resolve(ctx context.Context, q dnsmessage.Question) dnsmessage.Message {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	if addr, ok := reverseAddr(Canonical(q.Name)); ok && names.IsVirtual(addr) {
		return s.reverseName(q, addr)
	}
	if code := s.judge(q); code != dnsmessage.RCodeSuccess {
		return refusal(code)
	}
	if s.isVirtual(Canonical(q.Name)) {
		return s.virtual(ctx, q)
	}
	return s.ask(ctx, q)
}

// ask asks upstream. The question's letters are in lower case there: a guest
// could say something with them.
func (s *Server) ask(ctx context.Context, q dnsmessage.Question) dnsmessage.Message {
	lower, err := dnsmessage.NewName(strings.ToLower(q.Name.String()))
	if err != nil {
		return refusal(dnsmessage.RCodeFormatError)
	}
	asked := dnsmessage.Question{Name: lower, Type: q.Type, Class: q.Class}
	var m dnsmessage.Message
	if q.Type == dnsmessage.TypeA || q.Type == dnsmessage.TypeAAAA {
		m, err = s.cache.resolve(ctx, s.cfg.Resolver, asked)
	} else {
		m, err = s.cfg.Resolver.Resolve(ctx, asked)
	}
	if err != nil {
		s.cfg.Log.Debug("resolve failed", "name", q.Name.String(), "error", err)
		return refusal(dnsmessage.RCodeServerFailure)
	}
	return s.filter(m, q)
}

// judge says whether a question may be asked upstream.
func (s *Server) judge(q dnsmessage.Question) dnsmessage.RCode {
	name := Canonical(q.Name)
	switch {
	case q.Class != dnsmessage.ClassINET:
		return dnsmessage.RCodeRefused
	case isTransfer(q.Type):
		return dnsmessage.RCodeRefused
	case isLocal(name):
		return dnsmessage.RCodeNameError
	}
	if addr, ok := reverseAddr(name); ok && !s.cfg.DecideAddr(addr).Allow {
		return dnsmessage.RCodeRefused
	}
	if d := s.cfg.Decide(policy.Query{Proto: policy.DNS, Name: name}); !d.Allow {
		s.cfg.Log.Debug("refused", "proto", "dns", "name", name, "rule", d.Rule)
		s.refused(name, d.Rule)
		return dnsmessage.RCodeRefused
	}
	return dnsmessage.RCodeSuccess
}

func (s *Server) refused(name, rule string) {
	if s.cfg.Refused != nil {
		s.cfg.Refused(name, rule)
	}
}

// Canonical is a name as policies see it: lower case, no final dot.
func Canonical(n dnsmessage.Name) string {
	return strings.TrimSuffix(strings.ToLower(n.String()), ".")
}

// isTransfer is true of questions that don't ask for records of a name:
// types 249 to 255 (RFC 6895), among them zone transfers and ANY, and OPT.
func isTransfer(t dnsmessage.Type) bool {
	return t >= 249 && t <= 255 || t == dnsmessage.TypeOPT
}

// isLocal is true of names that mean the asking host itself or its local
// network (RFC 6761, RFC 6762, and ICANN's reservation of "internal"). Here
// they would mean the sandbox's host.
func isLocal(name string) bool {
	for _, zone := range []string{"localhost", "local", "internal", "home.arpa"} {
		if name == zone || strings.HasSuffix(name, "."+zone) {
			return true
		}
	}
	return false
}

func refusal(code dnsmessage.RCode) dnsmessage.Message {
	return dnsmessage.Message{Header: dnsmessage.Header{RCode: code}}
}

// filter keeps from an upstream's message what the guest may have.
func (s *Server) filter(m dnsmessage.Message, q dnsmessage.Question) dnsmessage.Message {
	out := dnsmessage.Message{Header: dnsmessage.Header{RCode: m.RCode}}
	hadAddr, hasAddr, rule := false, false, ""
	for _, r := range m.Answers[:min(len(m.Answers), maxAnswers)] {
		if addr, ok := recordAddr(r.Body); ok {
			hadAddr = true
			if d := s.decideAddr(addr); !d.Allow {
				s.cfg.Log.Debug("answer dropped", "name", q.Name.String(), "addr", addr, "rule", d.Rule)
				rule = d.Rule
				continue
			}
			hasAddr = true
			if s.cfg.Names != nil {
				s.cfg.Names.Note(Canonical(q.Name), addr)
			}
		}
		if strings.EqualFold(r.Header.Name.String(), q.Name.String()) {
			r.Header.Name = q.Name // in the guest's letters
		}
		out.Answers = append(out.Answers, r)
	}
	if hadAddr && !hasAddr {
		s.refused(Canonical(q.Name), rule)
		return refusal(dnsmessage.RCodeRefused)
	}
	for _, r := range m.Authorities[:min(len(m.Authorities), maxAnswers)] {
		if r.Header.Type == dnsmessage.TypeSOA { // how long a negative answer holds
			out.Authorities = append(out.Authorities, r)
		}
	}
	return out
}

func recordAddr(b dnsmessage.ResourceBody) (netip.Addr, bool) {
	switch b := b.(type) {
	case *dnsmessage.AResource:
		return netip.AddrFrom4(b.A), true
	case *dnsmessage.AAAAResource:
		return netip.AddrFrom16(b.AAAA), true
	}
	return netip.Addr{}, false
}

// errNotQuery is for messages that aren't even a query.
var errNotQuery = errors.New("dns: not a query")
