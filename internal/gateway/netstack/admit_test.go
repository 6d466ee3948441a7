package netstack

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/atollhq/atoll/internal/machine"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

func network() machine.Network {
	return machine.Network{
		MTU:        1500,
		GuestMAC:   net.HardwareAddr{2, 0, 0, 0, 0, 2},
		GatewayMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1},
		Guest4:     netip.MustParsePrefix("10.1.0.2/24"),
		Gateway4:   netip.MustParseAddr("10.1.0.1"),
		Guest6:     netip.MustParsePrefix("fd01::2/64"),
		Gateway6:   netip.MustParseAddr("fd01::1"),
	}
}

var (
	toGateway   = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	toOther     = net.HardwareAddr{2, 0, 0, 0, 0, 9}
	toAll       = net.HardwareAddr{255, 255, 255, 255, 255, 255}
	toMulticast = net.HardwareAddr{0x33, 0x33, 0xff, 0, 0, 1}
)

func ether(dst net.HardwareAddr, kind uint16, body []byte) []byte {
	out := append(append([]byte(nil), dst...), 2, 0, 0, 0, 0, 2)
	return append(binary.BigEndian.AppendUint16(out, kind), body...)
}

func ip4(src, dst string, proto byte, change func([]byte), body ...byte) []byte {
	p := make([]byte, ipv4Size, ipv4Size+len(body))
	p[0], p[8], p[9] = 0x45, 64, proto
	binary.BigEndian.PutUint16(p[2:], uint16(ipv4Size+len(body)))
	copy(p[12:], netip.MustParseAddr(src).AsSlice())
	copy(p[16:], netip.MustParseAddr(dst).AsSlice())
	if change != nil {
		change(p)
	}
	return append(p, body...)
}

func ip6(src, dst string, proto, hops byte, body ...byte) []byte {
	p := make([]byte, ipv6Size, ipv6Size+len(body))
	p[0], p[6], p[7] = 0x60, proto, hops
	binary.BigEndian.PutUint16(p[4:], uint16(len(body)))
	copy(p[8:], netip.MustParseAddr(src).AsSlice())
	copy(p[24:], netip.MustParseAddr(dst).AsSlice())
	return append(p, body...)
}

func neighbour(target string) []byte {
	b := make([]byte, solicitSize, solicitSize+8)
	b[0] = solicit
	copy(b[8:], netip.MustParseAddr(target).AsSlice())
	return append(b, 1, 1, 2, 0, 0, 0, 0, 2)
}

func arpFor(op byte, target string) []byte {
	b := []byte{0, 1, 8, 0, 6, 4, 0, op, 2, 0, 0, 0, 0, 2, 10, 1, 0, 2, 0, 0, 0, 0, 0, 0}
	return append(b, netip.MustParseAddr(target).AsSlice()...)
}

