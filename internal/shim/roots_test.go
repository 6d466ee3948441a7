package shim

import (
	"crypto/x509"
	"encoding/pem"
	"net/http/httptest"
	"testing"
)

func TestUpstreamRoots(t *testing.T) {
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	cert := server.Certificate()
	text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
	key := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}))
	system, err := x509.SystemCertPool()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what, extra string
		want        bool
	}{{"none", "", false}, {"a comment", "# no certificate\n", false}, {"one among others", "# mine\n" + key + text, true}} {
		pool, err := upstreamRoots(c.extra)
		if err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		if _, err := cert.Verify(x509.VerifyOptions{Roots: pool, DNSName: "example.com"}); (err == nil) != c.want {
			t.Errorf("%s: %v", c.what, err)
		}
		if !c.want && !pool.Equal(system) {
			t.Errorf("%s: not the system's roots", c.what)
		}
	}
	if _, err := upstreamRoots(certificate); err == nil {
		t.Error("a certificate that is none is accepted")
	}
}
