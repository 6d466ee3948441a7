package netstack

import (
	"encoding/binary"
	"net/netip"

	"github.com/atollhq/atoll/internal/machine"
)

// Sizes and numbers of Ethernet (IEEE 802.3), ARP (RFC 826), IPv4 (RFC 791),
// IPv6 (RFC 8200) and neighbour discovery (RFC 4861).
const (
	macSize      = 6
	etherSize    = 14
	arpSize      = 28
	ipv4Size     = 20
	ipv6Size     = 40
	solicitSize  = 24
	advertSize   = 32
	etherIPv4    = 0x0800
	etherARP     = 0x0806
	etherIPv6    = 0x86dd
	protoICMP    = 1
	protoTCP     = 6
	protoUDP     = 17
	protoICMPv6  = 58
	arpRequest   = 1
	arpReply     = 2
	echoRequest4 = 8
	echoRequest6 = 128
	solicit      = 135
	advert       = 136
	ndHopLimit   = 255

	// maxMTU is what a TAP takes: 65535 bytes less the Ethernet header.
	maxMTU   = 65521
	maxFrame = maxMTU + etherSize
)

// verdict is what becomes of a frame.
type verdict int

const (
	drop    verdict = iota
	deliver         // to the stack
	answer          // an ARP or neighbour solicitation for the gateway
)

// admit judges a frame that the guest sent. It is a pure function of the
// frame and the network's addresses.
//
// Dropped are: frames for another station; sources that are not the guest's
// own address; fragments; IPv4 options and IPv6 extension headers; every
// protocol but TCP and UDP, echo requests to the gateway excepted; multicast
// and broadcast.
func admit(frame []byte, n *machine.Network) verdict {
	if len(frame) < etherSize {
		return drop
	}
	body := frame[etherSize:]
	group := frame[0]&1 != 0
	if !group && string(frame[:macSize]) != string(n.GatewayMAC) {
		return drop
	}
	switch binary.BigEndian.Uint16(frame[12:]) {
	case etherARP:
		return admitARP(body, n)
	case etherIPv4:
		if !group {
			return admitIPv4(body, n)
		}
	case etherIPv6:
		return admitIPv6(body, group, n)
	}
	return drop
}

func admitARP(p []byte, n *machine.Network) verdict {
	const head = "\x00\x01\x08\x00\x06\x04" // Ethernet, IPv4 and their address sizes
	if len(p) < arpSize || string(p[:6]) != head || binary.BigEndian.Uint16(p[6:]) != arpRequest {
		return drop
	}
	if netip.AddrFrom4([4]byte(p[24:28])) != n.Gateway4 {
		return drop
	}
	return answer
}

func admitIPv4(p []byte, n *machine.Network) verdict {
	if len(p) < ipv4Size || p[0] != 4<<4|ipv4Size/4 {
		return drop
	}
	if binary.BigEndian.Uint16(p[6:])&^0x4000 != 0 { // anything but "don't fragment"
		return drop
	}
	if netip.AddrFrom4([4]byte(p[12:16])) != n.Guest4.Addr() {
		return drop
	}
	dest := netip.AddrFrom4([4]byte(p[16:20]))
	switch p[9] {
	case protoTCP, protoUDP:
		if dest.IsMulticast() {
			return drop
		}
		return deliver
	case protoICMP:
		if dest == n.Gateway4 && len(p) > ipv4Size && p[ipv4Size] == echoRequest4 {
			return deliver
		}
	}
	return drop
}

func admitIPv6(p []byte, group bool, n *machine.Network) verdict {
	if len(p) < ipv6Size || p[0]>>4 != 6 || !n.Guest6.IsValid() {
		return drop
	}
	src := netip.AddrFrom16([16]byte(p[8:24]))
	dest := netip.AddrFrom16([16]byte(p[24:40]))
	if p[6] == protoICMPv6 && len(p) >= ipv6Size+solicitSize && p[ipv6Size] == solicit {
		return admitSolicit(p, src, n)
	}
	if group || src != n.Guest6.Addr() {
		return drop
	}
	switch p[6] {
	case protoTCP, protoUDP:
		if dest.IsMulticast() {
			return drop
		}
		return deliver
	case protoICMPv6:
		if dest == n.Gateway6 && len(p) > ipv6Size && p[ipv6Size] == echoRequest6 {
			return deliver
		}
	}
	return drop
}

// admitSolicit takes neighbour solicitations for the gateway's address. The
// guest may ask from its address or from a link-local one; a solicitation
// from no address at all is duplicate address detection and needs no answer,
// because the guest never takes the gateway's address rightfully.
func admitSolicit(p []byte, src netip.Addr, n *machine.Network) verdict {
	if p[7] != ndHopLimit || src != n.Guest6.Addr() && !src.IsLinkLocalUnicast() {
		return drop
	}
	if netip.AddrFrom16([16]byte(p[ipv6Size+8:ipv6Size+24])) != n.Gateway6 {
		return drop
	}
	return answer
}

// reply makes the answer to a frame that admit wants answered.
func reply(frame []byte, n *machine.Network) []byte {
	body := frame[etherSize:]
	if binary.BigEndian.Uint16(frame[12:]) == etherARP {
		return arpAnswer(body, n)
	}
	return neighbourAnswer(netip.AddrFrom16([16]byte(body[8:24])), n)
}

func arpAnswer(request []byte, n *machine.Network) []byte {
	out := appendEther(make([]byte, 0, etherSize+arpSize), n, etherARP)
	out = append(out, request[:6]...)
	out = binary.BigEndian.AppendUint16(out, arpReply)
	out = append(out, n.GatewayMAC...)
	out = append(out, request[24:28]...) // our address: the one asked for
	return append(out, request[8:18]...) // the asker's MAC and address
}

func neighbourAnswer(asker netip.Addr, n *machine.Network) []byte {
	const solicitedOverride = 0x60
	out := appendEther(make([]byte, 0, etherSize+ipv6Size+advertSize), n, etherIPv6)
	out = append(out, 6<<4, 0, 0, 0, 0, advertSize, protoICMPv6, ndHopLimit)
	out = append(out, n.Gateway6.AsSlice()...)
	out = append(out, asker.AsSlice()...)
	out = append(out, advert, 0, 0, 0, solicitedOverride, 0, 0, 0)
	out = append(out, n.Gateway6.AsSlice()...)
	out = append(out, 2, 1) // target link-layer address, one unit of 8 bytes
	out = append(out, n.GatewayMAC...)
	icmp := out[etherSize+ipv6Size:]
	binary.BigEndian.PutUint16(icmp[2:], checksum6(n.Gateway6, asker, protoICMPv6, icmp))
	return out
}

// appendEther appends the header of a frame from the gateway to the guest.
func appendEther(b []byte, n *machine.Network, kind uint16) []byte {
	b = append(b, n.GuestMAC...)
	b = append(b, n.GatewayMAC...)
	return binary.BigEndian.AppendUint16(b, kind)
}

// checksum6 is the Internet checksum over body and the IPv6 pseudo header
// (RFC 8200, section 8.1).
func checksum6(src, dest netip.Addr, proto byte, body []byte) uint16 {
	pseudo := append(src.AsSlice(), dest.AsSlice()...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(body)))
	pseudo = append(pseudo, 0, 0, 0, proto)
	sum := ones(pseudo) + ones(body)
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// ones sums an even number of bytes as 16-bit words.
func ones(b []byte) (sum uint32) {
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	return sum
}
