package trust

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Where Debian keeps its trust store.
const (
	localDir = "usr/local/share/ca-certificates" // what update-ca-certificates adds
	certsDir = "etc/ssl/certs"                   // links to all, by name and by the hash of their subject
	bundle   = "etc/ssl/certs/ca-certificates.crt"
)

// prefix begins the names of our certificates. Nobody else's begin with it.
const prefix = "atoll-host-"

// Store is the trust of the guest whose files are below Root.
type Store struct {
	Root string
	Log  *slog.Logger
}

// Set makes the certificates in PEM text trusted, in place of those of an
// earlier Set. It returns the variables by which programs that bring their own
// certificates find them: none where there is no certificate.
func (s Store) Set(text string) (map[string]string, error) {
	certs := certificates(text)
	env := environment()
	err := s.replaceFiles(certs)
	if err == nil {
		err = s.keepForRoot(env, len(certs) > 0)
	}
	if err != nil {
		return nil, fmt.Errorf("set trust: %w", err)
	}
	s.setKeyStores(certs)
	if len(certs) == 0 {
		return nil, nil
	}
	return env, nil
}

// certificates returns the DER form of each certificate in PEM text, once.
func certificates(text string) (out [][]byte) {
	rest := []byte(text)
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return out
		}
		known := slices.ContainsFunc(out, func(c []byte) bool { return bytes.Equal(c, block.Bytes) })
		if block.Type == "CERTIFICATE" && !known {
			out = append(out, block.Bytes)
		}
	}
}

// replaceFiles makes the certificates those that update-ca-certificates would
// add.
func (s Store) replaceFiles(certs [][]byte) error {
	old, err := s.removeFiles()
	if err != nil {
		return err
	}
	var added []byte
	for i, cert := range certs {
		text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})
		if err := s.addFile(fmt.Sprintf("%s%d", prefix, i+1), cert, text); err != nil {
			return err
		}
		added = append(added, text...)
	}
	return s.changeBundle(old, added)
}

// removeFiles removes what an earlier Set added, and returns its texts.
func (s Store) removeFiles() (texts [][]byte, err error) {
	files, _ := filepath.Glob(s.path(localDir, prefix+"*.crt")) // fails for bad patterns only
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		texts = append(texts, text)
		if err := os.Remove(file); err != nil {
			return nil, err
		}
	}
	if len(files) == 0 {
		return nil, nil
	}
	return texts, s.removeLinks()
}

func (s Store) removeLinks() error {
	entries, err := os.ReadDir(s.path(certsDir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Type() != fs.ModeSymlink {
			continue
		}
		target, err := os.Readlink(s.path(certsDir, e.Name()))
		if err == nil && strings.HasPrefix(filepath.Base(target), prefix) {
			err = os.Remove(s.path(certsDir, e.Name()))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// addFile writes one certificate and its links.
func (s Store) addFile(name string, cert, text []byte) error {
	for _, dir := range []string{localDir, certsDir} {
		if err := os.MkdirAll(s.path(dir), 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(s.path(localDir, name+".crt"), text, 0o644); err != nil {
		return err
	}
	link := s.path(certsDir, name+".pem")
	if err := os.Symlink("/"+localDir+"/"+name+".crt", link); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return s.linkHash(cert, name+".pem")
}

// linkHash makes a certificate found by OpenSSL, which looks for files named
// by the hash of a subject. A certificate that cannot be parsed is left to
// the bundle.
func (s Store) linkHash(cert []byte, target string) error {
	hash, err := subjectHash(cert)
	if err != nil {
		s.Log.Warn("hash certificate", "error", err)
		return nil
	}
	for i := range maxSameHash {
		err = os.Symlink(target, s.path(certsDir, fmt.Sprintf("%08x.%d", hash, i)))
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

const maxSameHash = 10 // certificates that OpenSSL tells apart by a number behind their hash

// changeBundle takes texts out of the bundle and adds others at its end.
func (s Store) changeBundle(old [][]byte, added []byte) error {
	if len(old) == 0 && len(added) == 0 {
		return nil
	}
	all, err := os.ReadFile(s.path(bundle))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, text := range old { // the last of equal ones is ours
		if i := bytes.LastIndex(all, text); i >= 0 {
			all = slices.Delete(all, i, i+len(text))
		}
	}
	if len(all) > 0 && all[len(all)-1] != '\n' {
		all = append(all, '\n')
	}
	return os.WriteFile(s.path(bundle), append(all, added...), 0o644)
}

func (s Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.Root}, elem...)...)
}
