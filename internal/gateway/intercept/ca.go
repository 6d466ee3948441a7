package intercept

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

const (
	skew         = 24 * time.Hour // by which a guest's clock may be behind
	caValidity   = 10 * 365 * 24 * time.Hour
	leafValidity = 30 * 24 * time.Hour
	leafRenewal  = leafValidity / 2 // a leaf is replaced at this age
	maxLeaves    = 1024             // kept per sandbox
)

// CA is a sandbox's certificate authority. Its key is nowhere but in this
// process's memory. Its methods may be called concurrently.
type CA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	leaf *ecdsa.PrivateKey // of every leaf

	mu     sync.Mutex // guards the following
	leaves *simplelru.LRU[string, *tls.Certificate]
}

// NewCA makes an authority.
func NewCA() (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	leaf, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{Organization: []string{"Atoll"}, CommonName: "Atoll sandbox authority"},
		NotBefore:    now.Add(-skew), NotAfter: now.Add(caValidity),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	cert, err := certify(template, template, key, key)
	if err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	leaves, err := simplelru.NewLRU[string, *tls.Certificate](maxLeaves, nil)
	if err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	return &CA{cert: cert, key: key, leaf: leaf, leaves: leaves}, nil
}

// PEM is the authority's certificate, for the guest's trust store.
func (c *CA) PEM() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw}))
}

// Leaf returns a certificate for a host: a name, or an address as text.
func (c *CA) Leaf(host string) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if leaf, ok := c.leaves.Get(host); ok && time.Since(leaf.Leaf.NotBefore) < skew+leafRenewal {
		return leaf, nil
	}
	leaf, err := c.issue(host)
	if err != nil {
		return nil, fmt.Errorf("issue certificate: %w", err)
	}
	c.leaves.Add(host, leaf)
	return leaf, nil
}

func (c *CA) issue(host string) (*tls.Certificate, error) {
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{Organization: []string{"Atoll"}},
		NotBefore:    now.Add(-skew), NotAfter: now.Add(leafValidity),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		template.IPAddresses = append(template.IPAddresses, addr.AsSlice())
	} else {
		template.DNSNames = []string{host}
	}
	cert, err := certify(template, c.cert, c.leaf, c.key)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{cert.Raw, c.cert.Raw}, PrivateKey: c.leaf, Leaf: cert}, nil
}

func certify(template, parent *x509.Certificate, key, with *ecdsa.PrivateKey) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, with)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func serial() *big.Int {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b[:])
}
