// Package names hands out virtual addresses: one IPv4 and one IPv6 address for
// each name that the sandbox may reach by name, so that a later connection is
// known by its name.
package names

import "net/netip"

// The ranges of virtual addresses. No packet with one of them leaves the
// gateway.
var (
	Virtual4 = netip.MustParsePrefix("198.18.0.0/15")      // set aside for benchmarks (RFC 2544), reachable nowhere
	Virtual6 = netip.MustParsePrefix("fd00:a701:0:1::/64") // unique local
)

// Table is a sandbox's virtual addresses. Its methods may be called
// concurrently.
type Table struct{}

// NewTable makes a table that remembers at most max names; the name that was
// used least recently makes room.
func NewTable(max int) *Table { panic("not built") }

// Assign returns a name's virtual addresses, which it makes if there are none.
func (t *Table) Assign(name string) (v4, v6 netip.Addr) { panic("not built") }

// Lookup returns the name that a virtual address stands for, and counts as a
// use.
func (t *Table) Lookup(addr netip.Addr) (name string, ok bool) { panic("not built") }

// IsVirtual reports whether an address lies in the virtual ranges.
func IsVirtual(addr netip.Addr) bool { panic("not built") }

// Note remembers, for the audit only, that a name was answered with a real
// address; Noted returns it, or "".
func (t *Table) Note(name string, addr netip.Addr)   { panic("not built") }
func (t *Table) Noted(addr netip.Addr) (name string) { panic("not built") }
