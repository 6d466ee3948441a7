package policy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func list(t testing.TB, entries ...string) *List {
	t.Helper()
	l, err := ParseList(entries)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestEntriesAreNormal(t *testing.T) {
	l := list(t, "Example.COM.", "*.Bücher.example:443", "8.8.8.8:53", "::ffff:8.8.4.4", "[2606:4700::1111]:443", "2606:4700::1",
		"10.1.2.3/8", "10.0.0.0/8:80", "[2001:db8::1]/32:443", "_dmarc.example.com", "::ffff:10.0.0.0/104")
	want := []string{"example.com", "*.xn--bcher-kva.example:443", "8.8.8.8:53", "8.8.4.4", "[2606:4700::1111]:443", "2606:4700::1",
		"10.0.0.0/8", "10.0.0.0/8:80", "[2001:db8::]/32:443", "_dmarc.example.com", "10.0.0.0/8"}
	if diff := cmp.Diff(want, l.Entries()); diff != "" {
		t.Error(diff)
	}
	if again := list(t, l.Entries()...); !cmp.Equal(want, again.Entries()) {
		t.Errorf("a second reading gives %q", again.Entries())
	}
}

func TestBadEntries(t *testing.T) {
	for text, want := range map[string]error{
		"": errEmpty, "*": errStar, "*.": errName, "a.*.com": errStar, "*.*.com": errStar, "**.com": errStar,
		"https://example.com": errScheme, "example.com/path": errPath, "me@example.com": errPath,
		"example.com:0": errPort, "example.com:65536": errPort, "example.com:http": errPort, "example.com:": errPort, "example.com:+1": errPort,
		"10.0.0.0/33": errPrefix, "127.1": errNumber, "0x7f.1": errNumber, "0177.0.0.1": errNumber, "2130706433": errNumber, "1.2.3.4.5": errNumber, "a.0x": errNumber,
		"exa mple.com": errName, "example..com": errName, "-a.com": errName, "a\x00.com": errName, "[::1": errBrackets, "[1.2.3.4]": errBrackets,
		"fe80::1%eth0": errPort, strings.Repeat("a.", 140) + "com": errName, strings.Repeat("a", 400): errLong,
	} {
		_, err := parseEntry(text)
		if err != want {
			t.Errorf("%q: %v; want %v", text, err, want)
		}
	}
}

func TestLists(t *testing.T) {
	p := Policy{
		Allow:   list(t, "example.com", "*.example.com:443", "api.test:8080", "93.184.215.0/24:443", "10.0.0.0/8", "[2606:4700::1111]"),
		Ceiling: list(t, "example.com", "*.example.com", "93.184.215.14", "10.0.0.0/8", "2606:4700::/32"),
	}
	for _, c := range []struct {
		q    Query
		rule string // "" is refused
	}{
		{Query{Proto: TCP, Name: "example.com", Port: 22}, "example.com"},
		{Query{Proto: TCP, Name: "a.b.example.com", Port: 443}, "*.example.com:443"},
		{Query{Proto: TCP, Name: "a.example.com", Port: 80}, ""},
		{Query{Proto: TCP, Name: "notexample.com", Port: 443}, ""},
		{Query{Proto: TCP, Name: "Example.com", Port: 443}, ""},
		{Query{Proto: TCP, Name: "api.test", Port: 8080}, ""}, // outside the ceiling
		{Query{Proto: DNS, Name: "a.example.com"}, "*.example.com:443"},
		{Query{Proto: DNS, Name: "evil.test"}, ""},
		{Query{Proto: DNS}, ""},
		{Query{Proto: UDP, Name: "example.com", Port: 443}, ""},
		{Query{Proto: TCP, Addr: netip.MustParseAddr("93.184.215.14"), Port: 443}, "93.184.215.0/24:443"},
		{Query{Proto: TCP, Addr: netip.MustParseAddr("93.184.215.15"), Port: 443}, ""},
		{Query{Proto: TCP, Addr: netip.MustParseAddr("::ffff:93.184.215.14"), Port: 443}, "93.184.215.0/24:443"},
		{Query{Proto: TCP, Addr: netip.MustParseAddr("10.1.1.1"), Port: 443}, ""}, // private, whatever a list says
		{Query{Proto: TCP, Name: "example.com", Addr: netip.MustParseAddr("10.1.1.1"), Port: 443}, ""},
		{Query{Proto: TCP, Name: "example.com", Addr: netip.MustParseAddr("8.8.8.8"), Port: 443}, "example.com"},
		{Query{Proto: TCP, Addr: netip.MustParseAddr("2606:4700::1111"), Port: 1}, "[2606:4700::1111]"},
	} {
		d := p.Decide(c.q)
		if want := strings.Trim(c.rule, "[]"); d.Allow != (c.rule != "") || d.Allow && d.Rule != want {
			t.Errorf("%+v: %+v; want %q", c.q, d, c.rule)
		}
	}
	if d := (Policy{Allow: list(t)}).Decide(Query{Proto: TCP, Addr: netip.MustParseAddr("8.8.8.8"), Port: 443}); d.Allow {
		t.Error("an empty list allows something")
	}
}

func TestOutside(t *testing.T) {
	ceiling := list(t, "*.example.com", "example.com:443", "10.0.0.0/8")
	for entry, outside := range map[string]bool{
		"a.example.com": false, "*.a.example.com:80": false, "*.example.com": false, "example.com:443": false, "10.1.0.0/16": false, "10.0.0.1:80": false,
		"example.com": true, "*.com": true, "10.0.0.0/7": true, "2001:db8::1": true, "other.test": true,
	} {
		if _, got := ceiling.Outside(list(t, entry)); got != outside {
			t.Errorf("%s: %v", entry, got)
		}
	}
	if _, got := ceiling.Outside(nil); !got {
		t.Error("everything is inside")
	}
}

// What Decide allows is in the list, whatever the list and the query.
func TestAllowedMeansListed(t *testing.T) {
	hosts := []string{"a.test", "b.a.test", "c.b.a.test", "test", "*.a.test", "*.test", "8.8.8.8", "8.8.0.0/16"}
	rapid.Check(t, func(t *rapid.T) {
		var entries []string
		for range rapid.IntRange(0, 5).Draw(t, "n") {
			e := rapid.SampledFrom(hosts).Draw(t, "host")
			if port := rapid.SampledFrom([]int{0, 80, 443}).Draw(t, "port"); port != 0 {
				e += fmt.Sprint(":", port)
			}
			entries = append(entries, e)
		}
		l, err := ParseList(entries)
		if err != nil {
			t.Fatal(err)
		}
		name := rapid.SampledFrom(hosts[:4]).Draw(t, "name")
		port := uint16(rapid.SampledFrom([]int{80, 443, 22}).Draw(t, "asked"))
		got := (Policy{Allow: l}).Decide(Query{Proto: TCP, Name: name, Port: port}).Allow
		if want := naive(entries, name, fmt.Sprint(port)); got != want {
			t.Fatalf("%q: %s:%d is %v, want %v", entries, name, port, got, want)
		}
	})
}

// naive is the grammar once more, the slow way.
func naive(entries []string, name, port string) bool {
	for _, e := range entries {
		host, p, hasPort := strings.Cut(e, ":")
		if hasPort && p != port {
			continue
		}
		if suffix, wild := strings.CutPrefix(host, "*"); wild && strings.HasSuffix(name, suffix) || host == name {
			return true
		}
	}
	return false
}

func FuzzParseEntry(f *testing.F) {
	for _, s := range []string{"example.com:443", "*.x", "[::1]/8:9", "1.2.3.4/5:6", "ß.de", "xn--zz"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		l, err := ParseList([]string{text})
		if err != nil {
			return
		}
		again, err := ParseList(l.Entries())
		if err != nil || again.Entries()[0] != l.Entries()[0] {
			t.Fatalf("%q becomes %q and then %v, %v", text, l.Entries(), again, err)
		}
	})
}

func BenchmarkDecideList(b *testing.B) {
	var entries []string
	for i := range MaxEntries / 2 {
		entries = append(entries, fmt.Sprintf("host%d.example.com:443", i), fmt.Sprintf("*.zone%d.example.com", i))
	}
	p := Policy{Allow: list(b, entries...)}
	q := Query{Proto: TCP, Name: "a.b.zone250.example.com", Port: 443}
	for b.Loop() {
		if !p.Decide(q).Allow {
			b.Fatal("refused")
		}
	}
}
