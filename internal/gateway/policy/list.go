package policy

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Bounds of an allow-list.
const (
	MaxEntries = 1000
	maxEntry   = 300 // bytes
)

// List is an allow-list: the destinations that a sandbox may reach, and no
// others. It is immutable. A nil *List allows everything, an empty one nothing.
type List struct {
	entries  []entry
	exact    map[string][]int // entries by name
	suffixes map[string][]int // "*." entries by the name behind the star
	addrs    []int            // entries that are addresses or prefixes
}

// entry is one line of a list: a name, a suffix or a prefix, on one port or,
// with port 0, on all.
type entry struct {
	name   string // in normal form; empty for a prefix
	wild   bool   // subdomains of name, at any depth, and not name itself
	prefix netip.Prefix
	port   uint16
}

// EntryError is an entry that is none.
type EntryError struct {
	Index  int    // in the list
	Entry  string // bounded in length
	Reason string // a sentence that says what to do
}

func (e *EntryError) Error() string { return e.Reason }

// ParseList reads the entries of an allow-list. The error is an *EntryError.
func ParseList(entries []string) (*List, error) {
	l := &List{exact: map[string][]int{}, suffixes: map[string][]int{}}
	if len(entries) > MaxEntries {
		return nil, &EntryError{Index: MaxEntries, Reason: fmt.Sprintf("there are %d entries and at most %d are allowed", len(entries), MaxEntries)}
	}
	for i, text := range entries {
		e, err := parseEntry(text)
		if err != nil {
			return nil, &EntryError{Index: i, Entry: clip(text), Reason: fmt.Sprintf("%q %s", clip(text), err)}
		}
		l.add(e)
	}
	return l, nil
}

func (l *List) add(e entry) {
	i := len(l.entries)
	l.entries = append(l.entries, e)
	switch {
	case e.name == "":
		l.addrs = append(l.addrs, i)
	case e.wild:
		l.suffixes[e.name] = append(l.suffixes[e.name], i)
	default:
		l.exact[e.name] = append(l.exact[e.name], i)
	}
}

func clip(s string) string {
	if len(s) <= 80 {
		return s
	}
	return strings.ToValidUTF8(s[:80], "") + "…"
}

// Entries returns the entries in their normal form, in the order given.
func (l *List) Entries() []string {
	if l == nil {
		return nil
	}
	out := make([]string, len(l.entries))
	for i, e := range l.entries {
		out[i] = e.String()
	}
	return out
}

func (e entry) String() string {
	host := e.name
	switch {
	case e.wild:
		host = "*." + host
	case host == "" && e.prefix.IsSingleIP():
		host = e.prefix.Addr().String()
	case host == "":
		host = e.prefix.String()
	}
	if e.port == 0 {
		return host
	}
	if e.name == "" && e.prefix.Addr().Is6() {
		host = "[" + host + "]"
		if !e.prefix.IsSingleIP() {
			host = fmt.Sprintf("[%s]/%d", e.prefix.Addr(), e.prefix.Bits())
		}
	}
	return host + ":" + strconv.Itoa(int(e.port))
}

// MatchName returns the entry that allows a name on a port; port 0 asks for
// any port. The name is in normal form.
func (l *List) MatchName(name string, port uint16) (entry string, ok bool) {
	if l == nil {
		return "", true
	}
	if i, ok := l.onPort(l.exact[name], port); ok {
		return l.entries[i].String(), true
	}
	for rest := name; ; {
		_, parent, more := strings.Cut(rest, ".")
		if !more {
			return "", false
		}
		if i, ok := l.onPort(l.suffixes[parent], port); ok {
			return l.entries[i].String(), true
		}
		rest = parent
	}
}

func (l *List) onPort(candidates []int, port uint16) (int, bool) {
	for _, i := range candidates {
		if p := l.entries[i].port; p == 0 || port == 0 || p == port {
			return i, true
		}
	}
	return 0, false
}

// MatchAddr is MatchName for a literal address.
func (l *List) MatchAddr(addr netip.Addr, port uint16) (entry string, ok bool) {
	if l == nil {
		return "", true
	}
	addr = addr.Unmap()
	for _, i := range l.addrs {
		if e := l.entries[i]; e.prefix.Contains(addr) && (e.port == 0 || port == 0 || e.port == port) {
			return e.String(), true
		}
	}
	return "", false
}

// Outside returns the first entry that allows something which l doesn't. A nil
// other is the whole internet.
func (l *List) Outside(other *List) (entry string, found bool) {
	switch {
	case l == nil:
		return "", false
	case other == nil:
		return "everything", true
	}
	for _, e := range other.entries {
		if !l.covers(e) {
			return e.String(), true
		}
	}
	return "", false
}

func (l *List) covers(e entry) bool {
	for _, mine := range l.entries {
		if (mine.port == 0 || mine.port == e.port) && mine.coversHost(e) {
			return true
		}
	}
	return false
}

func (e entry) coversHost(other entry) bool {
	switch {
	case e.name == "" || other.name == "":
		return e.name == other.name && e.prefix.Bits() <= other.prefix.Bits() && e.prefix.Contains(other.prefix.Addr())
	case e.wild:
		return strings.HasSuffix(other.name, "."+e.name) || other.wild && other.name == e.name
	}
	return !other.wild && e.name == other.name
}
