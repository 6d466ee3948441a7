package launch

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/link"
	"github.com/atollhq/atoll/internal/sandbox"
	"github.com/atollhq/atoll/internal/shim/wire"
)

// Shim is one running shim.
type Shim struct {
	launcher *Launcher
	id       string
	socket   string
	pid      int
	exited   chan sandbox.ShimExit // one value from watch, then closed
	ended    chan struct{}         // closed by watch when it knows the exit
}

// PID is the shim's process.
func (s *Shim) PID() int { return s.pid }

// Exited delivers the machine's end once and is then closed.
func (s *Shim) Exited() <-chan sandbox.ShimExit { return s.exited }

// watch ends when the shim does: with a reason, or without one when it was
// killed.
func (s *Shim) watch(conn net.Conn, in *bufio.Reader) {
	defer func() { _ = conn.Close() }()
	exit := sandbox.ShimExit{Reason: api.StopCrashed, Detail: "its shim ended without a word"}
	var reply wire.Reply
	if err := wire.Read(in, &reply); err == nil && reply.Exit != nil {
		exit = sandbox.ShimExit{Reason: reply.Exit.Reason, Detail: reply.Exit.Detail}
	}
	s.exited <- exit
	close(s.exited)
	close(s.ended)
}

// Stop ends the sandbox for one of package api's stop reasons and returns
// when everything is freed. It also works on a shim that has died.
func (s *Shim) Stop(ctx context.Context, reason string) error {
	conn, _, _, err := s.request(ctx, wire.Request{Op: wire.OpStop, Reason: reason})
	if err == nil {
		_ = conn.Close()
		select { // the clean-up kills a shim that has not yet told its watcher
		case <-s.ended:
		case <-ctx.Done():
		}
	}
	return s.launcher.Cleanup(ctx, s.id)
}

// OpenRPC opens a stream of the link for one client's JSON-RPC messages.
func (s *Shim) OpenRPC(ctx context.Context, h link.RPCHeader) (net.Conn, error) {
	return s.open(ctx, link.KindRPC, h)
}

// Configure makes a spare somebody's sandbox.
func (s *Shim) Configure(ctx context.Context, p sandbox.Personal) error {
	own := personal(p)
	conn, _, _, err := s.request(ctx, wire.Request{Op: wire.OpConfigure, Personal: &own})
	if err != nil {
		return fmt.Errorf("configure sandbox: %w", err)
	}
	return conn.Close()
}

// Policy returns what the sandbox may reach.
func (s *Shim) Policy(ctx context.Context) (api.NetworkPolicy, error) {
	return s.policy(ctx, nil)
}

// SetPolicy replaces the allow-list and returns the result.
func (s *Shim) SetPolicy(ctx context.Context, allow *[]string) (api.NetworkPolicy, error) {
	return s.policy(ctx, &wire.SetPolicy{AllowNet: allow})
}

func (s *Shim) policy(ctx context.Context, change *wire.SetPolicy) (api.NetworkPolicy, error) {
	conn, _, reply, err := s.request(ctx, wire.Request{Op: wire.OpPolicy, Policy: change})
	if err != nil {
		return api.NetworkPolicy{}, fmt.Errorf("ask for network policy: %w", err)
	}
	if err := conn.Close(); err != nil || reply.Policy == nil {
		return api.NetworkPolicy{}, errors.Join(errors.New("ask for network policy: the answer holds none"), err)
	}
	return *reply.Policy, nil
}

// DialPort opens a TCP connection to a port in the guest.
func (s *Shim) DialPort(ctx context.Context, port uint16) (net.Conn, error) {
	return s.open(ctx, link.KindDial, link.DialHeader{Port: port})
}

func (s *Shim) open(ctx context.Context, kind link.Kind, header any) (net.Conn, error) {
	raw, err := json.Marshal(header)
	if err != nil {
		return nil, fmt.Errorf("encode stream header: %w", err)
	}
	conn, in, _, err := s.request(ctx, wire.Request{Op: wire.OpOpen, Kind: kind, Header: raw})
	if err != nil {
		return nil, fmt.Errorf("open stream: %w", err)
	}
	if in.Buffered() == 0 {
		return conn, nil
	}
	return &buffered{Conn: conn, in: in}, nil
}

// buffered is a connection of which some bytes were read ahead.
type buffered struct {
	net.Conn
	in *bufio.Reader
}

func (b *buffered) Read(p []byte) (int, error) { return b.in.Read(p) }

// request sends one request and reads the reply. The connection is the
// caller's; the reader holds what came after the reply.
func (s *Shim) request(ctx context.Context, r wire.Request) (net.Conn, *bufio.Reader, wire.Reply, error) {
	var reply wire.Reply
	dialer := net.Dialer{Timeout: dialTimeout}
	conn, err := dialer.DialContext(ctx, "unix", s.socket)
	if err != nil {
		return nil, nil, reply, err
	}
	interrupt := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })
	in := bufio.NewReaderSize(conn, 4096)
	err = wire.Write(conn, r)
	if err == nil {
		err = wire.Read(in, &reply)
	}
	if !interrupt() {
		err = errors.Join(ctx.Err(), err)
	}
	if err == nil && reply.Error != "" {
		err = refusal(reply)
	}
	if err != nil {
		return nil, nil, reply, errors.Join(err, conn.Close())
	}
	return conn, in, reply, nil
}
