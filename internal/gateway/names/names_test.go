package names

import (
	"fmt"
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

func TestAddressesStandForNames(t *testing.T) {
	table := NewTable(100)
	a4, a6 := table.Assign("a.test")
	b4, _ := table.Assign("b.test")
	if a4 == b4 || !IsVirtual(a4) || !IsVirtual(a6) || !a4.Is4() || !a6.Is6() {
		t.Fatalf("%s %s %s", a4, a6, b4)
	}
	if again, _ := table.Assign("a.test"); again != a4 {
		t.Errorf("another address: %s after %s", again, a4)
	}
	for _, a := range []netip.Addr{a4, a6, netip.AddrFrom16(a4.As16())} {
		if name, ok := table.Lookup(a); !ok || name != "a.test" {
			t.Errorf("%s: %q %v", a, name, ok)
		}
	}
	for _, a := range []string{"198.18.0.0", "198.19.255.255", "fd00:a701:0:1::", "fd00:a701:0:1:1::1", "8.8.8.8"} {
		if name, ok := table.Lookup(netip.MustParseAddr(a)); ok {
			t.Errorf("%s is %q", a, name)
		}
	}
}

// Whatever is asked in whatever order: an address has at most one name, and
// the names are bounded.
func TestTableIsAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		table := NewTable(8)
		given := map[netip.Addr]string{}
		for range rapid.IntRange(1, 60).Draw(t, "n") {
			name := fmt.Sprint("n", rapid.IntRange(0, 30).Draw(t, "name"))
			v4, v6 := table.Assign(name)
			given[v4], given[v6] = name, name
			for a, want := range given {
				if got, ok := table.Lookup(a); ok && got != want {
					t.Fatalf("%s is %s and was %s", a, got, want)
				}
			}
		}
		if len(table.bySlot) > 8 || len(table.bySlot) != table.byName.Len() {
			t.Fatalf("%d names, %d addresses", table.byName.Len(), len(table.bySlot))
		}
	})
}

func TestSlotsGoRound(t *testing.T) {
	table := NewTable(4)
	table.next = slots - 2
	seen := map[netip.Addr]bool{}
	for i := range 6 {
		v4, _ := table.Assign(fmt.Sprint(i))
		if seen[v4] || !Virtual4.Contains(v4) {
			t.Fatalf("%s again", v4)
		}
		seen[v4] = true
	}
}

func TestNotes(t *testing.T) {
	table := NewTable(4)
	a := netip.MustParseAddr("8.8.8.8")
	table.Note("dns.test", a)
	if got := table.Noted(a); got != "dns.test" {
		t.Error(got)
	}
	if got := table.Noted(netip.MustParseAddr("8.8.4.4")); got != "" {
		t.Error(got)
	}
}
