package trust

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func testCertificate(t *testing.T, name string) (der []byte, text string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject: pkix.Name{
			Country: []string{"DE"}, Organization: []string{"  Some   Örg  Inc "}, CommonName: name,
		},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err = x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return der, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// guest is a root of files as an image has them.
func guest(t *testing.T) Store {
	t.Helper()
	s := Store{Root: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
	s.write(t, bundle, "# others")
	s.write(t, sudoersDir+"/app", "app ALL=(ALL:ALL) NOPASSWD: ALL\n")
	return s
}

func (s Store) write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(s.path(name)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.path(name), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (s Store) read(t *testing.T, name string) string {
	t.Helper()
	raw, err := os.ReadFile(s.path(name))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// files are all below the root, with where links lead.
func (s Store) files(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(s.Root, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name, _ := filepath.Rel(s.Root, path)
		target, err := os.Readlink(path)
		if err != nil {
			target, err = s.read(t, name), nil
		}
		out[name] = target
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func hashName(t *testing.T, der []byte, n int) string {
	t.Helper()
	hash, err := subjectHash(der)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s/%08x.%d", certsDir, hash, n)
}

func TestSet(t *testing.T) {
	s := guest(t)
	before := s.files(t)
	a, textA := testCertificate(t, "Test ROOT")
	b, textB := testCertificate(t, "Test ROOT") // of the same name, as after a renewal
	c, textC := testCertificate(t, "Other")
	for range 2 { // the second time changes nothing
		env, err := s.Set("comment\n" + textA + textB + textA)
		if err != nil || env["NODE_EXTRA_CA_CERTS"] != "/"+bundle {
			t.Fatalf("got %v, %v", env, err)
		}
		got := s.files(t)
		delete(got, sudoers)
		if diff := cmp.Diff(map[string]string{
			bundle:                         "# others\n" + textA + textB,
			sudoersDir + "/app":            before[sudoersDir+"/app"],
			localDir + "/atoll-host-1.crt": textA,
			localDir + "/atoll-host-2.crt": textB,
			certsDir + "/atoll-host-1.pem": "/" + localDir + "/atoll-host-1.crt",
			certsDir + "/atoll-host-2.pem": "/" + localDir + "/atoll-host-2.crt",
			hashName(t, a, 0):              "atoll-host-1.pem",
			hashName(t, b, 1):              "atoll-host-2.pem",
		}, got); diff != "" {
			t.Error(diff)
		}
	}
	if _, err := s.Set(textC); err != nil { // others in their place
		t.Fatal(err)
	}
	got := s.files(t)
	delete(got, sudoers)
	if diff := cmp.Diff(map[string]string{
		bundle:                         "# others\n" + textC,
		sudoersDir + "/app":            before[sudoersDir+"/app"],
		localDir + "/atoll-host-1.crt": textC,
		certsDir + "/atoll-host-1.pem": "/" + localDir + "/atoll-host-1.crt",
		hashName(t, c, 0):              "atoll-host-1.pem",
	}, got); diff != "" {
		t.Error(diff)
	}
	if env, err := s.Set("nothing"); err != nil || env != nil {
		t.Errorf("got %v, %v", env, err)
	}
	before[bundle] += "\n"
	if diff := cmp.Diff(before, s.files(t)); diff != "" {
		t.Errorf("something stays: %s", diff)
	}
}

// TestImagesOwnCertificateStays: what the image trusts already is not taken
// from it together with ours.
func TestImagesOwnCertificateStays(t *testing.T) {
	s := guest(t)
	_, text := testCertificate(t, "Test ROOT")
	s.write(t, bundle, text+"# others\n")
	for _, roots := range []string{text, ""} {
		if _, err := s.Set(roots); err != nil {
			t.Fatal(err)
		}
		if got, want := s.read(t, bundle), text+"# others\n"+roots; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestNothingToTrustChangesNothing(t *testing.T) {
	s := guest(t)
	before := s.files(t)
	if env, err := s.Set(""); err != nil || env != nil {
		t.Errorf("got %v, %v", env, err)
	}
	if diff := cmp.Diff(before, s.files(t)); diff != "" {
		t.Error(diff)
	}
}

// TestSudo: the line is one that sudo takes, in a file that it reads.
func TestSudo(t *testing.T) {
	s := guest(t)
	_, text := testCertificate(t, "Test ROOT")
	if _, err := s.Set(text); err != nil {
		t.Fatal(err)
	}
	line := s.read(t, sudoers)
	if !strings.HasPrefix(line, `Defaults env_keep += "AWS_CA_BUNDLE `) || !strings.HasSuffix(line, " SSL_CERT_FILE\"\n") {
		t.Errorf("got %s", line)
	}
	if info, err := os.Stat(s.path(sudoers)); err != nil || info.Mode().Perm() != 0o440 {
		t.Errorf("got %v, %v", info.Mode(), err)
	}
	if err := os.RemoveAll(s.path(sudoersDir)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Set(text); err != nil {
		t.Errorf("without sudo: %v", err)
	}
}

// OpenSSL is the reference for the hash of a subject.
func TestSubjectHash(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("no openssl to compare with")
	}
	der, text := testCertificate(t, "Test ROOT")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, openssl, "x509", "-noout", "-subject_hash")
	cmd.Stdin = strings.NewReader(text)
	cmd.WaitDelay = time.Minute
	want, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	got, err := subjectHash(der)
	if err != nil || fmt.Sprintf("%08x\n", got) != string(want) {
		t.Errorf("got %08x, %v, want %s", got, err, want)
	}
}

func FuzzSubjectHash(f *testing.F) {
	f.Add([]byte{0x30, 0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		_, _ = canonicalName(raw)
	})
}
