//go:build e2e

package proxy

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/atollhq/atoll/internal/gateway/upstream"
	"github.com/atollhq/atoll/test/e2e/harness"
)

// network is what a corporate network has at its edge: a proxy, and a
// resolver. It leads to the fake internet only.
type network struct {
	proxy    net.Listener
	resolver net.PacketConn
	socks    bool

	mu        sync.Mutex // guards the following
	world     upstream.Overrides
	asked     []string // of the proxy: "host:port"
	questions []string // to the resolver
}

func newNetwork(t *testing.T, socks bool) *network {
	t.Helper()
	n := &network{socks: socks}
	var err error
	if n.proxy, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	if n.resolver, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	work.Go(n.answer)
	work.Go(func() {
		for {
			c, err := n.proxy.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				defer c.Close()
				n.serve(c)
			})
		}
	})
	t.Cleanup(func() {
		_ = n.proxy.Close()
		_ = n.resolver.Close()
		work.Wait()
	})
	return n
}

// leadTo connects it to what the overrides of a fake internet say.
func (n *network) leadTo(t *testing.T, overrides []byte) {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := json.Unmarshal(overrides, &n.world); err != nil {
		t.Fatal(err)
	}
	n.world.Names = map[string][]netip.Addr{harness.WebHost: {netip.MustParseAddr("93.184.215.14")}}
}

func (n *network) known() (asked, questions []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.asked), slices.Clone(n.questions)
}

func (n *network) serve(c net.Conn) {
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	in := bufio.NewReader(c)
	refusal, success := "HTTP/1.1 502 Bad Gateway\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"
	read := readHTTP
	if n.socks {
		refusal, success = "\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00", "\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"
		read = readSOCKS
	}
	host, port, err := read(in, c)
	if err != nil {
		return
	}
	up, err := n.dial(host, port)
	if err != nil {
		_, _ = io.WriteString(c, refusal)
		return
	}
	defer up.Close()
	_, _ = io.WriteString(c, success)
	go func() {
		_, _ = io.Copy(up, in)
		_ = up.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(c, up)
}

func (n *network) dial(host string, port uint16) (net.Conn, error) {
	n.mu.Lock()
	n.asked = append(n.asked, net.JoinHostPort(host, strconv.Itoa(int(port))))
	addr, err := netip.ParseAddr(host)
	if addrs := n.world.Names[host]; len(addrs) > 0 {
		addr, err = addrs[0], nil
	}
	to, ok := n.world.Dial[netip.AddrPortFrom(addr, port).String()]
	n.mu.Unlock()
	if err != nil || !ok {
		return nil, fmt.Errorf("nothing at %s", host)
	}
	return net.Dial("tcp", to.String())
}

func readHTTP(in *bufio.Reader, _ io.Writer) (string, uint16, error) {
	r, err := http.ReadRequest(in)
	if err != nil {
		return "", 0, err
	}
	r.Header.Set("Authorization", r.Header.Get("Proxy-Authorization"))
	if user, secret, ok := r.BasicAuth(); r.Method != http.MethodConnect || !ok || user != "me" || secret != password {
		return "", 0, fmt.Errorf("a request without credentials: %s %s", r.Method, r.RequestURI)
	}
	return splitHost(r.RequestURI)
}

func splitHost(s string) (string, uint16, error) {
	host, digits, err := net.SplitHostPort(s)
	port, perr := strconv.ParseUint(digits, 10, 16)
	if err == nil {
		err = perr
	}
	return host, uint16(port), err
}

func readSOCKS(in *bufio.Reader, out io.Writer) (host string, port uint16, err error) {
	read := func(n int) []byte {
		b := make([]byte, n)
		if _, rerr := io.ReadFull(in, b); rerr != nil {
			err = rerr
		}
		return b
	}
	text := func() string { return string(read(int(read(1)[0]))) }
	read(int(read(2)[1]))
	_, _ = out.Write([]byte{5, 2})
	read(1)
	if user, secret := text(), text(); user != "me" || secret != password {
		return "", 0, fmt.Errorf("wrong credentials")
	}
	_, _ = out.Write([]byte{1, 0})
	switch read(4)[3] {
	case 1:
		host = netip.AddrFrom4([4]byte(read(4))).String()
	case 3:
		host = text()
	case 4:
		host = netip.AddrFrom16([16]byte(read(16))).String()
	}
	port = binary.BigEndian.Uint16(read(2))
	return host, port, err
}

// answer is the resolver.
func (n *network) answer() {
	buf := make([]byte, 2048)
	for {
		size, from, err := n.resolver.ReadFrom(buf)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(buf[:size]) != nil || len(m.Questions) != 1 {
			continue
		}
		q := m.Questions[0]
		name := strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))
		n.mu.Lock()
		n.questions = append(n.questions, name)
		addrs, ok := n.world.Names[name]
		n.mu.Unlock()
		m.Response, m.Additionals, m.Answers = true, nil, upstream.AddressAnswer(q, addrs).Answers
		if !ok {
			m.RCode = dnsmessage.RCodeNameError
		}
		if b, err := m.Pack(); err == nil {
			_, _ = n.resolver.WriteTo(b, from)
		}
	}
}
