package trust

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func testdata(t testing.TB, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// The key stores are keytool's: cacerts.jks has a certificate and a private
// key, bare.p12 a certificate without encryption, as Java comes with, and
// locked.p12 one that is encrypted. What is made of them with root.pem added
// was read by keytool when it became a golden file.
var stores = []string{"cacerts.jks", "bare.p12", "locked.p12"}

func TestKeyStores(t *testing.T) {
	for _, name := range stores {
		t.Run(name, func(t *testing.T) {
			s := Store{Root: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
			const file = "usr/lib/jvm/java-21/lib/security/cacerts"
			s.write(t, file, string(testdata(t, name)))
			if err := os.Chmod(s.path(file), 0o600); err != nil {
				t.Fatal(err)
			}
			for range 2 { // the second time changes nothing
				s.setKeyStores(certificates(string(testdata(t, "root.pem"))))
				if s.read(t, file) != string(testdata(t, name+".golden")) {
					t.Errorf("%s is not as it was when keytool read it", name)
				}
			}
			if info, err := os.Stat(s.path(file)); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("mode %v, %v", info.Mode(), err)
			}
			s.setKeyStores(nil)
			if name != "locked.p12" && s.read(t, file) != string(testdata(t, name)) {
				t.Error("something stays")
			}
		})
	}
}

func TestOtherKeyStoresStay(t *testing.T) {
	s := Store{Root: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
	jks := testdata(t, "cacerts.jks")
	jks[len(jks)-1]++ // as with another password
	for content, name := range map[string]string{
		"":                                    "etc/ssl/certs/java/cacerts",
		"no key store":                        "opt/jdk/lib/security/cacerts",
		string(jks):                           "opt/vendor/jdk/lib/security/cacerts",
		strings.Repeat("x", maxKeyStore+1):    "usr/local/jdk/lib/security/cacerts",
		string(testdata(t, "bare.p12")) + "x": "home/app/.sdkman/candidates/java/25/lib/security/cacerts",
	} {
		s.write(t, name, content)
		s.setKeyStores(certificates(string(testdata(t, "root.pem"))))
		if s.read(t, name) != content {
			t.Errorf("%s is changed", name)
		}
	}
	if err := os.Symlink("/dev/null", s.path("opt/cacerts")); err != nil {
		t.Fatal(err)
	}
	if err := setKeyStore(s.path("opt/cacerts"), nil); err != nil {
		t.Errorf("a link: %v", err)
	}
}

// FuzzKeyStores: what can be read can be added to, and read again.
func FuzzKeyStores(f *testing.F) {
	for _, name := range stores {
		f.Add(testdata(f, name))
		f.Add(testdata(f, name+".golden"))
	}
	certs := certificates(string(testdata(f, "root.pem")))
	f.Fuzz(func(t *testing.T, store []byte) {
		for _, set := range []func([]byte, [][]byte) ([]byte, error){setJKS, setPKCS12} {
			if _, err := set(store, nil); err != nil {
				continue
			}
			with, err := set(store, certs)
			if err != nil || !bytes.Contains(with, certs[0]) {
				t.Fatalf("nothing is added: %v", err)
			}
			if _, err := set(with, nil); err != nil {
				t.Fatalf("what was made can't be read: %v", err)
			}
		}
	})
}
