package secret

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func TestPlaceholders(t *testing.T) {
	seen := map[string]bool{}
	for size := range 60 {
		p := newPlaceholder(size)
		random, ok := strings.CutPrefix(p, Placeholder)
		if !ok || len(random) < randomPart || strings.Trim(random, alphabet) != "" || len(p)%3 != size%3 || p[len(p)-1]&3 == 3 || seen[p] {
			t.Errorf("for %d bytes: %q", size, p)
		}
		seen[p] = true
	}
}

func TestSpecs(t *testing.T) {
	valid := func(change func(*Spec)) map[string]Spec {
		s := Spec{Hosts: []string{"api.example.com"}, Value: "hunter2"}
		change(&s)
		return map[string]Spec{"K": s}
	}
	many := map[string]Spec{}
	for i := range MaxSecrets + 1 {
		many[fmt.Sprint("K", i)] = Spec{Hosts: []string{"h.example"}, Value: "v"}
	}
	for _, c := range []struct {
		specs       map[string]Spec
		name, field string
	}{
		{many, "", ""},
		{map[string]Spec{"1K": {Hosts: []string{"h.example"}, Value: "v"}}, "1K", ""},
		{valid(func(s *Spec) { s.Hosts = nil }), "K", "hosts"},
		{valid(func(s *Spec) { s.Hosts = []string{"a.example", "10.0.0.0/8"} }), "K", "hosts[1]"},
		{valid(func(s *Spec) { s.Hosts = []string{"*"} }), "K", "hosts[0]"},
		{valid(func(s *Spec) { s.Value = "" }), "K", "value"},
		{valid(func(s *Spec) { s.Value = "hunter2\r\n" }), "K", "value"},
		{valid(func(s *Spec) { s.Value = "hunter2\xff" }), "K", "value"},
		{valid(func(s *Spec) { s.Value = strings.Repeat("hunter2", MaxValue) }), "K", "value"},
		{valid(func(s *Spec) { s.In = []string{"header", "cookie"} }), "K", "in[1]"},
		{valid(func(s *Spec) { s.Methods = []string{"GET", "a b"} }), "K", "methods[1]"},
		{valid(func(s *Spec) { s.Paths = make([]string, maxPatterns+1) }), "K", "paths"},
	} {
		_, err := New(c.specs)
		e, ok := errors.AsType[*SpecError](err)
		if !ok || e.Name != c.name || e.Field != c.field || e.Reason == "" || strings.Contains(e.Reason, "hunter2") {
			t.Errorf("%s.%s: %+v", c.name, c.field, err)
		}
	}
	if err := Check(valid(func(*Spec) {})); err != nil {
		t.Error(err)
	}
}

func TestCovers(t *testing.T) {
	set, err := New(map[string]Spec{"K": {Hosts: []string{"*.example.com:443", "192.0.2.1"}, Value: "v"}})
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddr("192.0.2.1")
	for what, got := range map[string]bool{
		"a name": set.Covers("a.example.com"), "its port": set.CoversDest("a.example.com", addr, 443), "an address": set.CoversDest("", addr, 80),
		"not the apex": !set.Covers("example.com"), "not its other port": !set.CoversDest("a.example.com", netip.Addr{}, 80), "not the address of another name": !set.CoversDest("b.example.org", addr, 80),
	} {
		if !got {
			t.Error(what)
		}
	}
}

// TestRedactorsAreKept bounds what a guest can have a set remember.
func TestRedactorsAreKept(t *testing.T) {
	specs := map[string]Spec{}
	for i := range 10 {
		specs[fmt.Sprint("K", i)] = Spec{Hosts: []string{"h.example"}, Value: fmt.Sprint("hunter2-", i)}
	}
	set, err := New(specs)
	if err != nil {
		t.Fatal(err)
	}
	if set.redactor(set.secrets[:3]) != set.redactor(set.secrets[:3]) {
		t.Error("a redactor is made twice")
	}
	for i := range 2 * maxRedactors {
		var some []*one
		for j, o := range set.secrets {
			if i+1>>j&1 == 1 || j < i%7 {
				some = append(some, o)
			}
		}
		if f := set.redactor(some); len(some) > 0 && len(f.needles) != len(some) {
			t.Errorf("%d needles for %d secrets", len(f.needles), len(some))
		}
	}
	if n := len(set.redactors.all); n > maxRedactors {
		t.Errorf("%d redactors are kept", n)
	}
}
