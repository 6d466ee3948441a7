package dns

import (
	"golang.org/x/net/dns/dnsmessage"
)

// query is what is kept of a guest's message.
type query struct {
	id       uint16
	question dnsmessage.Question
	asked    bool // question is set
	recurse  bool
	edns     bool
	size     int // bytes the guest can take over UDP
}

// parse reads a guest's message. It returns nil for what must not be answered
// (an answer, or no DNS at all), and otherwise the query with the response
// code that the message alone already earns.
func parse(msg []byte) (*query, dnsmessage.RCode) {
	var p dnsmessage.Parser
	h, err := p.Start(msg)
	if err != nil || h.Response {
		return nil, 0
	}
	q := &query{id: h.ID, recurse: h.RecursionDesired, size: classic}
	switch {
	case len(msg) > MaxQuery:
		return q, dnsmessage.RCodeFormatError
	case h.OpCode != 0:
		return q, dnsmessage.RCodeNotImplemented
	}
	// One question exactly: nobody agrees on what more would mean (RFC 9619).
	if q.question, err = p.Question(); err != nil {
		return q, dnsmessage.RCodeFormatError
	}
	q.asked = true
	if _, err := p.Question(); err != dnsmessage.ErrSectionDone {
		return q, dnsmessage.RCodeFormatError
	}
	if p.SkipAllAnswers() != nil || p.SkipAllAuthorities() != nil || q.readOPT(&p) != nil {
		return q, dnsmessage.RCodeFormatError
	}
	return q, dnsmessage.RCodeSuccess
}

// readOPT looks for the EDNS record (RFC 6891).
func (q *query) readOPT(p *dnsmessage.Parser) error {
	for {
		h, err := p.AdditionalHeader()
		if err == dnsmessage.ErrSectionDone {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Type == dnsmessage.TypeOPT {
			q.edns = true
			q.size = min(max(int(h.Class), classic), ednsSize)
		}
		if err := p.SkipAdditional(); err != nil {
			return err
		}
	}
}

// pack makes the answer to q out of the records of m. An answer over the size
// that UDP allows is replaced by an empty one that sends the guest to TCP.
func (q *query) pack(m dnsmessage.Message, udp bool) []byte {
	m.Header = dnsmessage.Header{
		ID: q.id, Response: true, RCode: m.RCode,
		RecursionDesired: q.recurse, RecursionAvailable: true,
	}
	m.Questions, m.Additionals = nil, nil
	if q.asked {
		m.Questions = []dnsmessage.Question{q.question}
	}
	if q.edns {
		m.Additionals = []dnsmessage.Resource{q.opt(m.RCode)}
	}
	limit := 0xffff
	if udp {
		limit = q.size
	}
	out, err := m.Pack()
	if err == nil && len(out) <= limit {
		return out
	}
	m.Answers, m.Authorities = nil, nil
	if err == nil && udp {
		m.Truncated = true
	} else {
		m.RCode = dnsmessage.RCodeServerFailure
	}
	if out, err = m.Pack(); err != nil {
		return nil
	}
	return out
}

// prohibited is the extended error "the server is not willing to" (RFC 8914).
const (
	optionExtendedError = 15
	errorProhibited     = 18
)

func (q *query) opt(code dnsmessage.RCode) dnsmessage.Resource {
	var h dnsmessage.ResourceHeader
	_ = h.SetEDNS0(ednsSize, code, false) // fails for no valid size
	var body dnsmessage.OPTResource
	if code == dnsmessage.RCodeRefused {
		text := append([]byte{0, errorProhibited}, "refused by the sandbox's network policy"...)
		body.Options = []dnsmessage.Option{{Code: optionExtendedError, Data: text}}
	}
	return dnsmessage.Resource{Header: h, Body: &body}
}
