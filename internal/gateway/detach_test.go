package gateway

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/atollhq/atoll/internal/gateway/gatewaytest"
	"github.com/atollhq/atoll/internal/gateway/policy"
	"github.com/atollhq/atoll/internal/machine"
)

// replug gives the gateway the card of another guest.
func replug(t *testing.T, s *setup, kind machine.NICKind) {
	t.Helper()
	guest, nic, err := gatewaytest.NewGuest(gatewaytest.Network(1500), kind)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(guest.Close)
	if err := s.gw.Attach(nic); err != nil {
		t.Fatal(err)
	}
	s.guest = guest
}

// TestDetachCutsAndAnotherCardFollows: a machine that continues where another
// stood has none of its connections, also not one that it can still name.
func TestDetachCutsAndAnotherCardFollows(t *testing.T) {
	for _, kind := range kinds {
		t.Run(string(kind), func(t *testing.T) {
			var notes recorder
			s := start(t, kind, 1500, func(c *Config) { c.Audit = &notes })
			s.world.ServeTCP(public4+":7", gatewaytest.Echo)
			s.world.ServeUDP(public4+":7", gatewaytest.Echo)
			open := dial(t, s, public4+":7")
			answers(t, open)
			flow, err := s.guest.DialUDP(public4 + ":7")
			if err != nil {
				t.Fatal(err)
			}
			_ = flow.SetDeadline(time.Now().Add(time.Minute))
			answers(t, flow)
			asking := dial(t, s, "10.11.12.1:53") // a DNS connection that says nothing yet
			s.gw.Detach()
			s.gw.Detach()
			if _, err := s.gw.DialGuest(timeout(t), 80); !errors.Is(err, ErrDetached) {
				t.Errorf("dial without a card: %v", err)
			}
			awaitClosed(t, s.world)
			replug(t, &s, kind)
			again := dial(t, s, public4+":7")
			answers(t, again)
			echo(t, again, 1<<20)
			if !notes.noted("cut: the sandbox was suspended") {
				t.Errorf("the audit has %q", notes.sorted())
			}
			_, _, _ = open.Close(), flow.Close(), asking.Close()
		})
	}
}

func (r *recorder) noted(note string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Contains(r.notes, note)
}

func answers(t *testing.T, c net.Conn) {
	t.Helper()
	_, _ = c.Write([]byte("x"))
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
}

// awaitClosed waits until nothing is open towards the world.
func awaitClosed(t *testing.T, world *gatewaytest.Internet) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); world.Open() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d connections are open", world.Open())
		}
	}
}

// TestSegmentsOfAnEarlierConnectionAreReset: what the restored guest takes for
// open shows itself as closed as soon as it is used.
func TestSegmentsOfAnEarlierConnectionAreReset(t *testing.T) {
	s := start(t, machine.NICTap, 1500, nil)
	s.gw.Detach()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	inside := os.NewFile(uintptr(fds[0]), "guest")
	defer func() { _ = inside.Close() }()
	if err := s.gw.Attach(machine.NIC{Kind: machine.NICTap, File: os.NewFile(uintptr(fds[1]), "card"), MTU: 1500}); err != nil {
		t.Fatal(err)
	}
	if _, err := inside.Write(segment("10.11.12.2", public4, 2000, header.TCPFlagAck|header.TCPFlagPsh)); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 1500)
	n, err := inside.Read(answer)
	if err != nil || n < header.EthernetMinimumSize+header.IPv4MinimumSize+header.TCPMinimumSize {
		t.Fatalf("%d bytes, %v", n, err)
	}
	tcp := header.TCP(header.IPv4(answer[header.EthernetMinimumSize:n]).Payload())
	if tcp.DestinationPort() != 2000 || !tcp.Flags().Contains(header.TCPFlagRst) {
		t.Errorf("got %v to port %d", tcp.Flags(), tcp.DestinationPort())
	}
}

// TestNamesStayKnown: a guest may hold the address of a name for as long as
// it likes.
func TestNamesStayKnown(t *testing.T) {
	list, err := policy.ParseList([]string{"example.com"})
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, machine.NICTap, 1500, nil)
	s.gw.SetPolicy(list, nil)
	s.world.Name("example.com", public4)
	s.world.ServeTCP(public4+":80", gatewaytest.Echo)
	resolver, err := s.guest.DialUDP("10.11.12.1:53")
	if err != nil {
		t.Fatal(err)
	}
	msg := lookup(t, resolver, "example.com.")
	addr := msg.Answers[0].Body.(*dnsmessage.AResource).A
	s.gw.Detach()
	replug(t, &s, machine.NICTap)
	answers(t, dial(t, s, net.JoinHostPort(net.IP(addr[:]).String(), "80")))
}

// TestNamesContinue: in a copy of the machine, an address leads where it led,
// whatever other names are asked for.
func TestNamesContinue(t *testing.T) {
	list := func(c *Config) { c.Policy.Allow = parse(t, "a.test", "b.test") }
	parent, child := start(t, machine.NICTap, 1500, list), start(t, machine.NICTap, 1500, list)
	known, _ := parent.gw.names.Assign("a.test")
	child.gw.Detach()
	if err := child.gw.ContinueNames(parent.gw.Names()); err != nil {
		t.Fatal(err)
	}
	replug(t, &child, machine.NICTap)
	child.world.Name("a.test", public4)
	child.world.Name("b.test", "93.184.216.35")
	child.world.ServeTCP(public4+":80", gatewaytest.Echo)
	resolver, err := child.guest.DialUDP("10.11.12.1:53")
	if err != nil {
		t.Fatal(err)
	}
	msg := lookup(t, resolver, "b.test.")
	if other := netip.AddrFrom4(msg.Answers[0].Body.(*dnsmessage.AResource).A); other == known {
		t.Errorf("%s stands for another name", known)
	}
	answers(t, dial(t, child, netip.AddrPortFrom(known, 80).String()))
}

func TestClosedGatewayTakesNoCard(t *testing.T) {
	s := start(t, machine.NICTap, 1500, nil)
	s.gw.Detach()
	_ = s.gw.Close()
	guest, nic, err := gatewaytest.NewGuest(gatewaytest.Network(1500), machine.NICTap)
	if err != nil {
		t.Fatal(err)
	}
	defer guest.Close()
	if err := s.gw.Attach(nic); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
}
