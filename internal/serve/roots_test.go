package serve

import (
	"os"
	"path/filepath"
	"testing"
)

func TestExtraRoots(t *testing.T) {
	host := t.TempDir()
	for name, content := range map[string]string{"a.crt": "A\n\n", "more/b.crt": "B", "readme.txt": "no certificate"} {
		path := filepath.Join(host, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(host, "a.crt")
	for _, c := range []struct{ what, setting, dir, want string }{
		{"the host's", "", host, "A\nB\n"},
		{"a host without any", "", filepath.Join(host, "none"), ""},
		{"none", "none", host, ""},
		{"a file", file, host, "A\n\n"},
	} {
		if got, err := extraRoots(c.setting, c.dir); err != nil || got != c.want {
			t.Errorf("%s: %q, %v; want %q", c.what, got, err, c.want)
		}
	}
	if _, err := extraRoots(filepath.Join(host, "missing.pem"), host); err == nil {
		t.Error("a missing file is no error")
	}
	if err := os.WriteFile(filepath.Join(host, "huge.crt"), make([]byte, maxRoots+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := extraRoots("", host); err == nil {
		t.Error("more certificates than the limit are no error")
	}
}
