package policy

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// The reasons why text is no entry. Each ends a sentence that begins with it.
var (
	errLong     = errors.New("is too long: write a host name or an address, with or without a port")
	errEmpty    = errors.New("is empty: write a host name or an address, with or without a port")
	errScheme   = errors.New("is a URL: write only its host, with or without a port")
	errPath     = errors.New("holds a path or a user: write only the host, with or without a port")
	errStar     = errors.New(`has a star in a place where none may be: write "*.example.com" for all subdomains`)
	errPort     = errors.New("has no valid port: ports lie between 1 and 65535")
	errPrefix   = errors.New("is no valid prefix: write an address, a slash and a number of bits")
	errNumber   = errors.New("is an address in an unusual spelling: write four decimal numbers with dots")
	errName     = errors.New("is no valid host name")
	errBrackets = errors.New("is no valid address: write an IPv6 address with a port as [address]:port")
)

func parseEntry(text string) (entry, error) {
	switch {
	case text == "":
		return entry{}, errEmpty
	case len(text) > maxEntry:
		return entry{}, errLong
	case strings.Contains(text, "://"):
		return entry{}, errScheme
	}
	if p, ok := bareAddress(text); ok {
		return entry{prefix: p}, nil
	}
	host, port, err := splitPort(text)
	if err != nil {
		return entry{}, err
	}
	e, err := parseHost(host)
	e.port = port
	return e, err
}

// bareAddress reads an address or a prefix without a port.
func bareAddress(text string) (netip.Prefix, bool) {
	if p, err := netip.ParsePrefix(text); err == nil {
		return normalPrefix(p)
	}
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" {
		return netip.Prefix{}, false
	}
	a = a.Unmap()
	return netip.PrefixFrom(a, a.BitLen()), true
}

// normalPrefix writes IPv4 inside IPv6 as IPv4.
func normalPrefix(p netip.Prefix) (netip.Prefix, bool) {
	if p.Addr().Is4In6() {
		if p.Bits() < 96 {
			return p, false
		}
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked(), true
}

func splitPort(text string) (host string, port uint16, err error) {
	i := strings.LastIndexByte(text, ':')
	if i < 0 || strings.HasSuffix(text, "]") {
		return text, 0, nil
	}
	digits := text[i+1:]
	n, err := strconv.ParseUint(digits, 10, 16)
	if err != nil || n == 0 || digits[0] == '+' {
		return "", 0, errPort
	}
	return text[:i], uint16(n), nil
}

func parseHost(host string) (entry, error) {
	if strings.ContainsAny(host, "[]") {
		return parseBrackets(host)
	}
	if p, ok := bareAddress(host); ok {
		if p.Addr().Is6() {
			return entry{}, errBrackets
		}
		return entry{prefix: p}, nil
	}
	name, wild := strings.CutPrefix(host, "*.")
	switch {
	case strings.ContainsAny(name, "/@?#"):
		if looksLikePrefix(name) {
			return entry{}, errPrefix
		}
		return entry{}, errPath
	case strings.Contains(name, "*"):
		return entry{}, errStar
	case strings.Contains(name, ":"):
		return entry{}, errBrackets
	}
	name, err := NormalName(name)
	return entry{name: name, wild: wild}, err
}

func looksLikePrefix(s string) bool {
	addr, _, _ := strings.Cut(s, "/")
	_, err := netip.ParseAddr(addr)
	return err == nil
}

// parseBrackets reads [address] and [address]/bits.
func parseBrackets(host string) (entry, error) {
	inner, bits, ok := strings.Cut(strings.TrimPrefix(host, "["), "]")
	a, err := netip.ParseAddr(inner)
	if !ok || host[0] != '[' || err != nil || !a.Is6() || a.Zone() != "" {
		return entry{}, errBrackets
	}
	p, ok := bareAddress(inner + bits)
	if !ok {
		return entry{}, errPrefix
	}
	return entry{prefix: p}, nil
}

// profile maps names as browsers do before they look them up (UTS 46), with
// underscores, which names in use have.
var profile = idna.New(idna.MapForLookup(), idna.Transitional(false), idna.StrictDomainName(false))

const maxName, maxLabel = 253, 63 // bytes (RFC 1035)

// NormalName brings a name into the one form in which names are compared:
// lower case, ASCII (IDNA), without the final dot. What a resolver might take
// for an address is no name.
func NormalName(name string) (string, error) {
	name = strings.TrimSuffix(name, ".")
	if name == "" || len(name) > maxEntry {
		return "", errName
	}
	ascii, err := toASCII(name)
	if err != nil || len(ascii) > maxName {
		return "", errName
	}
	labels := strings.Split(ascii, ".")
	for _, label := range labels {
		if !validLabel(label) {
			return "", errName
		}
	}
	if numeric(labels[len(labels)-1]) {
		return "", errNumber
	}
	return ascii, nil
}

// toASCII refuses what would become something else if it were mapped again.
func toASCII(name string) (string, error) {
	if !utf8.ValidString(name) {
		return "", errName
	}
	name = strings.ToLower(name)
	if strings.IndexFunc(name, func(r rune) bool { return r >= utf8.RuneSelf }) < 0 && !strings.Contains(name, "xn--") {
		return name, nil
	}
	ascii, err := profile.ToASCII(name)
	if err != nil {
		return "", errName
	}
	ascii = strings.ToLower(ascii)
	if again, err := profile.ToASCII(ascii); err != nil || again != ascii {
		return "", errName
	}
	return ascii, nil
}

func validLabel(label string) bool {
	if label == "" || len(label) > maxLabel || label[0] == '-' || label[len(label)-1] == '-' {
		return false
	}
	return !strings.ContainsFunc(label, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '_')
	})
}

// numeric is true of a last label that makes a name an address for many
// resolvers (WHATWG URL, "ends in a number").
func numeric(label string) bool {
	hex, ok := strings.CutPrefix(label, "0x")
	digits := "0123456789"
	if ok {
		label, digits = hex, "0123456789abcdef"
	}
	return strings.Trim(label, digits) == ""
}
