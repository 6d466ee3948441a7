package intercept

import (
	"crypto/x509"
	"testing"
)

func TestLeaves(t *testing.T) {
	ca, err := NewCA()
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(ca.PEM())) {
		t.Fatal("no certificate")
	}
	for _, host := range []string{"example.com", "xn--bcher-kva.example", "192.0.2.1", "2001:db8::1"} {
		leaf, err := ca.Leaf(host)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := leaf.Leaf.Verify(x509.VerifyOptions{DNSName: host, Roots: roots}); err != nil {
			t.Errorf("%s: %v", host, err)
		}
		if again, _ := ca.Leaf(host); again != leaf {
			t.Errorf("%s: issued twice", host)
		}
		if _, err := leaf.Leaf.Verify(x509.VerifyOptions{DNSName: "other.example", Roots: roots}); err == nil {
			t.Errorf("%s is valid for other.example", host)
		}
	}
	other, _ := NewCA()
	leaf, _ := other.Leaf("example.com")
	if _, err := leaf.Leaf.Verify(x509.VerifyOptions{DNSName: "example.com", Roots: roots}); err == nil {
		t.Error("another sandbox's certificate is valid")
	}
}
