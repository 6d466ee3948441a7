package trust

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // OpenSSL names files by it; nothing is protected with it
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf16"
)

// subjectHash is what `openssl x509 -subject_hash` prints: the first four
// bytes, little endian, of the SHA-1 of the subject's canonical encoding (see
// X509_NAME_hash(3)).
func subjectHash(cert []byte) (uint32, error) {
	parsed, err := x509.ParseCertificate(cert)
	if err != nil {
		return 0, err
	}
	canonical, err := canonicalName(parsed.RawSubject)
	if err != nil {
		return 0, err
	}
	sum := sha1.Sum(canonical) //nolint:gosec // see the import
	return binary.LittleEndian.Uint32(sum[:]), nil
}

// nameAttribute is one attribute of a relative distinguished name.
type nameAttribute struct {
	Type  asn1.ObjectIdentifier
	Value asn1.RawValue
}

type attributeSET []nameAttribute // the name makes encoding/asn1 read a SET

// canonicalName re-encodes each relative name with its text as lower case
// UTF-8 and without superfluous blanks, and leaves the outer SEQUENCE out.
func canonicalName(raw []byte) ([]byte, error) {
	var names []attributeSET
	if rest, err := asn1.Unmarshal(raw, &names); err != nil || len(rest) > 0 {
		return nil, fmt.Errorf("decode name: %w", err)
	}
	var out bytes.Buffer
	for _, name := range names {
		for i := range name {
			if text, ok := textOf(name[i].Value); ok {
				name[i].Value = asn1.RawValue{Class: asn1.ClassUniversal, Tag: asn1.TagUTF8String, Bytes: []byte(canonicalText(text))}
			}
		}
		encoded, err := asn1.Marshal(name)
		if err != nil {
			return nil, fmt.Errorf("encode name: %w", err)
		}
		out.Write(encoded)
	}
	return out.Bytes(), nil
}

// textOf decodes the string types that OpenSSL makes canonical.
func textOf(v asn1.RawValue) (string, bool) {
	const tagVisibleString = 26
	switch v.Tag {
	case asn1.TagUTF8String, asn1.TagPrintableString, asn1.TagIA5String, tagVisibleString:
		return string(v.Bytes), true
	case asn1.TagT61String:
		runes := make([]rune, len(v.Bytes)) // read as Latin-1
		for i, b := range v.Bytes {
			runes[i] = rune(b)
		}
		return string(runes), true
	case asn1.TagBMPString:
		units := make([]uint16, len(v.Bytes)/2)
		for i := range units {
			units[i] = binary.BigEndian.Uint16(v.Bytes[2*i:])
		}
		return string(utf16.Decode(units)), true
	}
	return "", false
}

// canonicalText changes ASCII only, as OpenSSL does.
func canonicalText(s string) string {
	fields := strings.FieldsFunc(s, func(r rune) bool {
		return r == ' ' || r >= '\t' && r <= '\r'
	})
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, strings.Join(fields, " "))
}
