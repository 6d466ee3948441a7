package dns

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/atollhq/atoll/internal/gateway/policy"

	"golang.org/x/net/dns/dnsmessage"
)

// zone answers from a table and counts what it was asked.
type zone struct {
	answers map[string][]string // name and addresses
	asked   []dnsmessage.Question
	err     error
}

func (z *zone) Resolve(_ context.Context, q dnsmessage.Question) (dnsmessage.Message, error) {
	z.asked = append(z.asked, q)
	var m dnsmessage.Message
	for _, a := range z.answers[Canonical(q.Name)] {
		addr := netip.MustParseAddr(a)
		h := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 60}
		if addr.Is4() {
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: addr.As4()}})
		} else {
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: addr.As16()}})
		}
	}
	return m, z.err
}

func newServer(r Resolver) *Server {
	var p policy.Policy
	return NewServer(Config{Resolver: r, Decide: p.Decide, DecideAddr: p.DecideAddr, MaxInFlight: 4, Log: slog.New(slog.DiscardHandler)})
}

func ask(t testing.TB, name string, kind dnsmessage.Type, size int) []byte {
	t.Helper()
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 7, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET}},
	}
	if size > 0 {
		var h dnsmessage.ResourceHeader
		if err := h.SetEDNS0(size, 0, false); err != nil {
			t.Fatal(err)
		}
		m.Additionals = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.OPTResource{}}}
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func unpack(t testing.TB, b []byte) dnsmessage.Message {
	t.Helper()
	var m dnsmessage.Message
	if err := m.Unpack(b); err != nil {
		t.Fatalf("unpack answer: %v", err)
	}
	return m
}

func TestAnswers(t *testing.T) {
	z := &zone{answers: map[string][]string{
		"good.test.example":  {"8.8.8.8", "2606:4700::1111"},
		"mixed.test.example": {"8.8.8.8", "10.0.0.1", "::ffff:127.0.0.1", "fd00:ec2::254"},
		"bad.test.example":   {"169.254.169.254"},
	}}
	tests := []struct {
		name    string
		kind    dnsmessage.Type
		code    dnsmessage.RCode
		answers int
		asked   bool
	}{
		{"good.test.example.", dnsmessage.TypeA, dnsmessage.RCodeSuccess, 2, true},
		{"Good.Test.Example.", dnsmessage.TypeA, dnsmessage.RCodeSuccess, 2, true},
		{"mixed.test.example.", dnsmessage.TypeA, dnsmessage.RCodeSuccess, 1, true},
		{"bad.test.example.", dnsmessage.TypeA, dnsmessage.RCodeRefused, 0, true},
		{"empty.test.example.", dnsmessage.TypeA, dnsmessage.RCodeSuccess, 0, true},
		{"localhost.", dnsmessage.TypeA, dnsmessage.RCodeNameError, 0, false},
		{"metadata.google.internal.", dnsmessage.TypeA, dnsmessage.RCodeNameError, 0, false},
		{"good.test.example.", dnsmessage.TypeALL, dnsmessage.RCodeRefused, 0, false},
		{"good.test.example.", dnsmessage.TypeAXFR, dnsmessage.RCodeRefused, 0, false},
		{"1.0.0.10.in-addr.arpa.", dnsmessage.TypePTR, dnsmessage.RCodeRefused, 0, false},
		{"8.8.8.8.in-addr.arpa.", dnsmessage.TypePTR, dnsmessage.RCodeSuccess, 0, true},
		{"b._dns-sd.168.192.in-addr.arpa.", dnsmessage.TypePTR, dnsmessage.RCodeRefused, 0, false},
		{"d.f.ip6.arpa.", dnsmessage.TypePTR, dnsmessage.RCodeRefused, 0, false},
	}
	for _, tt := range tests {
		z.asked = nil
		m := unpack(t, newServer(z).Answer(t.Context(), ask(t, tt.name, tt.kind, 0), true))
		if m.RCode != tt.code || len(m.Answers) != tt.answers || m.ID != 7 || !m.Response {
			t.Errorf("%s %s: got %v with %d answers", tt.name, tt.kind, m.RCode, len(m.Answers))
		}
		if asked := len(z.asked) > 0; asked != tt.asked {
			t.Errorf("%s %s: asked upstream: %v", tt.name, tt.kind, asked)
		}
	}
}

func TestRefusalSaysWhy(t *testing.T) {
	z := &zone{answers: map[string][]string{"bad.test.example": {"10.0.0.1"}}}
	m := unpack(t, newServer(z).Answer(t.Context(), ask(t, "bad.test.example.", dnsmessage.TypeA, 4096), true))
	if len(m.Additionals) != 1 {
		t.Fatalf("got %d additional records", len(m.Additionals))
	}
	opt := m.Additionals[0].Body.(*dnsmessage.OPTResource)
	if len(opt.Options) != 1 || opt.Options[0].Code != optionExtendedError {
		t.Errorf("got options %+v", opt.Options)
	}
}

