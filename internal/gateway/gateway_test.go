package gateway

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/atollhq/atoll/internal/gateway/gatewaytest"
	"github.com/atollhq/atoll/internal/machine"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/net/dns/dnsmessage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	public4 = "93.184.216.34"
	public6 = "2606:2800:21f:cb07::1"
)

type setup struct {
	guest *gatewaytest.Guest
	world *gatewaytest.Internet
	gw    *Gateway
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func noHost() ([]netip.Addr, error) { return nil, nil }

func start(t testing.TB, kind machine.NICKind, mtu int, change func(*Config)) setup {
	t.Helper()
	world := gatewaytest.NewInternet()
	cfg := Config{
		Network:   gatewaytest.Network(mtu),
		HostAddrs: noHost,
		Upstream:  world,
		Log:       quiet(),
	}
	if change != nil {
		change(&cfg)
	}
	gw, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	guest, nic, err := gatewaytest.NewGuest(cfg.Network, kind)
	if err != nil {
		t.Fatal(err)
	}
	if err := gw.Attach(nic); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		guest.Close()
		_ = gw.Close()
		world.Close()
	})
	return setup{guest, world, gw}
}

func timeout(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func dial(t testing.TB, s setup, addr string) net.Conn {
	t.Helper()
	c, err := s.guest.DialTCP(timeout(t), addr)
	if err != nil {
		t.Fatalf("dial %s: %v", addr, err)
	}
	_ = c.SetDeadline(time.Now().Add(2 * time.Minute)) // with -race, on a busy machine
	return c
}

var kinds = []machine.NICKind{machine.NICTap, machine.NICStream}

func TestTCPBothDirections(t *testing.T) {
	for _, kind := range kinds {
		for _, mtu := range []int{1500, 65520} {
			for _, addr := range []string{public4 + ":7", "[" + public6 + "]:7"} {
				t.Run(fmt.Sprint(kind, mtu, addr), func(t *testing.T) {
					s := start(t, kind, mtu, nil)
					s.world.ServeTCP(addr, gatewaytest.Echo)
					echo(t, dial(t, s, addr), 3<<20)
				})
			}
		}
	}
}

// echo sends random bytes, half-closes, and wants them back.
func echo(t testing.TB, c net.Conn, size int) {
	t.Helper()
	sent := make([]byte, size)
	_, _ = rand.Read(sent)
	go func() {
		_, _ = c.Write(sent)
		_ = c.(interface{ CloseWrite() error }).CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("got %d of %d bytes, equal %v: %v", len(got), len(sent), bytes.Equal(got, sent), err)
	}
	_ = c.Close()
}

func TestHalfCloseFromTheWorld(t *testing.T) {
	s := start(t, machine.NICStream, 1500, nil)
	got := make(chan string, 1)
	s.world.ServeTCP(public4+":80", func(c net.Conn) {
		_, _ = c.Write([]byte("bye"))
		_ = c.(interface{ CloseWrite() error }).CloseWrite()
		b, _ := io.ReadAll(c)
		got <- string(b)
	})
	c := dial(t, s, public4+":80").(interface {
		net.Conn
		CloseWrite() error
	})
	if b, err := io.ReadAll(c); string(b) != "bye" || err != nil {
		t.Fatalf("got %q, %v", b, err)
	}
	if _, err := c.Write([]byte("still here")); err != nil {
		t.Fatal(err)
	}
	_ = c.CloseWrite()
	if g := <-got; g != "still here" {
		t.Errorf("the world got %q", g)
	}
	_ = c.Close()
}

func TestDestinationThatRefusesIsReset(t *testing.T) {
	s := start(t, machine.NICTap, 1500, nil)
	_, err := s.guest.DialTCP(timeout(t), public4+":81")
	if err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("got %v", err)
	}
}

func TestAbortReachesTheOtherSide(t *testing.T) {
	s := start(t, machine.NICTap, 1500, nil)
	ended := make(chan struct{})
	s.world.ServeTCP(public4+":80", func(c net.Conn) {
		_, _ = c.Read(make([]byte, 1)) // leaves a byte unread, so that closing resets
		close(ended)
	})
	c := dial(t, s, public4+":80")
	if _, err := c.Write([]byte("two")); err != nil {
		t.Fatal(err)
	}
	<-ended
	if _, err := io.ReadAll(c); err == nil {
		t.Error("the guest saw an orderly end")
	}
	_ = c.Close()
}

