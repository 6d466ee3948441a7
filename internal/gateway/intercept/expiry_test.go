package intercept

import (
	"crypto/x509"
	"testing"
	"testing/synctest"
	"time"
)

// TestLeavesAreNeverServedExpired: a sandbox may stand still for months.
func TestLeavesAreNeverServedExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, err := NewCA()
		if err != nil {
			t.Fatal(err)
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM([]byte(ca.PEM()))
		for range 24 {
			leaf, err := ca.Leaf("example.com")
			if err != nil {
				t.Fatal(err)
			}
			soon := time.Now().Add(leafRenewal - time.Hour) // a connection may take its time
			for _, at := range []time.Time{time.Now(), soon} {
				if _, err := leaf.Leaf.Verify(x509.VerifyOptions{DNSName: "example.com", Roots: roots, CurrentTime: at}); err != nil {
					t.Fatalf("at %s: %v", at, err)
				}
			}
			time.Sleep(100 * 24 * time.Hour / 3)
		}
	})
}
