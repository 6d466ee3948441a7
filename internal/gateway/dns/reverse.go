package dns

import (
	"net/netip"
	"strconv"
	"strings"
)

// reverseAddr returns the address that a name for reverse look-ups stands
// for. Of an incomplete one (a zone such as "10.in-addr.arpa") it is the
// first address in the zone. The name is canonical.
func reverseAddr(name string) (netip.Addr, bool) {
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		return reverse4(strings.Split(rest, "."))
	}
	if rest, ok := strings.CutSuffix(name, ".ip6.arpa"); ok {
		return reverse6(strings.Split(rest, "."))
	}
	return netip.Addr{}, false
}

// reverse4 takes the address from the last labels, so that a name below an
// address's own (as in RFC 2317) is judged by that address.
func reverse4(labels []string) (netip.Addr, bool) {
	var b [4]byte
	for i := 0; i < min(len(labels), len(b)); i++ {
		n, err := strconv.ParseUint(labels[len(labels)-1-i], 10, 8)
		if err != nil {
			return netip.Addr{}, i > 0
		}
		b[i] = byte(n)
	}
	return netip.AddrFrom4(b), true
}

func reverse6(labels []string) (netip.Addr, bool) {
	var b [16]byte
	for i := 0; i < min(len(labels), 2*len(b)); i++ {
		n, err := strconv.ParseUint(labels[len(labels)-1-i], 16, 4)
		if err != nil {
			return netip.Addr{}, i > 0
		}
		b[i/2] |= byte(n) << (4 - i%2*4)
	}
	return netip.AddrFrom16(b), true
}