func TestLargeAnswerIsTruncatedOverUDP(t *testing.T) {
	var addrs []string
	for i := range 100 {
		addrs = append(addrs, netip.AddrFrom4([4]byte{8, 8, 8, byte(i)}).String())
	}
	s := newServer(&zone{answers: map[string][]string{"big.test.example": addrs}})
	q := ask(t, "big.test.example.", dnsmessage.TypeA, 0)
	if m := unpack(t, s.Answer(t.Context(), q, true)); !m.Truncated || len(m.Answers) != 0 {
		t.Errorf("udp: truncated %v with %d answers", m.Truncated, len(m.Answers))
	}
	if m := unpack(t, s.Answer(t.Context(), q, false)); m.Truncated || len(m.Answers) != 100 {
		t.Errorf("tcp: truncated %v with %d answers", m.Truncated, len(m.Answers))
	}
}

func TestResolverFailure(t *testing.T) {
	m := unpack(t, newServer(&zone{err: errors.New("no resolver")}).Answer(t.Context(), ask(t, "x.example.", dnsmessage.TypeA, 0), true))
	if m.RCode != dnsmessage.RCodeServerFailure {
		t.Errorf("got %v", m.RCode)
	}
}

func TestMalformed(t *testing.T) {
	good := ask(t, "x.example.", dnsmessage.TypeA, 0)
	answer := append([]byte(nil), good...)
	answer[2] |= 0x80
	status := append([]byte(nil), good...)
	status[2] |= 2 << 3
	two := append([]byte(nil), good...)
	two[5] = 2
	tests := map[string]struct {
		msg    []byte
		silent bool
		code   dnsmessage.RCode
	}{
		"empty":          {nil, true, 0},
		"answer":         {answer, true, 0},
		"other opcode":   {status, false, dnsmessage.RCodeNotImplemented},
		"cut short":      {good[:len(good)-3], false, dnsmessage.RCodeFormatError},
		"two questions":  {two, false, dnsmessage.RCodeFormatError},
		"too long":       {append(good, make([]byte, MaxQuery)...), false, dnsmessage.RCodeFormatError},
		"no question":    {good[:4], true, 0},
		"header only":    {append([]byte{0, 1, 1, 0}, make([]byte, 8)...), false, dnsmessage.RCodeFormatError},
		"broken opt tag": {append(append(good[:11:11], 1), good[12:]...), false, dnsmessage.RCodeFormatError},
	}
	z := &zone{}
	for name, tt := range tests {
		b := newServer(z).Answer(t.Context(), tt.msg, true)
		if tt.silent {
			if b != nil {
				t.Errorf("%s: was answered", name)
			}
			continue
		}
		if m := unpack(t, b); m.RCode != tt.code {
			t.Errorf("%s: got %v, want %v", name, m.RCode, tt.code)
		}
	}
	if len(z.asked) != 0 {
		t.Errorf("asked upstream: %v", z.asked)
	}
}

func TestServeStream(t *testing.T) {
	client, server := net.Pipe()
	done := make(chan error, 1)
	go func() {
		defer server.Close()
		done <- newServer(&zone{answers: map[string][]string{"a.example": {"8.8.8.8"}}}).ServeStream(t.Context(), server)
	}()
	for range 3 {
		if _, err := client.Write(withLength(ask(t, "a.example.", dnsmessage.TypeA, 0))); err != nil {
			t.Fatal(err)
		}
		msg, err := readMessage(client, make([]byte, 2000))
		if err != nil {
			t.Fatal(err)
		}
		if m := unpack(t, msg); len(m.Answers) != 1 {
			t.Errorf("got %d answers", len(m.Answers))
		}
	}
	if _, err := client.Write([]byte{0xff, 0xff}); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err == nil || !strings.Contains(err.Error(), "over the limit") {
		t.Errorf("got %v", err)
	}
}

func TestSlots(t *testing.T) {
	s := newServer(&zone{})
	var releases []func()
	for range 4 {
		r, ok := s.TryAcquire()
		if !ok {
			t.Fatal("no slot")
		}
		releases = append(releases, r)
	}
	if _, ok := s.TryAcquire(); ok {
		t.Error("a fifth slot")
	}
	releases[0]()
	if _, ok := s.TryAcquire(); !ok {
		t.Error("the released slot is not free")
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add(ask(f, "a.example.", dnsmessage.TypeA, 1232), true)
	f.Add(ask(f, "1.0.0.127.in-addr.arpa.", dnsmessage.TypePTR, 0), false)
	s := newServer(&zone{answers: map[string][]string{"a.example": {"8.8.8.8", "127.0.0.1"}}})
	f.Fuzz(func(t *testing.T, msg []byte, udp bool) {
		b := s.Answer(context.Background(), msg, udp)
		if b == nil {
			return
		}
		m := unpack(t, b)
		if !m.Response || udp && len(b) > ednsSize {
			t.Fatalf("bad answer of %d bytes: %+v", len(b), m.Header)
		}
		for _, r := range m.Answers {
			if a, ok := recordAddr(r.Body); ok && a.IsLoopback() {
				t.Fatalf("answered %s", a)
			}
		}
	})
}

func FuzzFilter(f *testing.F) {
	f.Add(ask(f, "a.example.", dnsmessage.TypeA, 1232))
	s := newServer(&zone{})
	q := query{size: ednsSize, edns: true}
	f.Fuzz(func(t *testing.T, msg []byte) {
		var m dnsmessage.Message
		if m.Unpack(msg) != nil {
			return
		}
		if b := q.pack(s.filter(m, dnsmessage.Question{}), true); len(b) > ednsSize {
			t.Fatalf("%d bytes", len(b))
		}
	})
}
