package netstack

import (
	"fmt"
	"net/netip"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// flowQueue bounds the bytes of datagrams that wait to be read from a flow.
// It holds a few of the largest.
const flowQueue = 256 << 10

// Datagram is a UDP datagram that belongs to no flow yet. It is valid until
// HandleUDP returns.
type Datagram struct {
	stack *stack.Stack
	id    stack.TransportEndpointID
	pkt   *stack.PacketBuffer
}

// Guest is the sender.
func (d *Datagram) Guest() netip.AddrPort {
	return netip.AddrPortFrom(addrOf(d.id.RemoteAddress), d.id.RemotePort)
}

// Dest is whom it was sent to.
func (d *Datagram) Dest() netip.AddrPort {
	return netip.AddrPortFrom(addrOf(d.id.LocalAddress), d.id.LocalPort)
}

// Payload returns a copy of what is behind the UDP header, up to the length
// that the header claims, or false when that is malformed.
func (d *Datagram) Payload() ([]byte, bool) {
	head := header.UDP(d.pkt.TransportHeader().Slice())
	if len(head) < header.UDPMinimumSize {
		return nil, false
	}
	size := int(head.Length()) - header.UDPMinimumSize
	body := d.pkt.Data().AsRange().ToSlice()
	if size < 0 || size > len(body) {
		return nil, false
	}
	return body[:size], true
}

// Flow makes a connection of the datagram's two ends, from which it and all
// later ones are read.
func (d *Datagram) Flow() (*Flow, error) {
	var wq waiter.Queue
	ep, err := udp.NewForwarderRequest(d.stack, d.id, d.pkt.Clone()).CreateEndpoint(&wq)
	if err != nil {
		return nil, fmt.Errorf("open UDP flow: %s", err)
	}
	ep.SocketOptions().SetReceiveBufferSize(flowQueue, true)
	return &Flow{UDPConn: gonet.NewUDPConn(&wq, ep), ready: newReadiness(ep, &wq)}, nil
}

// Reply returns a function that sends one datagram back to the guest, from
// the address that it had written to. The function may be used after
// HandleUDP has returned.
func (d *Datagram) Reply() func(payload []byte) error {
	ip, id, proto := d.stack, d.id, d.pkt.NetworkProtocolNumber
	return func(payload []byte) error { return sendUDP(ip, id, proto, payload) }
}

// sendUDP sends one datagram without an endpoint: an answered query is not
// worth one.
func sendUDP(ip *stack.Stack, id stack.TransportEndpointID, proto tcpip.NetworkProtocolNumber, payload []byte) error {
	route, err := ip.FindRoute(nicID, id.LocalAddress, id.RemoteAddress, proto, false)
	if err != nil {
		return fmt.Errorf("find route to guest: %s", err)
	}
	defer route.Release()
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
		ReserveHeaderBytes: header.UDPMinimumSize + int(route.MaxHeaderLength()),
		Payload:            buffer.MakeWithData(payload),
	})
	defer pkt.DecRef()
	pkt.TransportProtocolNumber = udp.ProtocolNumber
	size := uint16(header.UDPMinimumSize + len(payload))
	head := header.UDP(pkt.TransportHeader().Push(header.UDPMinimumSize))
	head.Encode(&header.UDPFields{SrcPort: id.LocalPort, DstPort: id.RemotePort, Length: size})
	sum := route.PseudoHeaderChecksum(udp.ProtocolNumber, size)
	sum = ^head.CalculateChecksum(checksum.Combine(sum, checksum.Checksum(payload, 0)))
	if sum == 0 { // which would mean "no checksum" (RFC 768)
		sum = 0xffff
	}
	head.SetChecksum(sum)
	params := stack.NetworkHeaderParams{Protocol: udp.ProtocolNumber, TTL: route.DefaultTTL()}
	if err := route.WritePacket(params, pkt); err != nil {
		return fmt.Errorf("send datagram: %s", err)
	}
	return nil
}

// Flow is a UDP conversation: a net.Conn on which each Read and Write is one
// datagram.
type Flow struct {
	*gonet.UDPConn
	ready readiness
}

// Close ends the flow; later datagrams surface as a new one.
func (f *Flow) Close() error {
	f.ready.stop()
	return f.UDPConn.Close()
}

// AwaitRead waits until Read would not block, without holding a buffer for
// the time. Close ends it.
func (f *Flow) AwaitRead() { f.ready.await() }
