package policy

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func prefixes(s ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func TestDecide(t *testing.T) {
	p := Policy{
		Exceptions: prefixes("10.1.0.0/16", "fd00:1::/32", "203.0.113.9/32", "10.1.0.7/32", "2002:a00::/24"),
		Host:       []netip.Addr{netip.MustParseAddr("8.8.4.4"), netip.MustParseAddr("10.1.0.5"), netip.MustParseAddr("10.1.0.7"), netip.MustParseAddr("fe80::1%eth0")},
		Own:        prefixes("10.1.9.0/24"),
	}
	tests := []struct {
		addr  string
		allow bool
		rule  string
	}{
		{"8.8.8.8", true, RuleOpen},
		{"2606:4700::1111", true, RuleOpen},
		{"8.8.4.4", false, RuleHost},
		{"::ffff:8.8.4.4", false, RuleHost},
		{"64:ff9b::8.8.4.4", false, RuleHost},
		{"2002:808:404::1", false, RuleHost},
		{"10.0.0.1", false, "private (RFC 1918)"},
		{"10.1.2.3", true, RuleException},
		{"::ffff:10.1.2.3", true, RuleException},
		{"10.1.0.5", false, RuleHost},
		{"10.1.0.7", true, RuleException},
		{"10.1.9.1", false, RuleOwn},
		{"203.0.113.9", true, RuleException},
		{"203.0.113.10", false, "documentation (RFC 5737)"},
		{"fd00:1::5", true, RuleException},
		{"fd00:2::5", false, "unique local and metadata (RFC 4193)"},
		{"64:ff9b::127.0.0.1", false, "loopback (RFC 1122)"},
		{"64:ff9b::8.8.8.8", true, RuleOpen},
		{"2002:7f00:1::", false, "loopback (RFC 1122)"},
		{"2002:a9fe:a9fe::1", false, "link-local and metadata (RFC 3927)"},
		{"4000::1", false, reasonUnallocated},
	}
	for _, tt := range tests {
		got := p.Decide(Query{Proto: TCP, Addr: netip.MustParseAddr(tt.addr), Port: 443})
		if got.Allow != tt.allow || got.Rule != tt.rule {
			t.Errorf("%s: got %+v, want %v by %q", tt.addr, got, tt.allow, tt.rule)
		}
	}
}

func TestMalformedIsRefused(t *testing.T) {
	ok := netip.MustParseAddr("8.8.8.8")
	for _, q := range []Query{
		{},
		{Proto: "icmp", Addr: ok, Port: 1},
		{Proto: TCP, Port: 80},
		{Proto: TCP, Addr: ok},
		{Proto: UDP, Addr: netip.MustParseAddr("2606:4700::1%eth0"), Port: 80},
	} {
		if d := (Policy{}).Decide(q); d.Allow {
			t.Errorf("%+v is allowed", q)
		}
	}
}

func TestNameIsAnsweredInOpenMode(t *testing.T) {
	if d := (Policy{}).Decide(Query{Proto: DNS, Name: "example.com"}); !d.Allow {
		t.Errorf("got %+v", d)
	}
}

// The first and last address of each range and their neighbours, as a golden
// file: what is refused changes on purpose only.
func TestRangesGolden(t *testing.T) {
	var b strings.Builder
	for _, r := range refused {
		first := r.prefix.Masked().Addr()
		last := lastAddr(r.prefix)
		for _, a := range []netip.Addr{first.Prev(), first, last, last.Next()} {
			if !a.IsValid() {
				continue
			}
			d := Policy{}.DecideAddr(a)
			verdict := "refuse"
			if d.Allow {
				verdict = "allow "
			}
			fmt.Fprintf(&b, "%-18s %s %-42s %s\n", r.prefix, verdict, a, d.Rule)
		}
	}
	const file = "testdata/ranges.golden"
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Errorf("ranges changed (-want +got):\n%s", diff)
	}
}

func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

func anyAddr() *rapid.Generator[netip.Addr] {
	return rapid.Custom(func(t *rapid.T) netip.Addr {
		if rapid.Bool().Draw(t, "v6") {
			return netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "addr")))
		}
		return netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "addr")))
	})
}

// spellings returns every IPv6 address that leads to an IPv4 address.
func spellings(v4 netip.Addr) []netip.Addr {
	b := v4.As4()
	mapped := netip.AddrFrom16(v4.As16())
	translated := nat64.Addr().As16()
	copy(translated[12:], b[:])
	tunnel := sixToFour.Addr().As16()
	copy(tunnel[2:], b[:])
	return []netip.Addr{mapped, netip.AddrFrom16(translated), netip.AddrFrom16(tunnel)}
}

func TestSpellingsOpenNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v4 := netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "addr")))
		p := Policy{Host: []netip.Addr{netip.MustParseAddr("1.2.3.4")}}
		if p.DecideAddr(v4).Allow {
			return
		}
		for _, s := range spellings(v4) {
			if d := p.DecideAddr(s); d.Allow {
				t.Fatalf("%s is refused but %s is allowed by %q", v4, s, d.Rule)
			}
		}
	})
}

func TestAllowedIsGlobalUnicast(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := anyAddr().Draw(t, "addr")
		host := anyAddr().Draw(t, "host")
		d := Policy{Host: []netip.Addr{host}}.DecideAddr(a)
		if !d.Allow {
			return
		}
		if !a.IsGlobalUnicast() || a.IsPrivate() || a.Unmap() == host.Unmap() {
			t.Fatalf("%s is allowed by %q", a, d.Rule)
		}
	})
}

func FuzzDecide(f *testing.F) {
	f.Add([]byte{127, 0, 0, 1}, uint16(80), "tcp")
	f.Add(netip.MustParseAddr("64:ff9b::1").AsSlice(), uint16(53), "udp")
	f.Fuzz(func(t *testing.T, raw []byte, port uint16, proto string) {
		addr, _ := netip.AddrFromSlice(raw)
		d := Policy{}.Decide(Query{Proto: Proto(proto), Addr: addr, Port: port})
		if d.Rule == "" {
			t.Fatal("a decision without a rule")
		}
		if d.Allow && Proto(proto) != DNS && (addr.IsLoopback() || addr.Unmap().IsPrivate() || addr.IsMulticast() || port == 0) {
			t.Fatalf("%s allowed by %q", addr, d.Rule)
		}
	})
}

func BenchmarkDecide(b *testing.B) {
	p := Policy{Host: []netip.Addr{netip.MustParseAddr("8.8.4.4")}}
	q := Query{Proto: TCP, Addr: netip.MustParseAddr("140.82.121.3"), Port: 443}
	for b.Loop() {
		p.Decide(q)
	}
}
