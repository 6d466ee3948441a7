//go:build e2e

package harness

import "net/netip"

// The names of the fake internet. None of them exists anywhere else.
const (
	WebHost     = "web.atoll.test"     // HTTP on 80, HTTPS on 443 with the extra root's certificate
	EchoHost    = "echo.atoll.test"    // TCP and UDP on EchoPort: what comes in goes out
	RebindHost  = "rebind.atoll.test"  // resolves to 127.0.0.1, which must not be reached
	PrivateHost = "private.atoll.test" // resolves to 10.0.0.1, likewise
	UntrustHost = "untrusted.atoll.test"
	EchoPort    = 7

	APIHost       = "api.atoll.test"    // HTTP on 80 (also HTTP/2), HTTPS on 443 and 8443
	TenantHost    = "tenant.atoll.test" // another customer of the API host's server, at the same address and in the same certificate
	AWSHost       = "s3.atoll.test"     // the API host under other names, for secrets of other kinds
	SignHost      = "sign.atoll.test"
	ExclusiveHost = "exclusive.atoll.test"
	EvilHost      = "evil.atoll.test"      // what nobody may reach: every byte is noted, on all ports
	RawHost       = "raw.atoll.test"       // takes everything, on all ports
	MailHost      = "mail.atoll.test"      // SMTP with STARTTLS on 25 and 587
	DBHost        = "db.atoll.test"        // PostgreSQL's request for TLS on 5432
	OtherCertHost = "othercert.atoll.test" // HTTPS with a trusted certificate of another host
	MixedHost     = "mixed.atoll.test"     // resolves to the API host, 10.0.0.1 and 127.0.0.1
	FlipHost      = "flip.atoll.test"      // resolves to the API host until that is asked for it, and then to 127.0.0.1
	WildZone      = ".wild.atoll.test"     // every name below it is the raw host
	WildApex      = "wild.atoll.test"      // the evil host
	LookAlike     = "badwild.atoll.test"   // the evil host
	Suffixed      = "api.atoll.test.evil.test"
)

var (
	webAddr4  = netip.MustParseAddr("93.184.215.14")
	webAddr6  = netip.MustParseAddr("2606:2800:21f:cb07::14")
	echoAddr  = netip.MustParseAddr("93.184.215.15")
	wrongAddr = netip.MustParseAddr("93.184.215.16")
	apiAddr4  = netip.MustParseAddr("93.184.215.20")
	apiAddr6  = netip.MustParseAddr("2606:2800:21f:cb07::20")
	rawAddr   = netip.MustParseAddr("93.184.215.30")
	otherAddr = netip.MustParseAddr("93.184.215.31")
	mailAddr  = netip.MustParseAddr("93.184.215.32")
	dbAddr    = netip.MustParseAddr("93.184.215.33")
	evilAddr4 = netip.MustParseAddr("93.184.215.66")
	evilAddr6 = netip.MustParseAddr("2606:2800:21f:cb07::66")
)

// publicResolvers are resolvers that a guest would find elsewhere.
var publicResolvers = []netip.Addr{
	netip.MustParseAddr("8.8.8.8"), netip.MustParseAddr("1.1.1.1"), netip.MustParseAddr("9.9.9.9"),
	netip.MustParseAddr("2001:4860:4860::8888"),
}

// Forbidden are addresses that no sandbox may reach. Behind each is a trap,
// on every port.
var Forbidden = []netip.Addr{
	netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.8.8.8"), netip.MustParseAddr("::1"),
	netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("::"),
	netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("172.16.0.1"), netip.MustParseAddr("192.168.1.1"),
	netip.MustParseAddr("100.64.0.1"), netip.MustParseAddr("169.254.169.254"), netip.MustParseAddr("169.254.1.1"),
	netip.MustParseAddr("168.63.129.16"),
	netip.MustParseAddr("224.0.0.1"), netip.MustParseAddr("224.0.0.251"), netip.MustParseAddr("255.255.255.255"),
	netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00:a701::99"), netip.MustParseAddr("fd00:ec2::254"), netip.MustParseAddr("fe80::1"),
	netip.MustParseAddr("::ffff:127.0.0.1"), netip.MustParseAddr("64:ff9b::7f00:1"), netip.MustParseAddr("2002:7f00:1::1"),
	netip.MustParseAddr("64:ff9b::a9fe:a9fe"), netip.MustParseAddr("2002:a9fe:a9fe::1"), netip.MustParseAddr("::7f00:1"),
	netip.MustParseAddr("2001:0:7f00:1::1"), netip.MustParseAddr("2001::80ff:fffe"), netip.MustParseAddr("64:ff9b:1::7f00:1"),
}

