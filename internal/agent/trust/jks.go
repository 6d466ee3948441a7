package trust

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // the format's; nothing is protected with it
	"encoding/binary"
	"strings"
	"unicode/utf16"
)

// The format of sun.security.provider.JavaKeyStore: a head, entries, and a
// digest over the password, a phrase and all before it. Numbers are big
// endian, texts have their length before them.
var jksMagic = []byte{0xfe, 0xed, 0xfe, 0xed}

const (
	jksVersion = 2
	jksHead    = 12 // bytes: magic, version, number of entries
	jksKey     = 1  // a private key with its certificates
	jksCert    = 2  // a trusted certificate
)

// setJKS returns a store with the certificates in place of those that were
// added before.
func setJKS(store []byte, certs [][]byte) ([]byte, error) {
	end := len(store) - sha1.Size
	if end < jksHead || binary.BigEndian.Uint32(store[4:]) != jksVersion {
		return nil, errKeyStore
	}
	if !bytes.Equal(jksDigest(store[:end]), store[end:]) {
		return nil, errKeyStore // or of another password
	}
	count := binary.BigEndian.Uint32(store[8:])
	r := jksReader{rest: store[jksHead:end]}
	out := bytes.Clone(store[:jksHead])
	kept := uint32(0)
	for range count {
		entry, ours := r.entry()
		if r.failed {
			return nil, errKeyStore
		}
		if !ours {
			out = append(out, entry...)
			kept++
		}
	}
	for i, cert := range certs {
		out = appendJKS(out, alias(i), cert)
	}
	binary.BigEndian.PutUint32(out[8:], kept+uint32(len(certs)))
	return append(out, jksDigest(out)...), nil
}

// appendJKS appends a trusted certificate. Its date is 1970's beginning, so
// that the same certificates make the same file.
func appendJKS(out []byte, alias string, cert []byte) []byte {
	out = binary.BigEndian.AppendUint32(out, jksCert)
	out = appendText(out, alias)
	out = binary.BigEndian.AppendUint64(out, 0)
	out = appendText(out, "X.509")
	out = binary.BigEndian.AppendUint32(out, uint32(len(cert)))
	return append(out, cert...)
}

func appendText(out []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(out, uint16(len(s))), s...)
}

func jksDigest(data []byte) []byte {
	h := sha1.New() //nolint:gosec // see the import
	for _, unit := range utf16.Encode([]rune(password)) {
		h.Write(binary.BigEndian.AppendUint16(nil, unit))
	}
	h.Write([]byte("Mighty Aphrodite"))
	h.Write(data)
	return h.Sum(nil)
}

// jksReader reads entries. After a read beyond the end it has failed, and
// returns nothing any more.
type jksReader struct {
	rest   []byte
	failed bool
}

func (r *jksReader) take(n uint64) []byte {
	if r.failed || n > uint64(len(r.rest)) {
		r.failed = true
		return nil
	}
	out := r.rest[:n]
	r.rest = r.rest[n:]
	return out
}

func (r *jksReader) number() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *jksReader) text() []byte {
	b := r.take(2)
	if b == nil {
		return nil
	}
	return r.take(uint64(binary.BigEndian.Uint16(b)))
}

func (r *jksReader) blob() { r.take(uint64(r.number())) }

func (r *jksReader) cert() {
	r.text() // its type
	r.blob()
}

// entry returns the bytes of one entry, and whether an earlier Set made it.
func (r *jksReader) entry() (raw []byte, ours bool) {
	before := r.rest
	tag, alias := r.number(), r.text()
	r.take(8) // date
	switch tag {
	case jksKey:
		r.blob()
		for n := r.number(); n > 0 && !r.failed; n-- {
			r.cert()
		}
	case jksCert:
		r.cert()
	default:
		r.failed = true
	}
	ours = tag == jksCert && strings.HasPrefix(string(alias), prefix)
	return before[:len(before)-len(r.rest)], ours
}
