package gatewaytest

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"

	"github.com/atollhq/atoll/internal/machine"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

const (
	guestNIC   = 1
	guestQueue = 65536
	maxFrame   = 65535
)

// Network is a network as drivers make it.
func Network(mtu int) machine.Network {
	return machine.Network{
		MTU:         mtu,
		GuestMAC:    net.HardwareAddr{2, 0, 0, 0, 0, 2},
		GatewayMAC:  net.HardwareAddr{2, 0, 0, 0, 0, 1},
		Guest4:      netip.MustParsePrefix("10.11.12.2/24"),
		Gateway4:    netip.MustParseAddr("10.11.12.1"),
		Guest6:      netip.MustParsePrefix("fd11:12::2/64"),
		Gateway6:    netip.MustParseAddr("fd11:12::1"),
		Nameservers: []netip.Addr{netip.MustParseAddr("10.11.12.1"), netip.MustParseAddr("fd11:12::1")},
	}
}

// Guest is the inside of a machine: a TCP/IP stack of its own behind a card.
type Guest struct {
	net  machine.Network
	ip   *stack.Stack
	link *channel.Endpoint
	file *os.File
	kind machine.NICKind
	stop context.CancelFunc
	work sync.WaitGroup

	writing sync.Mutex // one frame at a time
}

// NewGuest makes a guest and the card's host end, to be given to a gateway.
func NewGuest(n machine.Network, kind machine.NICKind) (*Guest, machine.NIC, error) {
	sort := unix.SOCK_SEQPACKET
	if kind == machine.NICStream {
		sort = unix.SOCK_STREAM
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, sort|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, machine.NIC{}, fmt.Errorf("make card: %w", err)
	}
	inside := os.NewFile(uintptr(fds[0]), "guest")
	outside := os.NewFile(uintptr(fds[1]), "card")
	g, err := newGuest(n, kind, inside)
	if err != nil {
		_ = inside.Close()
		_ = outside.Close()
		return nil, machine.NIC{}, err
	}
	return g, machine.NIC{Kind: kind, File: outside, MTU: n.MTU}, nil
}

func newGuest(n machine.Network, kind machine.NICKind, file *os.File) (*Guest, error) {
	g := &Guest{
		net: n, kind: kind, file: file,
		link: channel.New(guestQueue, uint32(n.MTU+header.EthernetMinimumSize), tcpip.LinkAddress(n.GuestMAC)),
		ip: stack.New(stack.Options{
			NetworkProtocols: []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol, ipv6.NewProtocolWithOptions(ipv6.Options{
				DADConfigs: stack.DADConfigurations{DupAddrDetectTransmits: 0},
			})},
			TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol},
		}),
	}
	if err := g.configure(); err != nil {
		g.ip.Destroy()
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	g.stop = stop
	g.work.Go(func() { g.send(ctx) })
	g.work.Go(g.receive)
	return g, nil
}

func (g *Guest) configure() error {
	sack := tcpip.TCPSACKEnabled(true)
	moderate := tcpip.TCPModerateReceiveBufferOption(true)
	for _, o := range []tcpip.SettableTransportProtocolOption{&sack, &moderate} {
		if err := g.ip.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return fmt.Errorf("set %T: %s", o, err)
		}
	}
	if err := g.ip.CreateNIC(guestNIC, ethernet.New(g.link)); err != nil {
		return fmt.Errorf("create guest card: %s", err)
	}
	var routes []tcpip.Route
	for _, a := range []struct {
		prefix  netip.Prefix
		gateway netip.Addr
		proto   tcpip.NetworkProtocolNumber
		all     tcpip.Subnet
	}{
		{g.net.Guest4, g.net.Gateway4, ipv4.ProtocolNumber, header.IPv4EmptySubnet},
		{g.net.Guest6, g.net.Gateway6, ipv6.ProtocolNumber, header.IPv6EmptySubnet},
	} {
		addr := tcpip.AddressWithPrefix{Address: tcpip.AddrFromSlice(a.prefix.Addr().AsSlice()), PrefixLen: a.prefix.Bits()}
		err := g.ip.AddProtocolAddress(guestNIC, tcpip.ProtocolAddress{Protocol: a.proto, AddressWithPrefix: addr}, stack.AddressProperties{})
		if err != nil {
			return fmt.Errorf("add guest address: %s", err)
		}
		routes = append(routes,
			tcpip.Route{Destination: addr.Subnet(), NIC: guestNIC},
			tcpip.Route{Destination: a.all, Gateway: tcpip.AddrFromSlice(a.gateway.AsSlice()), NIC: guestNIC})
	}
	g.ip.SetRouteTable(routes)
	return nil
}

