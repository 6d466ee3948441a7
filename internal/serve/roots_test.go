package serve

import (
	"bytes"
	"encoding/pem"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestExtraRoots(t *testing.T) {
	server := httptest.NewTLSServer(nil)
	server.Close()
	cert := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	host := t.TempDir()
	write := func(name, content string) string {
		t.Helper()
		path := filepath.Join(host, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file := write("a.crt", cert+"\n\n")
	write("more/b.crt", "# mine\n"+strings.TrimSpace(cert))
	write("readme.txt", "no certificate")
	for _, c := range []struct{ what, setting, dir, want string }{
		{"the host's", "", host, cert + "# mine\n" + cert},
		{"a host without any", "", filepath.Join(host, "none"), ""},
		{"none", "none", host, ""},
		{"a file", file, host, cert + "\n\n"},
	} {
		if got, err := extraRoots(c.setting, c.dir); err != nil || got != c.want {
			t.Errorf("%s: %q, %v; want %q", c.what, got, err, c.want)
		}
	}
	for what, content := range map[string]string{
		"nothing":        "",
		"no certificate": "hello",
		"a broken one":   cert + string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})),
		"a key":          string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")})),
		"binary":         string(server.Certificate().Raw),
		"too much":       cert + string(bytes.Repeat([]byte("\n"), maxRoots)),
	} {
		bad := write("bad.crt", content)
		for _, setting := range []string{bad, ""} {
			if _, err := extraRoots(setting, host); err == nil || !strings.Contains(err.Error(), bad) {
				t.Errorf("%s, setting %q: %v", what, setting, err)
			}
		}
	}
	if _, err := extraRoots(filepath.Join(host, "missing.pem"), host); err == nil {
		t.Error("a missing file is no error")
	}
	_ = os.Remove(filepath.Join(host, "bad.crt"))
	for _, name := range []string{"x.crt", "y.crt", "z.crt"} { // each within the limit
		write(name, cert+strings.Repeat("\n# x", maxRoots/8))
	}
	if _, err := extraRoots("", host); err == nil {
		t.Error("more certificates than the limit are no error")
	}
}
