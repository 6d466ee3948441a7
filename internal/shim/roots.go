package shim

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
)

// upstreamRoots are the certificates that servers are verified with: the
// host's, and those in PEM text. The guest's own are none of them.
func upstreamRoots(extra string) (*x509.CertPool, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("read the host's roots: %w", err)
	}
	rest := []byte(extra)
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return pool, nil
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("read extra roots: %w", err)
		}
		pool.AddCert(cert)
	}
}
