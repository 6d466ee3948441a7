package upstream

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/net/dns/dnsmessage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// nameServer answers on loopback over UDP and TCP.
type nameServer struct {
	addr netip.AddrPort
	udp  net.PacketConn
	tcp  net.Listener
}

// listenBoth finds a port that is free for both protocols.
func listenBoth(t *testing.T) (net.Listener, net.PacketConn) {
	t.Helper()
	for range 10 {
		tcp, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if udp, err := net.ListenPacket("udp", tcp.Addr().String()); err == nil {
			return tcp, udp
		}
		_ = tcp.Close()
	}
	t.Fatal("no port is free for both protocols")
	return nil, nil
}

// newNameServer makes a server whose answers edit may change; nil is silence.
func newNameServer(t *testing.T, edit func(m *dnsmessage.Message, network string) *dnsmessage.Message) *nameServer {
	t.Helper()
	tcp, udp := listenBoth(t)
	s := &nameServer{netip.MustParseAddrPort(tcp.Addr().String()), udp, tcp}
	done := make(chan struct{}, 2)
	go func() { s.serveUDP(edit); done <- struct{}{} }()
	go func() { s.serveTCP(edit); done <- struct{}{} }()
	t.Cleanup(func() {
		_ = udp.Close()
		_ = tcp.Close()
		<-done
		<-done
	})
	return s
}

func answer(msg []byte, network string, edit func(*dnsmessage.Message, string) *dnsmessage.Message) []byte {
	var m dnsmessage.Message
	if m.Unpack(msg) != nil {
		return nil
	}
	m.Response, m.Additionals = true, nil
	m.Answers = AddressAnswer(m.Questions[0], []netip.Addr{netip.MustParseAddr("8.8.8.8")}).Answers
	out := edit(&m, network)
	if out == nil {
		return nil
	}
	b, _ := out.Pack()
	return b
}

func (s *nameServer) serveUDP(edit func(*dnsmessage.Message, string) *dnsmessage.Message) {
	buf := make([]byte, 2048)
	for {
		n, from, err := s.udp.ReadFrom(buf)
		if err != nil {
			return
		}
		if b := answer(buf[:n], "udp", edit); b != nil {
			_, _ = s.udp.WriteTo(b, from)
		}
	}
}

func (s *nameServer) serveTCP(edit func(*dnsmessage.Message, string) *dnsmessage.Message) {
	for {
		c, err := s.tcp.Accept()
		if err != nil {
			return
		}
		var size [2]byte
		_, _ = io.ReadFull(c, size[:])
		msg := make([]byte, binary.BigEndian.Uint16(size[:]))
		_, _ = io.ReadFull(c, msg)
		b := answer(msg, "tcp", edit)
		_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
		_ = c.Close()
	}
}

func question(name string) dnsmessage.Question {
	return dnsmessage.Question{Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}
}

func resolve(t *testing.T, servers ...*nameServer) (dnsmessage.Message, error) {
	t.Helper()
	return resolveIn(t, time.Minute, servers...)
}