func TestAdmit(t *testing.T) {
	tcp := make([]byte, 20)
	const me4, world4, me6, world6 = "10.1.0.2", "8.8.8.8", "fd01::2", "2606:4700::1"
	at := func(i int, v byte) func([]byte) { return func(p []byte) { p[i] = v } }
	tests := map[string]struct {
		frame []byte
		want  verdict
	}{
		"tcp":                        {ether(toGateway, etherIPv4, ip4(me4, world4, protoTCP, nil, tcp...)), deliver},
		"udp":                        {ether(toGateway, etherIPv4, ip4(me4, world4, protoUDP, nil, tcp...)), deliver},
		"don't fragment":             {ether(toGateway, etherIPv4, ip4(me4, world4, protoTCP, at(6, 0x40), tcp...)), deliver},
		"first fragment":             {ether(toGateway, etherIPv4, ip4(me4, world4, protoTCP, at(6, 0x20), tcp...)), drop},
		"later fragment":             {ether(toGateway, etherIPv4, ip4(me4, world4, protoTCP, at(7, 1), tcp...)), drop},
		"reserved flag":              {ether(toGateway, etherIPv4, ip4(me4, world4, protoTCP, at(6, 0x80), tcp...)), drop},
		"options":                    {ether(toGateway, etherIPv4, ip4(me4, world4, protoTCP, at(0, 0x46), tcp...)), drop},
		"version 6 in an IPv4 frame": {ether(toGateway, etherIPv4, ip4(me4, world4, protoTCP, at(0, 0x65), tcp...)), drop},
		"other guest's source":       {ether(toGateway, etherIPv4, ip4("10.1.0.3", world4, protoTCP, nil, tcp...)), drop},
		"gateway's source":           {ether(toGateway, etherIPv4, ip4("10.1.0.1", world4, protoTCP, nil, tcp...)), drop},
		"other station":              {ether(toOther, etherIPv4, ip4(me4, world4, protoTCP, nil, tcp...)), drop},
		"broadcast frame":            {ether(toAll, etherIPv4, ip4(me4, "255.255.255.255", protoUDP, nil, tcp...)), drop},
		"multicast packet":           {ether(toGateway, etherIPv4, ip4(me4, "224.0.0.251", protoUDP, nil, tcp...)), drop},
		"ping the gateway":           {ether(toGateway, etherIPv4, ip4(me4, "10.1.0.1", protoICMP, nil, echoRequest4, 0, 0, 0)), deliver},
		"ping the world":             {ether(toGateway, etherIPv4, ip4(me4, world4, protoICMP, nil, echoRequest4, 0, 0, 0)), drop},
		"icmp redirect":              {ether(toGateway, etherIPv4, ip4(me4, "10.1.0.1", protoICMP, nil, 5, 0, 0, 0)), drop},
		"igmp":                       {ether(toGateway, etherIPv4, ip4(me4, world4, 2, nil, tcp...)), drop},
		"sctp":                       {ether(toGateway, etherIPv4, ip4(me4, world4, 132, nil, tcp...)), drop},
		"ip in ip":                   {ether(toGateway, etherIPv4, ip4(me4, world4, 4, nil, tcp...)), drop},
		"tcp over IPv6":              {ether(toGateway, etherIPv6, ip6(me6, world6, protoTCP, 64, tcp...)), deliver},
		"spoofed IPv6":               {ether(toGateway, etherIPv6, ip6("fd01::3", world6, protoTCP, 64, tcp...)), drop},
		"link-local tcp":             {ether(toGateway, etherIPv6, ip6("fe80::2", world6, protoTCP, 64, tcp...)), drop},
		"hop-by-hop options":         {ether(toGateway, etherIPv6, ip6(me6, world6, 0, 64, tcp...)), drop},
		"IPv6 fragment":              {ether(toGateway, etherIPv6, ip6(me6, world6, 44, 64, tcp...)), drop},
		"ping gateway over IPv6":     {ether(toGateway, etherIPv6, ip6(me6, "fd01::1", protoICMPv6, 64, echoRequest6, 0, 0, 0)), deliver},
		"router solicitation":        {ether(toMulticast, etherIPv6, ip6("fe80::2", "ff02::2", protoICMPv6, 255, 133, 0, 0, 0, 0, 0, 0, 0)), drop},
		"solicitation":               {ether(toMulticast, etherIPv6, ip6(me6, "ff02::1:ff00:1", protoICMPv6, 255, neighbour("fd01::1")...)), answer},
		"link-local solicitation":    {ether(toMulticast, etherIPv6, ip6("fe80::2", "ff02::1:ff00:1", protoICMPv6, 255, neighbour("fd01::1")...)), answer},
		"far solicitation":           {ether(toMulticast, etherIPv6, ip6(me6, "ff02::1:ff00:1", protoICMPv6, 254, neighbour("fd01::1")...)), drop},
		"solicitation for another":   {ether(toMulticast, etherIPv6, ip6(me6, "ff02::1:ff00:1", protoICMPv6, 255, neighbour("fd01::9")...)), drop},
		"arp":                        {ether(toAll, etherARP, arpFor(arpRequest, "10.1.0.1")), answer},
		"arp for another":            {ether(toAll, etherARP, arpFor(arpRequest, "10.1.0.9")), drop},
		"arp reply":                  {ether(toGateway, etherARP, arpFor(arpReply, "10.1.0.1")), drop},
		"vlan":                       {ether(toGateway, 0x8100, ip4(me4, world4, protoTCP, nil, tcp...)), drop},
		"spanning tree":              {ether(toAll, 0x0026, tcp), drop},
		"runt":                       {[]byte{1, 2, 3}, drop},
		"nothing":                    {nil, drop},
	}
	n := network()
	for name, tt := range tests {
		if got := admit(tt.frame, &n); got != tt.want {
			t.Errorf("%s: got %d, want %d", name, got, tt.want)
		}
		for cut := range tt.frame { // no prefix of a frame may panic
			admit(tt.frame[:cut], &n)
		}
	}
}

func TestNoIPv6WithoutAddress(t *testing.T) {
	n := network()
	n.Guest6, n.Gateway6 = netip.Prefix{}, netip.Addr{}
	f := ether(toGateway, etherIPv6, ip6("fd01::2", "2606:4700::1", protoTCP, 64, make([]byte, 20)...))
	if got := admit(f, &n); got != drop {
		t.Errorf("got %d", got)
	}
}

