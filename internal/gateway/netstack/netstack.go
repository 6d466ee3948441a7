// Package netstack is the user-space TCP/IP stack that a sandbox's network
// card ends in.
//
// The card (a TAP or a framed stream) stands in front. It answers ARP and
// neighbour discovery for the gateway's own addresses by itself and admits
// nothing else to the stack than unfragmented TCP, UDP and echo requests that
// come from the guest's addresses; see admit. The stack then takes every
// address for its own, so that each TCP connection and each UDP flow surfaces
// as a call of the Handler, whatever its destination. Nothing is ever routed.
//
// Terms: a syn is a connection that the guest asks for and that is not yet
// answered; a datagram is the first packet of a UDP flow; guest and dest are
// the two ends as the guest sees them.
//
// Concurrency: HandleTCP is called in a goroutine of its own per syn.
// HandleUDP is called in the card's reading goroutine and must not block.
// Close stops the card, aborts all connections and waits for the stack's
// goroutines; the handler's own goroutines belong to the handler's owner.
package netstack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/atollhq/atoll/internal/machine"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

const (
	nicID = 1

	// maxSyns bounds connections that are asked for and not yet answered.
	maxSyns = 2048

	// startBuffer is what a connection's buffers begin with; they grow as the
	// reader keeps up. It holds several of the largest segments, because a
	// sender that may have only one in flight waits for its acknowledgement
	// each time. What we send at most is less, because what the guest doesn't
	// take stays here.
	startBuffer = 512 << 10
	maxReceive  = 4 << 20
	maxSend     = 1 << 20

	// After both ends have closed, the guest is on the same machine: nothing
	// of the connection can still be under way for long.
	timeWait = 2 * time.Second
	linger   = 30 * time.Second

	synRetries = 4 // unanswered SYN-ACKs, about half a minute
)

// Handler takes what the guest starts.
type Handler interface {
	// HandleTCP must call exactly one of the syn's Refuse, Drop or Accept.
	HandleTCP(*Syn)
	// HandleUDP reports whether it takes the datagram; if not, the guest gets
	// a port unreachable message.
	HandleUDP(*Datagram) bool
}

// Config describes a stack.
type Config struct {
	Network machine.Network
	Handler Handler
	Log     *slog.Logger
}

// Stack is one sandbox's network.
type Stack struct {
	net  machine.Network
	log  *slog.Logger
	ip   *stack.Stack
	card *card // nil before Attach

	mu        sync.Mutex // guards the following
	closing   bool
	accepting int // handshakes under way
}

// New makes a stack without a card.
func New(cfg Config) (*Stack, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Stack{net: cfg.Network, log: cfg.Log, ip: newIP()}
	if err := tune(s.ip); err != nil {
		s.ip.Destroy()
		return nil, err
	}
	fwd := tcp.NewForwarder(s.ip, startBuffer, maxSyns, func(r *tcp.ForwarderRequest) {
		cfg.Handler.HandleTCP(&Syn{stack: s, req: r})
	})
	s.ip.SetTransportProtocolHandler(tcp.ProtocolNumber, fwd.HandlePacket)
	s.ip.SetTransportProtocolHandler(udp.ProtocolNumber, func(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
		return cfg.Handler.HandleUDP(&Datagram{stack: s.ip, id: id, pkt: pkt})
	})
	return s, nil
}

// Validate says what a stack can't be made of.
func (c Config) Validate() error {
	n := c.Network
	switch {
	case n.MTU < 1280 || n.MTU > maxMTU:
		return fmt.Errorf("network: MTU %d is not between 1280 and %d", n.MTU, maxMTU)
	case len(n.GuestMAC) != macSize || len(n.GatewayMAC) != macSize:
		return errors.New("network: the guest's and the gateway's MAC must have 6 bytes")
	case !n.Guest4.IsValid() || !n.Guest4.Addr().Is4() || !n.Gateway4.Is4():
		return errors.New("network: the guest and the gateway need an IPv4 address")
	case n.Guest6.IsValid() && (!n.Guest6.Addr().Is6() || !n.Gateway6.Is6()):
		return errors.New("network: the IPv6 addresses must be IPv6 addresses")
	}
	return nil
}

func newIP() *stack.Stack {
	v6 := ipv6.NewProtocolWithOptions(ipv6.Options{
		DADConfigs: stack.DADConfigurations{DupAddrDetectTransmits: 0},
	})
	return stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, v6},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol},
	})
}

