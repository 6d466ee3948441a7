package sniff

import (
	"errors"
	"strings"

	"golang.org/x/crypto/cryptobyte"
)

// Numbers of TLS (RFC 8446) and of encrypted hellos (RFC 9849 and its drafts).
const (
	recordHandshake = 0x16
	helloMessage    = 1
	maxRecord       = 1 << 14 // bytes of plain text in a record

	extName    = 0
	extALPN    = 16
	extECH     = 0xfe0d
	extOldECH  = 0xfe0a
	extESNI    = 0xffce
	nameDNS    = 0
	maxDNSName = 253
)

// Hello is what a ClientHello says in clear.
type Hello struct {
	Name      string   // of the host, in lower case; empty when absent
	ALPN      []string // the protocols offered, in order
	Encrypted bool     // it carries an encrypted hello, which may name another host
}

// Errors of ParseHello.
var (
	ErrIncomplete = errors.New("the hello is not complete yet")
	ErrMalformed  = errors.New("malformed hello")
)

// ParseHello reads the hello at the beginning of b, over as many records as it
// takes. What follows it is ignored.
func ParseHello(b []byte) (*Hello, error) {
	msg, err := handshake(b)
	if err != nil {
		return nil, err
	}
	return parseMessage(msg)
}

// handshake joins the first handshake message of a stream of records.
func handshake(b []byte) ([]byte, error) {
	var msg []byte
	for {
		need := 4
		if len(msg) >= 4 {
			if msg[0] != helloMessage {
				return nil, ErrMalformed
			}
			need += int(msg[1])<<16 | int(msg[2])<<8 | int(msg[3])
		}
		switch {
		case need > MaxHead:
			return nil, ErrMalformed
		case len(msg) >= 4 && len(msg) >= need:
			return msg[4:need], nil
		}
		var part []byte
		var err error
		if part, b, err = record(b); err != nil {
			// Its part may be malformed already.
			if len(part) > 0 && len(msg) == 0 && part[0] != helloMessage {
				return nil, ErrMalformed
			}
			return nil, err
		}
		msg = append(msg, part...)
	}
}

// record takes one handshake record off b. An incomplete one is returned as
// far as it goes, with ErrIncomplete.
func record(b []byte) (part, rest []byte, err error) {
	switch {
	case len(b) > 0 && b[0] != recordHandshake, len(b) > 1 && b[1] != 3, len(b) > 2 && b[2] > 4:
		return nil, nil, ErrMalformed
	case len(b) < 5:
		return nil, nil, ErrIncomplete
	}
	size := int(b[3])<<8 | int(b[4])
	switch {
	case size == 0 || size > maxRecord:
		return nil, nil, ErrMalformed
	case len(b) < 5+size:
		return b[5:], nil, ErrIncomplete
	}
	return b[5 : 5+size], b[5+size:], nil
}

func parseMessage(msg []byte) (*Hello, error) {
	s := cryptobyte.String(msg)
	var version uint16
	var session, suites, compression, extensions cryptobyte.String
	if !s.ReadUint16(&version) || version>>8 != 3 || !s.Skip(32) ||
		!s.ReadUint8LengthPrefixed(&session) || !s.ReadUint16LengthPrefixed(&suites) ||
		!s.ReadUint8LengthPrefixed(&compression) {
		return nil, ErrMalformed
	}
	hello := new(Hello)
	if s.Empty() {
		return hello, nil // hellos without extensions are allowed
	}
	if !s.ReadUint16LengthPrefixed(&extensions) || !s.Empty() {
		return nil, ErrMalformed
	}
	seen := map[uint16]bool{}
	for !extensions.Empty() {
		var kind uint16
		var data cryptobyte.String
		if !extensions.ReadUint16(&kind) || !extensions.ReadUint16LengthPrefixed(&data) || seen[kind] {
			return nil, ErrMalformed // twice the same could be read in two ways
		}
		seen[kind] = true
		if !hello.extension(kind, data) {
			return nil, ErrMalformed
		}
	}
	return hello, nil
}

func (h *Hello) extension(kind uint16, data cryptobyte.String) bool {
	switch kind {
	case extName:
		return h.readName(data)
	case extALPN:
		return h.readALPN(data)
	case extECH, extOldECH, extESNI:
		h.Encrypted = true
	}
	return true
}

// readName takes a list of exactly one name, as RFC 6066 has it.
func (h *Hello) readName(data cryptobyte.String) bool {
	var list, name cryptobyte.String
	var kind uint8
	if !data.ReadUint16LengthPrefixed(&list) || !data.Empty() ||
		!list.ReadUint8(&kind) || kind != nameDNS ||
		!list.ReadUint16LengthPrefixed(&name) || !list.Empty() ||
		len(name) == 0 || len(name) > maxDNSName+1 {
		return false
	}
	h.Name = strings.ToLower(strings.TrimSuffix(string(name), "."))
	for _, c := range []byte(h.Name) {
		if c <= ' ' || c >= 0x7f {
			return false
		}
	}
	return h.Name != ""
}

func (h *Hello) readALPN(data cryptobyte.String) bool {
	var list cryptobyte.String
	if !data.ReadUint16LengthPrefixed(&list) || !data.Empty() {
		return false
	}
	for !list.Empty() {
		var proto cryptobyte.String
		if !list.ReadUint8LengthPrefixed(&proto) || len(proto) == 0 {
			return false
		}
		h.ALPN = append(h.ALPN, string(proto))
	}
	return true
}