// Close pulls the card and waits.
func (g *Guest) Close() {
	g.stop()
	_ = g.file.Close()
	g.work.Wait()
	g.ip.Destroy()
}

// send carries frames from the stack to the card.
func (g *Guest) send(ctx context.Context) {
	for {
		pkt := g.link.ReadContext(ctx)
		if pkt == nil {
			return
		}
		view := pkt.ToView()
		pkt.DecRef()
		err := g.WriteFrame(view.AsSlice())
		view.Release()
		if err != nil {
			return
		}
	}
}

// WriteFrame puts raw bytes on the card as one frame.
func (g *Guest) WriteFrame(frame []byte) error {
	g.writing.Lock()
	defer g.writing.Unlock()
	if g.kind == machine.NICStream {
		framed := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(frame)), uint32(len(frame)))
		frame = append(framed, frame...)
	}
	_, err := g.file.Write(frame)
	return err
}

// receive carries frames from the card to the stack.
func (g *Guest) receive() {
	in := bufio.NewReaderSize(g.file, 2*maxFrame)
	buf := make([]byte, maxFrame)
	for {
		n, err := g.readFrame(in, buf)
		if err != nil {
			return
		}
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(buf[:n])})
		g.link.InjectInbound(0, pkt)
		pkt.DecRef()
	}
}

func (g *Guest) readFrame(in *bufio.Reader, buf []byte) (int, error) {
	if g.kind == machine.NICTap {
		n, err := g.file.Read(buf)
		if n == 0 && err == nil {
			err = io.EOF
		}
		return n, err
	}
	var head [4]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return 0, err
	}
	n := int(binary.BigEndian.Uint32(head[:]))
	if n > len(buf) {
		return 0, errors.New("frame too large")
	}
	return io.ReadFull(in, buf[:n])
}

func full(a netip.AddrPort) (tcpip.FullAddress, tcpip.NetworkProtocolNumber) {
	proto := tcpip.NetworkProtocolNumber(ipv6.ProtocolNumber)
	if a.Addr().Is4() {
		proto = ipv4.ProtocolNumber
	}
	return tcpip.FullAddress{NIC: guestNIC, Addr: tcpip.AddrFromSlice(a.Addr().AsSlice()), Port: a.Port()}, proto
}

// DialTCP connects from inside the guest to "address:port".
func (g *Guest) DialTCP(ctx context.Context, addr string) (*gonet.TCPConn, error) {
	to, proto := full(netip.MustParseAddrPort(addr))
	return gonet.DialContextTCP(ctx, g.ip, to, proto)
}

// DialUDP opens a flow from inside the guest to "address:port".
func (g *Guest) DialUDP(addr string) (*gonet.UDPConn, error) {
	to, proto := full(netip.MustParseAddrPort(addr))
	return gonet.DialUDP(g.ip, nil, &to, proto)
}

// ListenTCP listens on a port of all of the guest's IPv4 addresses.
func (g *Guest) ListenTCP(port uint16) (net.Listener, error) {
	return gonet.ListenTCP(g.ip, tcpip.FullAddress{NIC: guestNIC, Port: port}, ipv4.ProtocolNumber)
}