func TestARPAnswer(t *testing.T) {
	n := network()
	got := header.ARP(reply(ether(toAll, etherARP, arpFor(arpRequest, "10.1.0.1")), &n)[etherSize:])
	if !got.IsValid() || got.Op() != header.ARPReply {
		t.Fatalf("not a reply: % x", got)
	}
	if !bytes.Equal(got.HardwareAddressSender(), n.GatewayMAC) || !bytes.Equal(got.HardwareAddressTarget(), n.GuestMAC) ||
		!bytes.Equal(got.ProtocolAddressSender(), n.Gateway4.AsSlice()) || !bytes.Equal(got.ProtocolAddressTarget(), n.Guest4.Addr().AsSlice()) {
		t.Errorf("got % x", got)
	}
}

func TestNeighbourAnswerChecksum(t *testing.T) {
	n := network()
	frame := reply(ether(toMulticast, etherIPv6, ip6("fd01::2", "ff02::1:ff00:1", protoICMPv6, 255, neighbour("fd01::1")...)), &n)
	ip := header.IPv6(frame[etherSize:])
	icmp := header.ICMPv6(ip.Payload())
	want := header.ICMPv6Checksum(header.ICMPv6ChecksumParams{Header: icmp, Src: ip.SourceAddress(), Dst: ip.DestinationAddress()})
	if icmp.Checksum() != want || icmp.Type() != header.ICMPv6NeighborAdvert {
		t.Errorf("checksum %x, want %x, type %d", icmp.Checksum(), want, icmp.Type())
	}
	if na := header.NDPNeighborAdvert(icmp.MessageBody()); na.TargetAddress() != tcpip.AddrFromSlice(n.Gateway6.AsSlice()) {
		t.Errorf("target %s", na.TargetAddress())
	}
}

func FuzzAdmit(f *testing.F) {
	f.Add(ether(toGateway, etherIPv4, ip4("10.1.0.2", "8.8.8.8", protoTCP, nil, make([]byte, 20)...)))
	f.Add(ether(toMulticast, etherIPv6, ip6("fd01::2", "ff02::1:ff00:1", protoICMPv6, 255, neighbour("fd01::1")...)))
	f.Add(ether(toAll, etherARP, arpFor(arpRequest, "10.1.0.1")))
	n := network()
	f.Fuzz(func(t *testing.T, frame []byte) {
		switch admit(frame, &n) {
		case answer:
			if len(reply(frame, &n)) < etherSize {
				t.Fatal("short reply")
			}
		case deliver:
			p := frame[etherSize:]
			src := netip.AddrFrom16(netip.IPv6Unspecified().As16())
			if p[0]>>4 == 4 {
				src, _ = netip.AddrFromSlice(p[12:16])
			} else {
				src, _ = netip.AddrFromSlice(p[8:24])
			}
			if src != n.Guest4.Addr() && src != n.Guest6.Addr() {
				t.Fatalf("admitted a packet from %s", src)
			}
		}
	})
}

func TestReadFrame(t *testing.T) {
	head, body := make([]byte, 3), make([]byte, 5)
	tests := map[string]struct {
		in   []byte
		want int
		err  error
	}{
		"head":      {[]byte{0, 0, 0, 2, 1, 2}, 2, nil},
		"both":      {[]byte{0, 0, 0, 5, 1, 2, 3, 4, 5}, 5, nil},
		"end":       {nil, 0, io.EOF},
		"cut head":  {[]byte{0, 0}, 0, io.ErrUnexpectedEOF},
		"empty":     {[]byte{0, 0, 0, 0}, 0, errFrameSize},
		"too large": {[]byte{0, 0, 0, 9}, 0, errFrameSize},
		"huge":      {[]byte{255, 255, 255, 255}, 0, errFrameSize},
	}
	for name, tt := range tests {
		n, err := readFrame(bytes.NewReader(tt.in), head, body)
		if n != tt.want || err != tt.err {
			t.Errorf("%s: got %d, %v", name, n, err)
		}
		if got := slices.Concat(head, body)[:n]; n > 0 && !bytes.Equal(got, tt.in[streamHead:]) {
			t.Errorf("%s: got %v", name, got)
		}
	}
	for _, cut := range [][]byte{{0, 0, 0, 3, 1}, {0, 0, 0, 4, 1, 2, 3}} {
		if _, err := readFrame(bytes.NewReader(cut), head, body); err == nil {
			t.Errorf("a frame that was cut short is whole: %v", cut)
		}
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte{0, 0, 0, 2, 7, 8, 0, 0, 0, 1, 9})
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		head, body := make([]byte, headSize), make([]byte, maxFrame-headSize)
		for {
			n, err := readFrame(r, head, body)
			if err != nil {
				return
			}
			if n == 0 || n > maxFrame {
				t.Fatalf("frame of %d bytes", n)
			}
		}
	})
}

func BenchmarkAdmit(b *testing.B) {
	n := network()
	f := ether(toGateway, etherIPv4, ip4("10.1.0.2", "8.8.8.8", protoTCP, nil, make([]byte, 20)...))
	for b.Loop() {
		admit(f, &n)
	}
}
