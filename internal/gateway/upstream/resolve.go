package upstream

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	attemptTimeout = 3 * time.Second
	rounds         = 2    // over the list of name servers
	udpAnswer      = 1232 // bytes, asked for by EDNS: never fragmented (DNS flag day 2020)
	maxMismatches  = 16   // datagrams that aren't the answer, per attempt
)

// errMismatch is for an answer to another question, or from a server that
// doesn't keep the question's letters.
var errMismatch = errors.New("answer doesn't match the question")

// Resolve implements Upstream. It asks the name servers in order, over UDP and
// where the answer doesn't fit over TCP. Against forged answers stand a random
// port, a random id and random upper and lower case in the name.
func (h *Host) Resolve(ctx context.Context, q dnsmessage.Question) (dnsmessage.Message, error) {
	servers, err := h.nameservers()
	if err != nil {
		return dnsmessage.Message{}, err
	}
	var last *dnsmessage.Message
	for i := range rounds * len(servers) {
		m, aerr := ask(ctx, servers[i%len(servers)], q)
		switch {
		case aerr != nil:
			err = aerr
		case m.RCode == dnsmessage.RCodeSuccess || m.RCode == dnsmessage.RCodeNameError:
			return m, nil
		default:
			last = &m
		}
		if ctx.Err() != nil || last != nil && i+1 >= len(servers) {
			break
		}
	}
	if last != nil {
		return *last, nil
	}
	return dnsmessage.Message{}, fmt.Errorf("resolve: %w", err)
}

func (h *Host) nameservers() ([]netip.AddrPort, error) {
	if len(h.Nameservers) > 0 {
		return h.Nameservers, nil
	}
	file := h.ResolvConf
	if file == "" {
		file = defaultResolvConf
	}
	return h.conf.nameservers(file)
}

// ask makes one attempt at one server.
func ask(ctx context.Context, server netip.AddrPort, q dnsmessage.Question) (dnsmessage.Message, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	m, err := exchange(ctx, "udp", server, q)
	if errors.Is(err, errMismatch) || err == nil && m.Truncated {
		return exchange(ctx, "tcp", server, q)
	}
	return m, err
}

func exchange(ctx context.Context, network string, server netip.AddrPort, q dnsmessage.Question) (dnsmessage.Message, error) {
	asked := q
	asked.Name = mixCase(q.Name)
	id := randomID()
	msg, err := pack(id, asked)
	if err != nil {
		return dnsmessage.Message{}, err
	}
	d := net.Dialer{ControlContext: only(server)}
	conn, err := d.DialContext(ctx, network, server.String())
	if err != nil {
		return dnsmessage.Message{}, fmt.Errorf("reach name server: %w", err)
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	var m dnsmessage.Message
	if network == "tcp" {
		m, err = overTCP(conn, msg, id, asked)
	} else {
		m, err = overUDP(conn, msg, id, asked)
	}
	restoreCase(&m, q.Name)
	return m, err
}

// overUDP skips datagrams that aren't the answer: forgers send them, too.
func overUDP(conn net.Conn, msg []byte, id uint16, asked dnsmessage.Question) (m dnsmessage.Message, err error) {
	if _, err := conn.Write(msg); err != nil {
		return m, fmt.Errorf("ask name server: %w", err)
	}
	buf := make([]byte, 4096)
	for range maxMismatches {
		n, err := conn.Read(buf)
		if err != nil {
			return m, fmt.Errorf("ask name server: %w", err)
		}
		m, err := match(buf[:n], id, asked, true)
		if err == nil || errors.Is(err, errMismatch) {
			return m, err
		}
	}
	return m, errMismatch
}

func overTCP(conn net.Conn, msg []byte, id uint16, asked dnsmessage.Question) (m dnsmessage.Message, err error) {
	out := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(msg)), uint16(len(msg)))
	if _, err := conn.Write(append(out, msg...)); err != nil {
		return m, fmt.Errorf("ask name server: %w", err)
	}
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return m, fmt.Errorf("ask name server: %w", err)
	}
	buf := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(conn, buf); err != nil {
		return m, fmt.Errorf("ask name server: %w", err)
	}
	return match(buf, id, asked, false)
}

var errNotAnswer = errors.New("not an answer to this question")

// match parses a message and accepts it if it answers the question. A right
// id with the wrong letters is errMismatch if the letters' case must be kept.
func match(msg []byte, id uint16, asked dnsmessage.Question, keepCase bool) (m dnsmessage.Message, err error) {
	if err := m.Unpack(msg); err != nil {
		return m, fmt.Errorf("parse answer: %w", err)
	}
	if m.ID != id || !m.Response || len(m.Questions) != 1 {
		return m, errNotAnswer
	}
	got := m.Questions[0]
	if got.Type != asked.Type || got.Class != asked.Class || !sameName(got.Name, asked.Name) {
		return m, errNotAnswer
	}
	if keepCase && got.Name != asked.Name {
		return m, errMismatch
	}
	return m, nil
}

func pack(id uint16, q dnsmessage.Question) ([]byte, error) {
	var h dnsmessage.ResourceHeader
	if err := h.SetEDNS0(udpAnswer, dnsmessage.RCodeSuccess, false); err != nil {
		return nil, fmt.Errorf("encode question: %w", err)
	}
	m := dnsmessage.Message{
		Header:      dnsmessage.Header{ID: id, RecursionDesired: true},
		Questions:   []dnsmessage.Question{q},
		Additionals: []dnsmessage.Resource{{Header: h, Body: &dnsmessage.OPTResource{}}},
	}
	b, err := m.Pack()
	if err != nil {
		return nil, fmt.Errorf("encode question: %w", err)
	}
	return b, nil
}

func randomID() uint16 {
	var b [2]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.BigEndian.Uint16(b[:])
}

// mixCase gives each letter of a name a random case, which servers repeat in
// their answers (draft-vixie-dnsext-dns0x20).
func mixCase(n dnsmessage.Name) dnsmessage.Name {
	var bits [len(n.Data)]byte
	_, _ = rand.Read(bits[:]) // never fails
	for i, c := range n.Data[:n.Length] {
		if lower := c | 0x20; lower >= 'a' && lower <= 'z' {
			n.Data[i] = lower &^ (bits[i] & 0x20)
		}
	}
	return n
}

// restoreCase undoes mixCase where the question's name owns a record.
func restoreCase(m *dnsmessage.Message, name dnsmessage.Name) {
	for i := range m.Answers {
		if sameName(m.Answers[i].Header.Name, name) {
			m.Answers[i].Header.Name = name
		}
	}
}

func sameName(a, b dnsmessage.Name) bool { return strings.EqualFold(a.String(), b.String()) }