func resolveIn(t *testing.T, limit time.Duration, servers ...*nameServer) (dnsmessage.Message, error) {
	t.Helper()
	var h Host
	for _, s := range servers {
		h.Nameservers = append(h.Nameservers, s.addr)
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	return h.Resolve(ctx, question("A-name.With.Letters.example."))
}

func plain(m *dnsmessage.Message, _ string) *dnsmessage.Message { return m }

func TestResolve(t *testing.T) {
	lower := func(m *dnsmessage.Message, _ string) *dnsmessage.Message {
		m.Questions[0].Name = dnsmessage.MustNewName(strings.ToLower(m.Questions[0].Name.String()))
		return m
	}
	truncated := func(m *dnsmessage.Message, network string) *dnsmessage.Message {
		if network == "udp" {
			m.Truncated, m.Answers = true, nil
		}
		return m
	}
	for name, edit := range map[string]func(*dnsmessage.Message, string) *dnsmessage.Message{
		"plain": plain, "server that loses the case": lower, "truncated": truncated,
	} {
		m, err := resolve(t, newNameServer(t, edit))
		if err != nil || len(m.Answers) != 1 {
			t.Errorf("%s: %d answers, %v", name, len(m.Answers), err)
			continue
		}
		if got := m.Answers[0].Header.Name.String(); got != "A-name.With.Letters.example." {
			t.Errorf("%s: owner %q", name, got)
		}
	}
}

func TestResolveTriesTheNextServer(t *testing.T) {
	broken := newNameServer(t, func(m *dnsmessage.Message, _ string) *dnsmessage.Message {
		m.RCode, m.Answers = dnsmessage.RCodeServerFailure, nil
		return m
	})
	if m, err := resolve(t, broken, newNameServer(t, plain)); err != nil || len(m.Answers) != 1 {
		t.Errorf("%d answers, %v", len(m.Answers), err)
	}
	if m, err := resolve(t, broken); err != nil || m.RCode != dnsmessage.RCodeServerFailure {
		t.Errorf("got %v, %v", m.RCode, err)
	}
}

func TestForgedAnswersAreNotTaken(t *testing.T) {
	forge := func(m *dnsmessage.Message, _ string) *dnsmessage.Message {
		m.ID++
		return m
	}
	if m, err := resolveIn(t, time.Second, newNameServer(t, forge)); err == nil {
		t.Errorf("took %+v", m)
	}
}

func TestMatch(t *testing.T) {
	asked := question("ABc.example.")
	pack := func(q dnsmessage.Question, id uint16, response bool) []byte {
		m := dnsmessage.Message{Header: dnsmessage.Header{ID: id, Response: response}, Questions: []dnsmessage.Question{q}}
		b, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if _, err := match(pack(asked, 5, true), 5, asked, true); err != nil {
		t.Error(err)
	}
	if _, err := match(pack(question("abc.example."), 5, true), 5, asked, true); err != errMismatch {
		t.Errorf("other case: %v", err)
	}
	if _, err := match(pack(question("abc.example."), 5, true), 5, asked, false); err != nil {
		t.Errorf("other case over TCP: %v", err)
	}
	for _, b := range [][]byte{pack(asked, 6, true), pack(asked, 5, false), pack(question("x.example."), 5, true), {1}} {
		if _, err := match(b, 5, asked, true); err == nil || err == errMismatch {
			t.Errorf("took % x: %v", b, err)
		}
	}
}

func FuzzMatch(f *testing.F) {
	q := question("abc.example.")
	b, _ := pack(5, q)
	b[2] |= 0x80
	f.Add(b)
	f.Fuzz(func(t *testing.T, msg []byte) {
		m, err := match(msg, 5, q, true)
		if err == nil && (m.ID != 5 || m.Questions[0] != q) {
			t.Fatalf("took %+v", m)
		}
	})
}

func TestParseResolvConf(t *testing.T) {
	got := parseResolvConf("# comment\nsearch lan\nnameserver 9.9.9.9\nnameserver fe80::1%eth0\nnameserver nonsense\nnameserver\n nameserver 1.1.1.1 x\nnameserver 8.8.8.8\n")
	want := []netip.AddrPort{
		netip.MustParseAddrPort("9.9.9.9:53"), netip.MustParseAddrPort("[fe80::1%eth0]:53"), netip.MustParseAddrPort("1.1.1.1:53"),
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	if got := parseResolvConf(""); len(got) != 1 || !got[0].Addr().IsLoopback() {
		t.Errorf("empty file: %v", got)
	}
}

func TestDialOnlyTheAddress(t *testing.T) {
	check := only(netip.MustParseAddrPort("127.0.0.1:80"))
	for addr, ok := range map[string]bool{
		"127.0.0.1:80": true, "[::ffff:127.0.0.1]:80": true, "127.0.0.1:81": false, "127.0.0.2:80": false, "localhost:80": false,
	} {
		if err := check(t.Context(), "tcp", addr, nil); (err == nil) != ok {
			t.Errorf("%s: %v", addr, err)
		}
	}
}

func TestHostDial(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := new(Host).Dial(t.Context(), "tcp", netip.MustParseAddrPort(l.Addr().String()))
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := c.(interface{ CloseWrite() error }); !ok {
		t.Error("no CloseWrite")
	}
	_ = c.Close()
}

func TestRedirect(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	file := filepath.Join(t.TempDir(), "overrides.json")
	text := `{"names": {"site.example": ["93.184.216.34", "2606:2800::1"]},
		"dial": {"93.184.216.34:443": "` + l.Addr().String() + `", "[2606:2800::1]:443": "` + l.Addr().String() + `", "93.184.216.35": "` + l.Addr().String() + `"},
		"only": true}`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	o, err := ReadOverrides(file)
	if err != nil {
		t.Fatal(err)
	}
	r := &Redirect{Overrides: o} // without Next: "only" never uses it
	if m, err := r.Resolve(t.Context(), question("Site.example.")); err != nil || len(m.Answers) != 1 {
		t.Errorf("%d answers, %v", len(m.Answers), err)
	}
	if m, err := r.Resolve(t.Context(), question("other.example.")); err != nil || m.RCode != dnsmessage.RCodeNameError {
		t.Errorf("got %v, %v", m.RCode, err)
	}
	r.Overrides.Ask, r.Next = true, found{}
	if m, err := r.Resolve(t.Context(), question("other.example.")); err != nil || m.RCode != dnsmessage.RCodeSuccess {
		t.Errorf("asked: %v, %v", m.RCode, err)
	}
	for addr, ok := range map[string]bool{
		"93.184.216.34:443": true, "[2606:2800::1]:443": true, "93.184.216.35:9": true, "93.184.216.34:80": false, "8.8.8.8:443": false,
	} {
		c, err := r.Dial(t.Context(), "tcp", netip.MustParseAddrPort(addr))
		if (err == nil) != ok {
			t.Errorf("%s: %v", addr, err)
		}
		if err == nil {
			_ = c.Close()
		}
	}
}

// found is an Upstream where every name exists and nothing can be dialed.
type found struct{}

func (found) Resolve(context.Context, dnsmessage.Question) (dnsmessage.Message, error) {
	return dnsmessage.Message{}, nil
}

func (found) Dial(context.Context, string, netip.AddrPort) (net.Conn, error) {
	return nil, errors.New("only overridden addresses are dialed")
}

func TestBadOverrides(t *testing.T) {
	for name, text := range map[string]string{
		"not JSON":      `names`,
		"unknown field": `{"hosts": {}}`,
		"bad key":       `{"dial": {"example.com:80": "127.0.0.1:1"}}`,
		"bad target":    `{"dial": {"8.8.8.8:80": "localhost:1"}}`,
		"upper case":    `{"names": {"Site.example": []}}`,
		"bad address":   `{"names": {"site.example": ["x"]}}`,
	} {
		file := filepath.Join(t.TempDir(), "o.json")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadOverrides(file); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestHostAddrs(t *testing.T) {
	addrs, err := HostAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if a.IsLoopback() {
			return
		}
	}
	t.Errorf("no loopback address in %v", addrs)
}
