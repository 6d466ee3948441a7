package policy

import "net/netip"

// List is an allow-list: the destinations that a sandbox may reach, and no
// others. It is immutable. A nil *List allows everything, an empty one nothing.
type List struct{}

// ParseList reads the entries of an allow-list. The error is an *EntryError.
func ParseList(entries []string) (*List, error) { panic("not built") }

// EntryError is an entry that is none.
type EntryError struct {
	Index  int    // in the list
	Entry  string // bounded in length
	Reason string // a sentence that says what to do
}

func (e *EntryError) Error() string { return e.Reason }

// Entries returns the entries in their normal form, in the order given.
func (l *List) Entries() []string { panic("not built") }

// MatchName returns the entry that allows a name on a port; port 0 asks for
// any port. The name is in normal form.
func (l *List) MatchName(name string, port uint16) (entry string, ok bool) { panic("not built") }

// MatchAddr is MatchName for a literal address.
func (l *List) MatchAddr(addr netip.Addr, port uint16) (entry string, ok bool) { panic("not built") }

// Outside returns the first entry that allows something which l doesn't.
func (l *List) Outside(other *List) (entry string, found bool) { panic("not built") }

// NormalName brings a name into the one form in which names are compared:
// lower case, ASCII (IDNA), without the final dot.
func NormalName(name string) (string, error) { panic("not built") }