// refusedTargets are addresses that nothing may ever reach.
var refusedTargets = []string{
	"127.0.0.1", "10.0.0.1", "192.168.1.1", "172.16.0.1", "169.254.169.254", "100.100.100.200",
	"0.0.0.1", "192.0.2.2", "198.18.0.1", "255.255.255.255", "240.0.0.1", "168.63.129.16",
	"10.11.12.1", "10.11.12.77", "8.8.4.4",
	"fd00:ec2::254", "fe80::1", "64:ff9b::7f00:1", "2002:7f00:1::1", "fd11:12::1", "2001:db8::1", "4000::1",
}

func hostAt(a string) func(*Config) {
	return func(c *Config) {
		c.HostAddrs = func() ([]netip.Addr, error) { return []netip.Addr{netip.MustParseAddr(a)}, nil }
	}
}

func TestRefusedNeverReachesUpstream(t *testing.T) {
	s := start(t, machine.NICTap, 1500, hostAt("8.8.4.4"))
	for _, a := range refusedTargets {
		addr := netip.AddrPortFrom(netip.MustParseAddr(a), 80).String()
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		if c, err := s.guest.DialTCP(ctx, addr); err == nil {
			t.Errorf("tcp %s: connected", addr)
			_ = c.Close()
		}
		cancel()
		if c, err := s.guest.DialUDP(addr); err == nil {
			_, _ = c.Write([]byte("x"))
			_ = c.Close()
		}
	}
	flush(t, s)
	if got := s.world.Attempts(); len(got) != 1 {
		t.Errorf("reached upstream: %v", got)
	}
}

// flush waits until the gateway has dealt with every frame sent before, by
// sending one that is answered.
func flush(t *testing.T, s setup) {
	t.Helper()
	s.world.ServeTCP(public4+":9999", func(net.Conn) {})
	_ = dial(t, s, public4+":9999").Close()
}

func TestRefusedIsReset(t *testing.T) {
	s := start(t, machine.NICTap, 1500, nil)
	_, err := s.guest.DialTCP(timeout(t), "192.168.0.1:443")
	if err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("got %v", err)
	}
}

func TestRefusedUDPIsUnreachable(t *testing.T) {
	wantUnreachable(t, start(t, machine.NICTap, 1500, nil), "192.168.0.1:443")
}

// wantUnreachable checks that the guest is told of a refused datagram.
func wantUnreachable(t *testing.T, s setup, dest string) {
	t.Helper()
	c, err := s.guest.DialUDP(dest)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = c.Write([]byte("x"))
	// A read that already waits doesn't notice the ICMP error, a new one does.
	for ctx := timeout(t); ctx.Err() == nil; {
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		if _, err := c.Read(make([]byte, 10)); err != nil && strings.Contains(err.Error(), "refused") {
			return
		}
	}
	t.Error("the guest was not told")
}

func TestExceptionOpens(t *testing.T) {
	s := start(t, machine.NICTap, 1500, func(c *Config) { c.Exceptions = []netip.Prefix{netip.MustParsePrefix("192.168.7.0/24")} })
	s.world.ServeTCP("192.168.7.9:80", gatewaytest.Echo)
	echo(t, dial(t, s, "192.168.7.9:80"), 10)
}

func TestUnknownHostAddressesCloseTheNetwork(t *testing.T) {
	s := start(t, machine.NICTap, 1500, func(c *Config) {
		c.HostAddrs = func() ([]netip.Addr, error) { return nil, errors.New("netlink is gone") }
	})
	s.world.ServeTCP(public4+":80", gatewaytest.Echo)
	if _, err := s.guest.DialTCP(timeout(t), public4+":80"); err == nil {
		t.Error("connected")
	}
	if got := s.world.Attempts(); len(got) != 0 {
		t.Errorf("reached upstream: %v", got)
	}
}

