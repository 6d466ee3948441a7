//go:build e2e

package harness

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// EvilZone is a zone in which every name exists: whoever runs it reads what
// is asked.
const EvilZone = "evil.test"

// resolver is the one that the gateway asks. It knows the names of the fake
// internet and notes every question.
type resolver struct {
	log  *journal
	zone map[string][]netip.Addr
	udp  net.PacketConn
	tcp  net.Listener
}

func (n *Internet) listenDNS() (err error) {
	r := &resolver{log: &n.log, zone: zone()}
	s := &sink{}
	if err := s.listen(); err != nil {
		return err
	}
	r.udp, r.tcp = s.udp, s.tcp
	n.dns = addrOf(r.tcp.Addr())
	n.closers = append(n.closers, r.udp, r.tcp)
	n.accept(r.tcp, r.serve)
	n.done.Go(r.receive)
	return nil
}

// Resolver is the address of the gateway's resolver.
func (n *Internet) Resolver() netip.AddrPort { return n.dns }

func (r *resolver) receive() {
	buf := make([]byte, 4<<10)
	for {
		n, from, err := r.udp.ReadFrom(buf)
		if err != nil {
			return
		}
		if out := r.answer(buf[:n]); out != nil {
			_, _ = r.udp.WriteTo(out, from)
		}
	}
}

func (r *resolver) serve(c net.Conn) {
	_ = c.SetDeadline(time.Now().Add(sinkIdle))
	var size [2]byte
	for {
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return
		}
		msg := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(c, msg); err != nil {
			return
		}
		out := r.answer(msg)
		_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...))
	}
}

// answer notes all that a message carries.
func (r *resolver) answer(raw []byte) []byte {
	var m dnsmessage.Message
	if err := m.Unpack(raw); err != nil || len(m.Questions) == 0 {
		r.log.note(AtDNS, "malformed %q", raw)
		return nil
	}
	for _, q := range m.Questions {
		r.log.note(AtDNS, "%s %s", name(q), strings.TrimPrefix(q.Type.String(), "Type"))
	}
	for _, extra := range m.Additionals {
		if opt, ok := extra.Body.(*dnsmessage.OPTResource); ok {
			for _, o := range opt.Options {
				r.log.note(AtDNS, "option %d %q", o.Code, o.Data)
			}
		}
	}
	q := m.Questions[0]
	m = dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true, RecursionDesired: m.RecursionDesired, RecursionAvailable: true},
		Questions: []dnsmessage.Question{q}}
	m.Answers, m.RCode = r.records(q)
	out, err := m.Pack()
	if err != nil {
		return nil
	}
	return out
}

func name(q dnsmessage.Question) string {
	return strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))
}

func (r *resolver) records(q dnsmessage.Question) ([]dnsmessage.Resource, dnsmessage.RCode) {
	addrs, ok := r.addrs(name(q))
	if !ok {
		return nil, dnsmessage.RCodeNameError
	}
	var out []dnsmessage.Resource
	head := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, Type: q.Type, TTL: 60}
	if name(q) == FlipHost {
		head.TTL = 0
	}
	add := func(b dnsmessage.ResourceBody) { out = append(out, dnsmessage.Resource{Header: head, Body: b}) }
	for _, a := range addrs {
		switch {
		case a.Is4() && q.Type == dnsmessage.TypeA:
			add(&dnsmessage.AResource{A: a.As4()})
		case a.Is6() && q.Type == dnsmessage.TypeAAAA:
			add(&dnsmessage.AAAAResource{AAAA: a.As16()})
		}
	}
	switch q.Type {
	case dnsmessage.TypeTXT:
		add(&dnsmessage.TXTResource{TXT: []string{"text of " + name(q)}})
	case dnsmessage.TypeMX:
		add(&dnsmessage.MXResource{Pref: 10, MX: q.Name})
	case typeHTTPS:
		add(&dnsmessage.UnknownResource{Type: typeHTTPS, Data: httpsRecord()})
	}
	return out, dnsmessage.RCodeSuccess
}

const typeHTTPS = dnsmessage.Type(65)

// httpsRecord promises QUIC, an address and an encrypted hello (RFC 9460).
func httpsRecord() []byte {
	out := []byte{0, 1, 0}                                 // priority, target "."
	out = append(out, 0, 1, 0, 3, 2, 'h', '3')             // alpn
	out = append(out, 0, 4, 0, 4)                          // ipv4hint
	out = append(out, evilAddr4.AsSlice()...)              //
	return append(out, 0, 5, 0, 4, 0xfe, 0x0d, 0x00, 0x00) // ech
}

func (r *resolver) addrs(name string) ([]netip.Addr, bool) {
	if name == FlipHost {
		if r.log.asked(FlipHost) {
			return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, true
		}
		return []netip.Addr{apiAddr4}, true
	}
	if strings.HasSuffix(name, "."+EvilZone) {
		return []netip.Addr{evilAddr4}, true
	}
	addrs, ok := r.zone[name]
	if parent, under := strings.CutSuffix(name, WildZone); under && !ok {
		return []netip.Addr{rawAddr}, parent != ""
	}
	return addrs, ok
}