// zone is what the resolver knows.
func zone() map[string][]netip.Addr {
	loopback, private := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("10.0.0.1")
	return map[string][]netip.Addr{
		WebHost: {webAddr4, webAddr6}, EchoHost: {echoAddr}, UntrustHost: {wrongAddr},
		RebindHost: {loopback}, PrivateHost: {private},
		APIHost: {apiAddr4, apiAddr6}, TenantHost: {apiAddr4, apiAddr6},
		AWSHost: {apiAddr4}, SignHost: {apiAddr4}, ExclusiveHost: {apiAddr4},
		EvilHost: {evilAddr4, evilAddr6},
		RawHost:  {rawAddr}, MailHost: {mailAddr}, DBHost: {dbAddr}, OtherCertHost: {otherAddr},
		MixedHost: {private, apiAddr4, loopback}, WildApex: {evilAddr4}, LookAlike: {evilAddr4},
	}
}

// dial says which listener is behind which address.
func (n *Internet) dial() map[string]netip.AddrPort {
	d := map[string]netip.AddrPort{
		port(echoAddr, EchoPort): addrOf(n.echo.Addr()),
		port(wrongAddr, 443):     addrOf(n.wrongTLS.Listener.Addr()),
		port(otherAddr, 443):     addrOf(n.otherTLS.Listener.Addr()),
		port(mailAddr, 25):       addrOf(n.mail.Addr()),
		port(mailAddr, 587):      addrOf(n.mail.Addr()),
		port(dbAddr, 5432):       addrOf(n.db.Addr()),
		rawAddr.String():         addrOf(n.raw.tcp.Addr()),
	}
	for _, a := range []netip.Addr{webAddr4, webAddr6} {
		d[port(a, 80)] = addrOf(n.web.Listener.Addr())
		d[port(a, 443)] = addrOf(n.webTLS.Listener.Addr())
	}
	for _, a := range []netip.Addr{apiAddr4, apiAddr6} {
		d[port(a, 80)] = addrOf(n.api.Listener.Addr())
		d[port(a, 443)] = addrOf(n.apiTLS.Listener.Addr())
		d[port(a, 8443)] = addrOf(n.apiTLS.Listener.Addr())
	}
	// The evil host's address in other spellings leads there, too.
	for _, a := range append(embedded(evilAddr4), evilAddr4, evilAddr6) {
		d[a.String()] = addrOf(n.evil.tcp.Addr())
	}
	for _, a := range publicResolvers {
		d[a.String()] = addrOf(n.public.tcp.Addr())
	}
	for _, a := range append(HostAddrs(), Forbidden...) {
		d[a.String()] = addrOf(n.trap.Addr())
	}
	return d
}

// embedded returns the IPv6 addresses that carry an IPv4 address, as
// translators and tunnels read them.
func embedded(v4 netip.Addr) []netip.Addr {
	b := v4.As4()
	at := func(prefix string, place int) netip.Addr {
		a := netip.MustParseAddr(prefix).As16()
		copy(a[place:], b[:])
		return netip.AddrFrom16(a)
	}
	teredo := netip.MustParseAddr("2001::").As16()
	for i, v := range b {
		teredo[12+i] = ^v
	}
	return []netip.Addr{
		at("::ffff:0:0", 12), at("64:ff9b::", 12), at("2002::", 2), at("::", 12), netip.AddrFrom16(teredo),
	}
}
