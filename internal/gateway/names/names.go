// Package names hands out virtual addresses: one IPv4 and one IPv6 address for
// each name that the sandbox may reach by name, so that a later connection is
// known by its name.
//
// A Table's methods may be called concurrently.
package names

import (
	"encoding/binary"
	"net/netip"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// The ranges of virtual addresses. No packet with one of them leaves the
// gateway.
var (
	Virtual4 = netip.MustParsePrefix("198.18.0.0/15")      // set aside for benchmarks (RFC 2544), reachable nowhere
	Virtual6 = netip.MustParsePrefix("fd00:a701:0:1::/64") // unique local
)

const (
	slots    = 1<<17 - 2 // IPv4 addresses in Virtual4, without its first and last
	maxNoted = 4096      // real addresses whose name is remembered
)

// Table is a sandbox's virtual addresses. An address goes round: it gets
// another name only when all others have been used since.
type Table struct {
	mu     sync.Mutex // guards the following
	next   uint32     // the slot that was given last
	bySlot map[uint32]string
	byName *simplelru.LRU[string, uint32]
	noted  *simplelru.LRU[netip.Addr, string]
}

// NewTable makes a table that remembers at most most names, fewer than there
// are addresses; the name that was used least recently makes room.
func NewTable(most int) *Table {
	t := &Table{bySlot: map[uint32]string{}}
	most = min(max(most, 1), slots/2)
	t.byName, _ = simplelru.NewLRU(most, func(_ string, slot uint32) { delete(t.bySlot, slot) }) // fails for no positive size
	t.noted, _ = simplelru.NewLRU[netip.Addr, string](maxNoted, nil)
	return t
}

// Assign returns a name's virtual addresses, which it makes if there are none.
func (t *Table) Assign(name string) (v4, v6 netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	slot, ok := t.byName.Get(name)
	if !ok {
		slot = t.freeLocked()
		t.byName.Add(name, slot)
		t.bySlot[slot] = name
	}
	return addrs(slot)
}

// freeLocked finds the next slot that no name has. There always is one: there
// are twice as many slots as names.
func (t *Table) freeLocked() uint32 {
	for {
		t.next = t.next%slots + 1
		if _, taken := t.bySlot[t.next]; !taken {
			return t.next
		}
	}
}

func addrs(slot uint32) (v4, v6 netip.Addr) {
	a4 := Virtual4.Addr().As4()
	binary.BigEndian.PutUint32(a4[:], binary.BigEndian.Uint32(a4[:])+slot)
	a6 := Virtual6.Addr().As16()
	binary.BigEndian.PutUint32(a6[12:], slot)
	return netip.AddrFrom4(a4), netip.AddrFrom16(a6)
}

// slotOf is the inverse of addrs.
func slotOf(addr netip.Addr) (uint32, bool) {
	switch {
	case Virtual4.Contains(addr):
		a, base := addr.As4(), Virtual4.Addr().As4()
		return binary.BigEndian.Uint32(a[:]) - binary.BigEndian.Uint32(base[:]), true
	case Virtual6.Contains(addr):
		a := addr.As16()
		slot := binary.BigEndian.Uint32(a[12:])
		_, v6 := addrs(slot)
		return slot, v6 == addr
	}
	return 0, false
}

// Lookup returns the name that a virtual address stands for, and counts as a
// use.
func (t *Table) Lookup(addr netip.Addr) (name string, ok bool) {
	slot, ok := slotOf(addr.Unmap())
	if !ok {
		return "", false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if name, ok = t.bySlot[slot]; ok {
		t.byName.Get(name)
	}
	return name, ok
}

// IsVirtual reports whether an address lies in the virtual ranges.
func IsVirtual(addr netip.Addr) bool {
	addr = addr.Unmap()
	return Virtual4.Contains(addr) || Virtual6.Contains(addr)
}

// Note remembers, for the audit only, that a name was answered with a real
// address.
func (t *Table) Note(name string, addr netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.noted.Add(addr.Unmap(), name)
}

// Noted returns the name that was last answered with a real address, or "".
func (t *Table) Noted(addr netip.Addr) (name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	name, _ = t.noted.Get(addr.Unmap())
	return name
}
