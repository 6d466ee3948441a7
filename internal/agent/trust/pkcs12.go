package trust

import (
	"bytes"
	"encoding/asn1"
	"encoding/binary"
	"slices"
	"unicode/utf16"
)

// The parts of PKCS #12 (RFC 7292) that a store of certificates needs.
type (
	pfx struct {
		Version  int
		AuthSafe contentInfo
		MAC      asn1.RawValue `asn1:"optional"`
	}
	contentInfo struct {
		Type    asn1.ObjectIdentifier
		Content asn1.RawValue `asn1:"tag:0,explicit"`
	}
	safeBag struct {
		ID         asn1.ObjectIdentifier
		Value      certBag     `asn1:"tag:0,explicit"`
		Attributes []attribute `asn1:"set"`
	}
	certBag struct {
		ID   asn1.ObjectIdentifier
		Cert []byte `asn1:"tag:0,explicit"`
	}
	attribute struct {
		ID     asn1.ObjectIdentifier
		Values []asn1.RawValue `asn1:"set"`
	}
)

var (
	oidData         = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidCertBag      = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 12, 10, 1, 3}
	oidX509         = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 22, 1}
	oidFriendlyName = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 20}
	oidTrusted      = asn1.ObjectIdentifier{2, 16, 840, 1, 113894, 746875, 1, 1} // Java's mark of a certificate that is trusted
	anyUsage        = []byte{0x06, 0x04, 0x55, 0x1d, 0x25, 0x00}                 // OBJECT IDENTIFIER 2.5.29.37.0
)

// setPKCS12 returns a store with the certificates, not encrypted, in place of
// those that were added before. What the store has else stays, encrypted or
// not. Its authentication code goes: Java wants none, and whoever may write
// the file knows the password.
func setPKCS12(store []byte, certs [][]byte) ([]byte, error) {
	var p pfx
	var raw []byte
	var parts []asn1.RawValue
	if !decode(store, &p) || !p.AuthSafe.Type.Equal(oidData) ||
		!decode(p.AuthSafe.Content.Bytes, &raw) || !decode(raw, &parts) {
		return nil, errKeyStore
	}
	others := slices.DeleteFunc(slices.Clone(parts), func(part asn1.RawValue) bool {
		return bytes.Contains(part.FullBytes, bmpString(prefix))
	})
	if len(others) == len(parts) && len(certs) == 0 {
		return store, nil
	}
	if len(certs) > 0 {
		own, err := safeOf(certs)
		if err != nil {
			return nil, err
		}
		others = append(others, own)
	}
	safe, err := dataOf(others)
	if err != nil {
		return nil, err
	}
	return asn1.Marshal(struct {
		Version  int
		AuthSafe contentInfo
	}{p.Version, safe})
}

// decode is true of bytes that are exactly one value.
func decode(raw []byte, v any) bool {
	rest, err := asn1.Unmarshal(raw, v)
	return err == nil && len(rest) == 0
}

// safeOf is a part of a store: certificates with the names of ours.
func safeOf(certs [][]byte) (asn1.RawValue, error) {
	var bags []safeBag
	for i, cert := range certs {
		name := asn1.RawValue{Tag: asn1.TagBMPString, Bytes: bmpString(alias(i))}
		bags = append(bags, safeBag{oidCertBag, certBag{oidX509, cert}, []attribute{
			{oidFriendlyName, []asn1.RawValue{name}},
			{oidTrusted, []asn1.RawValue{{FullBytes: anyUsage}}},
		}})
	}
	info, err := dataOf(bags)
	if err != nil {
		return asn1.RawValue{}, err
	}
	raw, err := asn1.Marshal(info)
	return asn1.RawValue{FullBytes: raw}, err
}

// dataOf wraps a value as content of type data.
func dataOf(v any) (contentInfo, error) {
	raw, err := asn1.Marshal(v)
	if err != nil {
		return contentInfo{}, err
	}
	octets, err := asn1.Marshal(raw)
	return contentInfo{oidData, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: octets}}, err
}

func bmpString(s string) (out []byte) {
	for _, unit := range utf16.Encode([]rune(s)) {
		out = binary.BigEndian.AppendUint16(out, unit)
	}
	return out
}