func TestUDP(t *testing.T) {
	for _, addr := range []string{public4 + ":123", "[" + public6 + "]:123"} {
		s := start(t, machine.NICTap, 1500, nil)
		s.world.ServeUDP(addr, gatewaytest.Echo)
		c, err := s.guest.DialUDP(addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		for _, size := range []int{1, 100, 1400} {
			sent := bytes.Repeat([]byte{'u'}, size)
			got := make([]byte, 2000)
			_, _ = c.Write(sent)
			n, err := c.Read(got)
			if err != nil || !bytes.Equal(got[:n], sent) {
				t.Errorf("%d bytes: got %d, %v", size, n, err)
			}
		}
		_ = c.Close()
		if got := s.world.Attempts(); len(got) != 1 {
			t.Errorf("one flow made %v", got)
		}
	}
}

func TestUDPTableMakesRoom(t *testing.T) {
	s := start(t, machine.NICTap, 1500, func(c *Config) { c.Limits.UDP = 4 })
	s.world.ServeUDP(public4+":123", gatewaytest.Echo)
	for range 20 {
		c, err := s.guest.DialUDP(public4 + ":123")
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		_, _ = c.Write([]byte("x"))
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
	}
	for ctx := timeout(t); s.world.Open() > 4; { // the evicted ones are being closed
		select {
		case <-ctx.Done():
			t.Fatalf("%d flows open", s.world.Open())
		case <-time.After(time.Millisecond):
		}
	}
}

func lookup(t *testing.T, c net.Conn, name string) dnsmessage.Message {
	t.Helper()
	q := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 99, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	b, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	buf := make([]byte, 2048)
	if _, tcp := c.(interface{ CloseWrite() error }); tcp {
		_, _ = c.Write(append([]byte{0, byte(len(b))}, b...))
		if _, err := io.ReadFull(c, buf[:2]); err != nil {
			t.Fatal(err)
		}
		buf = buf[:buf[1]]
		_, err = io.ReadFull(c, buf)
	} else {
		_, _ = c.Write(b)
		var n int
		n, err = c.Read(buf)
		buf = buf[:n]
	}
	if err != nil {
		t.Fatal(err)
	}
	var m dnsmessage.Message
	if err := m.Unpack(buf); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestDNS(t *testing.T) {
	s := start(t, machine.NICTap, 1500, nil)
	s.world.Name("example.com", public4)
	s.world.Name("rebind.example", "127.0.0.1")
	for _, server := range []string{"10.11.12.1:53", "[fd11:12::1]:53", "8.8.8.8:53", "192.168.1.1:53"} {
		u, err := s.guest.DialUDP(server)
		if err != nil {
			t.Fatal(err)
		}
		c := dial(t, s, server)
		for _, conn := range []net.Conn{u, c} {
			if m := lookup(t, conn, "example.com."); len(m.Answers) != 1 || m.ID != 99 {
				t.Errorf("%s: got %+v", server, m)
			}
			if m := lookup(t, conn, "rebind.example."); m.RCode != dnsmessage.RCodeRefused {
				t.Errorf("%s: got %+v", server, m)
			}
			_ = conn.Close()
		}
	}
	for _, a := range s.world.Attempts() {
		if a.Network != "dns" {
			t.Errorf("reached upstream: %v", a)
		}
	}
}

func TestDialGuest(t *testing.T) {
	s := start(t, machine.NICTap, 1500, nil)
	l, err := s.guest.ListenTCP(8000)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err == nil {
			gatewaytest.Echo(c)
			_ = c.Close()
		}
	}()
	c, err := s.gw.DialGuest(timeout(t), 8000)
	if err != nil {
		t.Fatal(err)
	}
	echo(t, c, 100_000)
	if _, err := s.gw.DialGuest(timeout(t), 8001); err == nil {
		t.Error("connected to a closed port")
	}
}

func TestThousandConnections(t *testing.T) {
	s := start(t, machine.NICStream, 1500, nil)
	s.world.ServeTCP(public4+":80", gatewaytest.Echo)
	const n = 1000
	var all, open sync.WaitGroup
	open.Add(n)
	for i := range n {
		all.Go(func() {
			c, err := s.guest.DialTCP(timeout(t), public4+":80")
			open.Done()
			if err != nil {
				t.Errorf("connection %d: %v", i, err)
				return
			}
			open.Wait()                                        // all at once
			_ = c.SetDeadline(time.Now().Add(2 * time.Minute)) // with -race, on a busy machine
			echo(t, c, 4_000)
		})
	}
	all.Wait()
}

func TestTooManyConnectionsAreReset(t *testing.T) {
	s := start(t, machine.NICTap, 1500, func(c *Config) { c.Limits.TCP = 2 })
	s.world.ServeTCP(public4+":80", gatewaytest.Echo)
	a, b := dial(t, s, public4+":80"), dial(t, s, public4+":80")
	if _, err := s.guest.DialTCP(timeout(t), public4+":80"); err == nil {
		t.Error("a third connection")
	}
	_, _ = a.Close(), b.Close()
}

func TestCloseCutsAndFrees(t *testing.T) {
	s := start(t, machine.NICTap, 1500, nil)
	s.world.ServeTCP(public4+":80", gatewaytest.Echo)
	s.world.ServeUDP(public4+":123", gatewaytest.Echo)
	var conns []net.Conn
	for range 10 {
		c := dial(t, s, public4+":80")
		_, _ = c.Write([]byte("x"))
		_, _ = c.Read(make([]byte, 1))
		u, err := s.guest.DialUDP(public4 + ":123")
		if err != nil {
			t.Fatal(err)
		}
		_ = u.SetDeadline(time.Now().Add(time.Minute))
		_, _ = u.Write([]byte("x"))
		_, _ = u.Read(make([]byte, 1))
		conns = append(conns, c, u)
	}
	if err := s.gw.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.gw.Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range conns {
		_ = c.Close()
	}
	s.guest.Close()
	s.world.Close()
	if n := s.world.Open(); n != 0 {
		t.Errorf("%d upstream connections are open", n)
	}
	goleak.VerifyNone(t)
}

func TestCloseDuringHandshakes(t *testing.T) {
	s := start(t, machine.NICTap, 1500, nil)
	s.world.ServeTCP(public4+":80", gatewaytest.Echo)
	// A bare SYN, whose SYN-ACK the guest's stack answers with a reset only
	// after the gateway has begun to wait.
	for port := range 50 {
		if err := s.guest.WriteFrame(syn("10.11.12.2", public4, uint16(2000+port))); err != nil {
			t.Fatal(err)
		}
	}
	_ = s.gw.Close()
}

func TestAttachTwice(t *testing.T) {
	s := start(t, machine.NICTap, 1500, nil)
	guest, nic, err := gatewaytest.NewGuest(gatewaytest.Network(1500), machine.NICTap)
	if err != nil {
		t.Fatal(err)
	}
	defer guest.Close()
	if err := s.gw.Attach(nic); !errors.Is(err, ErrAttached) {
		t.Errorf("got %v", err)
	}
}

func TestSpoofedSourceIsDropped(t *testing.T) {
	s := start(t, machine.NICTap, 1500, nil)
	s.world.ServeTCP(public4+":80", gatewaytest.Echo)
	for _, src := range []string{"10.11.12.3", "10.11.12.1", "8.8.8.8", "127.0.0.1", "0.0.0.0"} {
		if err := s.guest.WriteFrame(syn(src, public4, 2000)); err != nil {
			t.Fatal(err)
		}
	}
	flush(t, s)
	want := []gatewaytest.Attempt{{Network: "tcp", Target: public4 + ":9999"}}
	if diff := cmp.Diff(want, s.world.Attempts()); diff != "" {
		t.Errorf("reached upstream (-want +got):\n%s", diff)
	}
}

func TestRawSynReachesUpstream(t *testing.T) { // so that the test above means something
	s := start(t, machine.NICTap, 1500, nil)
	reached := make(chan struct{})
	s.world.ServeTCP(public4+":80", func(net.Conn) { close(reached) })
	if err := s.guest.WriteFrame(syn("10.11.12.2", public4, 2000)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-reached:
	case <-timeout(t).Done():
		t.Error("not reached")
	}
}
