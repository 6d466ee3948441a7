package policy

import "net/netip"

// refusedRange is a block of addresses that no sandbox reaches.
type refusedRange struct {
	prefix netip.Prefix
	reason string
}

// refused lists the blocks. Sources: the IANA IPv4 and IPv6 Special-Purpose
// Address Registries (RFC 6890), the IPv4 multicast and the IPv6 address space
// registries; cloud metadata services that use a public address are added by
// hand. The order matters for the reason only: the first match names it.
var refused = []refusedRange{
	block("0.0.0.0/8", "this network (RFC 791)"),
	block("10.0.0.0/8", "private (RFC 1918)"),
	block("100.64.0.0/10", "shared address space (RFC 6598)"),
	block("127.0.0.0/8", "loopback (RFC 1122)"),
	block("169.254.0.0/16", "link-local and metadata (RFC 3927)"),
	block("172.16.0.0/12", "private (RFC 1918)"),
	block("192.0.0.0/24", "IETF protocol assignments (RFC 6890)"),
	block("192.0.2.0/24", "documentation (RFC 5737)"),
	block("192.88.99.0/24", "6to4 relay anycast (RFC 7526)"),
	block("192.168.0.0/16", "private (RFC 1918)"),
	block("198.18.0.0/15", "benchmarking (RFC 2544)"),
	block("198.51.100.0/24", "documentation (RFC 5737)"),
	block("203.0.113.0/24", "documentation (RFC 5737)"),
	block("224.0.0.0/4", "multicast (RFC 5771)"),
	block("240.0.0.0/4", "reserved and broadcast (RFC 1112, RFC 919)"),
	block("168.63.129.16/32", "metadata of a cloud"),

	block("::1/128", "loopback (RFC 4291)"),
	block("::/96", "unspecified and IPv4-compatible (RFC 4291)"),
	block("::ffff:0:0:0/96", "IPv4-translated (RFC 2765)"),
	block("64:ff9b:1::/48", "local-use translation (RFC 8215)"),
	block("100::/64", "discard (RFC 6666)"),
	block("100:0:0:1::/64", "dummy (RFC 9780)"),
	block("2001::/32", "Teredo (RFC 4380)"),
	block("2001::/23", "IETF protocol assignments (RFC 2928)"),
	block("2001:db8::/32", "documentation (RFC 3849)"),
	block("3fff::/20", "documentation (RFC 9637)"),
	block("5f00::/16", "segment routing (RFC 9602)"),
	block("fc00::/7", "unique local and metadata (RFC 4193)"),
	block("fe80::/10", "link-local (RFC 4291)"),
	block("fec0::/10", "site-local (RFC 3879)"),
	block("ff00::/8", "multicast (RFC 4291)"),
}

var (
	globalUnicast = netip.MustParsePrefix("2000::/3")     // RFC 4291, all that IANA hands out
	nat64         = netip.MustParsePrefix("64:ff9b::/96") // RFC 6052
	sixToFour     = netip.MustParsePrefix("2002::/16")    // RFC 3056
)

// reasonUnallocated is given for IPv6 addresses outside of what IANA has
// allocated to anyone.
const reasonUnallocated = "not global unicast (RFC 4291)"

func block(prefix, reason string) refusedRange {
	return refusedRange{netip.MustParsePrefix(prefix), reason}
}

// refusedBecause returns why an unmapped address is refused by its range, or
// the empty string.
func refusedBecause(addr netip.Addr) string {
	for _, r := range refused {
		if r.prefix.Contains(addr) {
			return r.reason
		}
	}
	if addr.Is6() && !globalUnicast.Contains(addr) && !nat64.Contains(addr) {
		return reasonUnallocated
	}
	return ""
}

// embedded returns the IPv4 address to which a translator or tunnel would
// take packets for an IPv6 address.
func embedded(addr netip.Addr) (netip.Addr, bool) {
	b := addr.As16()
	switch {
	case nat64.Contains(addr):
		return netip.AddrFrom4([4]byte(b[12:16])), true
	case sixToFour.Contains(addr):
		return netip.AddrFrom4([4]byte(b[2:6])), true
	}
	return netip.Addr{}, false
}
