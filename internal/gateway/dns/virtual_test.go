package dns

import (
	"errors"
	"log/slog"
	"net/netip"
	"testing"

	"github.com/atollhq/atoll/internal/gateway/names"
	"github.com/atollhq/atoll/internal/gateway/policy"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/dns/dnsmessage"
)

func listed(t testing.TB, z *zone, refused func(name, rule string), entries ...string) (*Server, *names.Table) {
	t.Helper()
	l, err := policy.ParseList(entries)
	if err != nil {
		t.Fatal(err)
	}
	p, table := policy.Policy{Allow: l}, names.NewTable(100)
	return NewServer(Config{
		Resolver: z, Decide: p.Decide, DecideAddr: p.DecideAddr, MaxInFlight: 4, Log: slog.New(slog.DiscardHandler),
		Virtual: func(string) bool { return true }, Names: table, Refused: refused,
	}), table
}

func TestListedNamesGetVirtualAddresses(t *testing.T) {
	z := &zone{answers: map[string][]string{"a.test": {"8.8.8.8", "10.0.0.1"}, "bad.a.test": {"169.254.169.254"}}}
	s, table := listed(t, z, nil, "a.test", "*.a.test")
	m := unpack(t, s.Answer(t.Context(), ask(t, "A.Test.", dnsmessage.TypeA, 0), true))
	if len(m.Answers) != 1 || m.Answers[0].Header.Name.String() != "A.Test." {
		t.Fatalf("answer %+v", m)
	}
	addr := netip.AddrFrom4(m.Answers[0].Body.(*dnsmessage.AResource).A)
	if name, ok := table.Lookup(addr); !ok || name != "a.test" {
		t.Errorf("%s is %q", addr, name)
	}
	for name, want := range map[string]dnsmessage.RCode{"bad.a.test.": dnsmessage.RCodeRefused, "none.a.test.": dnsmessage.RCodeSuccess} {
		if m := unpack(t, s.Answer(t.Context(), ask(t, name, dnsmessage.TypeA, 0), true)); m.RCode != want || len(m.Answers) != 0 {
			t.Errorf("%s: %+v", name, m)
		}
	}
	for kind, want := range map[dnsmessage.Type]dnsmessage.RCode{typeHTTPS: dnsmessage.RCodeSuccess, typeSVCB: dnsmessage.RCodeSuccess, 16: dnsmessage.RCodeSuccess, 10: dnsmessage.RCodeRefused, 99: dnsmessage.RCodeRefused} {
		if m := unpack(t, s.Answer(t.Context(), ask(t, "a.test.", kind, 0), true)); m.RCode != want {
			t.Errorf("type %s: %s", kind, m.RCode)
		}
	}
}

// A question about a refused name leaves no trace upstream, and neither do
// letters or options that could carry something.
func TestNothingTravelsInQuestions(t *testing.T) {
	z := &zone{answers: map[string][]string{"a.test": {"8.8.8.8"}}}
	var told []string
	s, _ := listed(t, z, func(name, rule string) { told = append(told, name+": "+rule) }, "a.test")
	for _, name := range []string{"c2VjcmV0.evil.test.", "b.a.test.", "test.", "xa.test."} {
		for _, kind := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeTXT, typeHTTPS, 10} {
			if m := unpack(t, s.Answer(t.Context(), ask(t, name, kind, 1232), true)); m.RCode != dnsmessage.RCodeRefused {
				t.Errorf("%s: %s", name, m.RCode)
			}
		}
	}
	if len(z.asked) != 0 {
		t.Errorf("asked upstream: %v", z.asked)
	}
	if len(told) != 16 || told[0] != "c2vjcmv0.evil.test: "+policy.RuleNotListed {
		t.Errorf("told of %q", told)
	}
	s.Answer(t.Context(), ask(t, "a.TEST.", dnsmessage.TypeA, 1232), true)
	if len(z.asked) != 1 || z.asked[0].Name.String() != "a.test." {
		t.Errorf("asked upstream: %v", z.asked)
	}
}

func TestAddrs(t *testing.T) {
	z := &zone{answers: map[string][]string{"a.test": {"8.8.8.8", "10.0.0.1", "198.18.0.9"}, "bad.test": {"127.0.0.1"}}}
	s, _ := listed(t, z, nil, "a.test", "bad.test", "none.test")
	got, err := s.Addrs(t.Context(), "a.test")
	if diff := cmp.Diff([]netip.Addr{netip.MustParseAddr("8.8.8.8")}, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	for name, want := range map[string]error{"bad.test": ErrRefused, "none.test": ErrNotFound, "evil.test": ErrRefused} {
		if _, err := s.Addrs(t.Context(), name); !errors.Is(err, want) {
			t.Errorf("%s: %v; want %v", name, err, want)
		}
	}
	asked := len(z.asked)
	if _, err := s.Addrs(t.Context(), "a.test"); err != nil || len(z.asked) != asked {
		t.Errorf("asked again: %v %v", err, z.asked)
	}
}

func TestVirtualAddressesHaveNames(t *testing.T) {
	s, table := listed(t, &zone{}, nil, "a.test")
	v4, _ := table.Assign("a.test")
	b := v4.As4()
	name := netip.AddrFrom4([4]byte{b[3], b[2], b[1], b[0]}).String() + ".in-addr.arpa."
	m := unpack(t, s.Answer(t.Context(), ask(t, name, dnsmessage.TypePTR, 0), true))
	if len(m.Answers) != 1 || m.Answers[0].Body.(*dnsmessage.PTRResource).PTR.String() != "a.test." {
		t.Errorf("%+v", m)
	}
}