// tune sets what differs from the defaults. The path between guest and
// gateway never loses or reorders packets except where a queue overflows, so
// the simplest congestion control serves best; loss detection by time (RACK)
// only adds timers to it.
func tune(ip *stack.Stack) error {
	var (
		sack     = tcpip.TCPSACKEnabled(true)
		moderate = tcpip.TCPModerateReceiveBufferOption(true)
		control  = tcpip.CongestionControlOption("reno")
		recovery = tcpip.TCPRecovery(0)
		wait     = tcpip.TCPTimeWaitTimeoutOption(timeWait)
		fin      = tcpip.TCPLingerTimeoutOption(linger)
		retries  = tcpip.TCPSynRetriesOption(synRetries)
		receive  = tcpip.TCPReceiveBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: startBuffer, Max: maxReceive}
		send     = tcpip.TCPSendBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: startBuffer, Max: maxSend}
	)
	for _, o := range []tcpip.SettableTransportProtocolOption{&sack, &moderate, &control, &recovery, &wait, &fin, &retries, &receive, &send} {
		if err := ip.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return fmt.Errorf("set %T: %s", o, err)
		}
	}
	return nil
}

// Attach plugs the card in. It owns the NIC's file from then on, also when it
// fails. It may be called once.
func (s *Stack) Attach(nic machine.NIC) error {
	c, err := newCard(nic, s.net, s.log)
	if err != nil {
		return err
	}
	if err := s.plug(c); err != nil {
		c.Close()
		return err
	}
	s.card = c
	return nil
}

func (s *Stack) plug(c *card) error {
	if err := s.ip.CreateNIC(nicID, c); err != nil {
		return fmt.Errorf("create NIC: %s", err)
	}
	for _, a := range []netip.Addr{s.net.Gateway4, s.net.Gateway6} {
		if !a.IsValid() {
			continue
		}
		err := s.ip.AddProtocolAddress(nicID, tcpip.ProtocolAddress{
			Protocol:          protocolOf(a),
			AddressWithPrefix: tcpip.AddrFromSlice(a.AsSlice()).WithPrefix(),
		}, stack.AddressProperties{})
		if err != nil {
			return fmt.Errorf("add address %s: %s", a, err)
		}
	}
	// Every destination is ours (promiscuous), and we answer as it (spoofing).
	if err := s.ip.SetPromiscuousMode(nicID, true); err != nil {
		return fmt.Errorf("set promiscuous mode: %s", err)
	}
	if err := s.ip.SetSpoofing(nicID, true); err != nil {
		return fmt.Errorf("set spoofing: %s", err)
	}
	s.ip.SetRouteTable(s.routes())
	return nil
}

// routes leads to the guest's addresses and nowhere else.
func (s *Stack) routes() []tcpip.Route {
	var out []tcpip.Route
	for _, p := range []netip.Prefix{s.net.Guest4, s.net.Guest6} {
		if p.IsValid() {
			out = append(out, tcpip.Route{Destination: tcpip.AddrFromSlice(p.Addr().AsSlice()).WithPrefix().Subnet(), NIC: nicID})
		}
	}
	return out
}

// DialGuest connects to a TCP port of the guest, from the gateway's address.
func (s *Stack) DialGuest(ctx context.Context, port uint16) (net.Conn, error) {
	conn, err := gonet.DialContextTCP(ctx, s.ip, tcpip.FullAddress{
		NIC:  nicID,
		Addr: tcpip.AddrFromSlice(s.net.Guest4.Addr().AsSlice()),
		Port: port,
	}, ipv4.ProtocolNumber)
	if err != nil {
		return nil, fmt.Errorf("dial guest port %d: %w", port, err)
	}
	return conn, nil
}

// Close unplugs the card, aborts every connection and waits until the stack
// has stopped.
func (s *Stack) Close() {
	if s.card != nil {
		s.card.Close()
	}
	// A handshake that begins while the stack closes is not seen by it and
	// would wait for a guest that can't answer any more.
	for left := s.refuse(); left > 0; left = s.refuse() {
		s.ip.Close()
		time.Sleep(time.Millisecond)
	}
	s.ip.Destroy()
}

// refuse lets no further handshake begin and returns how many are under way.
func (s *Stack) refuse() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing = true
	return s.accepting
}

// beginAccept counts a handshake in, unless the stack closes.
func (s *Stack) beginAccept() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.accepting++
	return true
}

func (s *Stack) endAccept() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.accepting--
}

func protocolOf(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return ipv4.ProtocolNumber
	}
	return ipv6.ProtocolNumber
}

func addrOf(a tcpip.Address) netip.Addr {
	addr, _ := netip.AddrFromSlice(a.AsSlice())
	return addr
}
