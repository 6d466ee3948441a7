package netstack

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"

	"github.com/atollhq/atoll/internal/machine"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// wire moves whole Ethernet frames.
type wire interface {
	// ReadFrame reads one frame into head and then into body, which together
	// hold maxFrame bytes. Only the card's reading goroutine calls it.
	ReadFrame(head, body []byte) (int, error)
	// WriteFrame sends one frame, given in pieces that it doesn't keep. It
	// waits for the guest a moment at most: what doesn't fit is lost. It may
	// be called concurrently.
	WriteFrame(pieces [][]byte) error
	// Close ends a blocked ReadFrame and waits for the wire's goroutines.
	Close() error
}

// card is the stack's network interface. It does the Ethernet layer itself,
// with two fixed addresses, so that the stack above sees IP packets only.
type card struct {
	net  machine.Network
	caps stack.LinkEndpointCapabilities
	log  *slog.Logger
	wire wire
	done sync.WaitGroup // the reading goroutine

	// mu guards dispatcher, which the reading goroutine gets at its start.
	mu         sync.Mutex
	dispatcher stack.NetworkDispatcher

	closeOnce sync.Once
}

var _ stack.LinkEndpoint = (*card)(nil)

func newCard(nic machine.NIC, n machine.Network, log *slog.Logger) (*card, error) {
	if nic.MTU != 0 && nic.MTU != n.MTU {
		_ = nic.File.Close()
		return nil, fmt.Errorf("attach NIC: its MTU is %d, the network's %d", nic.MTU, n.MTU)
	}
	file, err := pollable(nic.File)
	if err != nil {
		return nil, fmt.Errorf("attach NIC: %w", err)
	}
	c := &card{net: n, log: log, caps: stack.CapabilityRXChecksumOffload}
	if nic.NoChecksums {
		c.caps |= stack.CapabilityTXChecksumOffload
	}
	switch nic.Kind {
	case machine.NICTap:
		c.wire, err = newTap(file)
	case machine.NICStream:
		c.wire, err = newStream(file)
	default:
		err = fmt.Errorf("attach NIC: unknown kind %q", nic.Kind)
	}
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return c, nil
}

// pollable gives the file's descriptor to the runtime's poller, whatever mode
// it came in, so that Close ends a blocked Read and no thread waits in it.
func pollable(f *os.File) (*os.File, error) {
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate descriptor: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("set non-blocking: %w", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// run reads frames until the wire closes.
func (c *card) run(d stack.NetworkDispatcher) {
	defer c.done.Done()
	var in inbox
	for {
		n, err := in.read(c.wire)
		if err != nil {
			if !errors.Is(err, os.ErrClosed) && !errors.Is(err, io.EOF) {
				c.log.Warn("network card failed", "error", err)
			}
			return
		}
		head := in.head.AsSlice()[:min(n, headSize)]
		switch admit(head, &c.net) {
		case deliver:
			in.deliver(d, n)
		case answer:
			_ = c.wire.WriteFrame([][]byte{reply(head, &c.net)})
		}
	}
}

// inbox holds the buffers for the next frame: one that all headers fit into,
// and one for the rest. The stack wants to write to the headers, and where
// others hold the buffer that they are in, it copies the whole of it; so no
// payload may share it.
//
// A large body is handed to the stack in that very buffer; a smaller one is
// copied, so that a queue of small packets doesn't hold a large buffer each.
type inbox struct {
	head, body *buffer.View
}

const (
	headSize  = 128 // the largest headers have 114: Ethernet, IPv6, and TCP with all options
	largeBody = 32 << 10
)

func (in *inbox) read(w wire) (int, error) {
	if in.head == nil {
		in.head = buffer.NewViewSize(headSize)
	}
	if in.body == nil {
		in.body = buffer.NewViewSize(maxFrame - headSize)
	}
	return w.ReadFrame(in.head.AsSlice(), in.body.AsSlice())
}

func (in *inbox) deliver(d stack.NetworkDispatcher, n int) {
	head := in.takeHead(min(n, headSize))
	data := buffer.MakeWithView(head)
	if n > headSize {
		_ = data.Append(in.takeBody(n - headSize)) // fails for shared buffers only
	}
	proto := ipv4.ProtocolNumber
	if head.AsSlice()[0]>>4 == 6 {
		proto = ipv6.ProtocolNumber
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: data})
	d.DeliverNetworkPacket(proto, pkt)
	pkt.DecRef()
}

func (in *inbox) takeHead(n int) *buffer.View {
	v := in.head
	in.head = nil
	v.CapLength(n)
	v.TrimFront(etherSize)
	return v
}

func (in *inbox) takeBody(n int) *buffer.View {
	v := in.body
	if n < largeBody {
		return buffer.NewViewWithData(v.AsSlice()[:n])
	}
	in.body = nil
	v.CapLength(n)
	return v
}

// WritePackets sends what the stack has for the guest.
func (c *card) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	var pieces [8][]byte
	for i, pkt := range pkts.AsSlice() {
		kind := uint16(etherIPv4)
		if pkt.NetworkProtocolNumber == ipv6.ProtocolNumber {
			kind = etherIPv6
		}
		var head [etherSize]byte
		frame := append(pieces[:0], appendEther(head[:0], &c.net, kind))
		if err := c.wire.WriteFrame(append(frame, pkt.AsSlices()...)); err != nil {
			return i, &tcpip.ErrClosedForSend{}
		}
	}
	return pkts.Len(), nil
}

// Attach starts reading; with nil, the stack is being destroyed.
func (c *card) Attach(d stack.NetworkDispatcher) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d != nil && c.dispatcher == nil {
		c.done.Add(1)
		go c.run(d)
	}
	c.dispatcher = d
}

// IsAttached reports whether the card delivers packets.
func (c *card) IsAttached() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dispatcher != nil
}

// Close stops the card and waits for its goroutines. It is idempotent.
func (c *card) Close() {
	c.closeOnce.Do(func() { _ = c.wire.Close() })
	c.done.Wait()
}

// Wait waits for the reading goroutine.
func (c *card) Wait() { c.done.Wait() }

// MTU is the largest IP packet in bytes.
func (c *card) MTU() uint32 { return uint32(c.net.MTU) }

// SetMTU is not needed: both ends know the MTU beforehand.
func (c *card) SetMTU(uint32) {}

// MaxHeaderLength is zero because the card adds its header when it writes.
func (c *card) MaxHeaderLength() uint16 { return 0 }

// LinkAddress is empty: the stack has no business with MAC addresses.
func (c *card) LinkAddress() tcpip.LinkAddress { return "" }

// SetLinkAddress does nothing.
func (c *card) SetLinkAddress(tcpip.LinkAddress) {}

// Capabilities spares the verification of checksums: the packets never leave
// this machine's memory, and a guest that lies about them hurts only itself.
func (c *card) Capabilities() stack.LinkEndpointCapabilities { return c.caps }

// ARPHardwareType tells the stack that there is no Ethernet to resolve.
func (c *card) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareNone }

// AddHeader does nothing; see WritePackets.
func (c *card) AddHeader(*stack.PacketBuffer) {}

// ParseHeader does nothing: packets arrive without a link header.
func (c *card) ParseHeader(*stack.PacketBuffer) bool { return true }

// SetOnCloseAction is for packet sockets, which this stack has none of.
func (c *card) SetOnCloseAction(func()) {}
