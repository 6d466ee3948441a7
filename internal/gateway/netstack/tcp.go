package netstack

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Syn is a connection that the guest asks for. While nothing is answered, the
// guest sees a connection that is still being set up.
type Syn struct {
	stack *Stack
	req   *tcp.ForwarderRequest
}

// Guest is the asking end.
func (s *Syn) Guest() netip.AddrPort {
	id := s.req.ID()
	return netip.AddrPortFrom(addrOf(id.RemoteAddress), id.RemotePort)
}

// Dest is the end that is asked for.
func (s *Syn) Dest() netip.AddrPort {
	id := s.req.ID()
	return netip.AddrPortFrom(addrOf(id.LocalAddress), id.LocalPort)
}

// Refuse answers with a reset: the guest sees "connection refused" at once.
func (s *Syn) Refuse() { s.req.Complete(true) }

// Drop answers nothing.
func (s *Syn) Drop() { s.req.Complete(false) }

// Accept completes the handshake; it waits for the guest's part of it, some
// seconds at most, or until the stack closes. Buffer bounds the bytes that
// the connection holds in each direction; 0 lets the stack choose and adapt.
func (s *Syn) Accept(buffer int) (*Conn, error) {
	if !s.stack.beginAccept() {
		s.req.Complete(false)
		return nil, errClosed
	}
	defer s.stack.endAccept()
	var wq waiter.Queue
	ep, err := s.req.CreateEndpoint(&wq)
	if err != nil {
		s.req.Complete(false)
		return nil, fmt.Errorf("complete handshake: %s", err)
	}
	s.req.Complete(false)
	opts := ep.SocketOptions()
	opts.SetDelayOption(false)
	if buffer > 0 {
		opts.SetSendBufferSize(int64(buffer), true)
		opts.SetReceiveBufferSize(int64(buffer), true)
	}
	return &Conn{TCPConn: gonet.NewTCPConn(&wq, ep), ready: newReadiness(ep, &wq), ep: ep}, nil
}

var errClosed = errors.New("complete handshake: the stack is closed")

var longAgo = time.Unix(1, 0)

// Conn is an accepted connection. It is a net.Conn with CloseRead and
// CloseWrite.
type Conn struct {
	*gonet.TCPConn
	ready readiness
	ep    tcpip.Endpoint
}

// Close closes both directions in order: what was written is still delivered.
func (c *Conn) Close() error {
	c.ready.stop()
	return c.TCPConn.Close()
}

// Abort ends the connection with a reset instead of an orderly close.
func (c *Conn) Abort() {
	c.ready.stop()
	c.ep.Abort()
	_ = c.SetDeadline(longAgo) // ends a Write that waits for the guest
}

// AwaitRead waits until Read would not block, without holding a buffer for
// the time. It has no deadline of its own: Abort and Close end it.
func (c *Conn) AwaitRead() { c.ready.await() }
