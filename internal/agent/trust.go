package agent

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// Where Debian keeps its trust store.
const (
	rootsDir    = "usr/local/share/ca-certificates" // what update-ca-certificates adds
	rootsBundle = "etc/ssl/certs/ca-certificates.crt"
	hashedDir   = "etc/ssl/certs" // certificates under the hash of their subject
)

// trust adds PEM certificates to the guest's trust store. It returns the
// variables that make programs with a store of their own look there.
func trust(root, roots string) (map[string]string, error) {
	certs := certificates(roots)
	if len(certs) == 0 {
		return nil, nil
	}
	var all []byte
	for i, cert := range certs {
		text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})
		name := fmt.Sprintf("%s/atoll-host-%d.crt", rootsDir, i+1)
		if err := writeFile(root, name, string(text)); err != nil {
			return nil, err
		}
		if err := linkHash(root, name, cert); err != nil {
			return nil, err
		}
		all = append(all, text...)
	}
	if err := appendFile(filepath.Join(root, rootsBundle), all); err != nil {
		return nil, fmt.Errorf("add to trust store: %w", err)
	}
	return map[string]string{
		"NODE_EXTRA_CA_CERTS": "/" + rootsBundle,
		"DENO_TLS_CA_STORE":   "system,mozilla",
	}, nil
}

// certificates returns the DER form of each certificate in PEM text.
func certificates(text string) [][]byte {
	var out [][]byte
	rest := []byte(text)
	for {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			return out
		}
		if block.Type == "CERTIFICATE" {
			out = append(out, block.Bytes)
		}
	}
}

// appendFile adds text to the end of a file, on a line of its own.
func appendFile(path string, text []byte) error {
	old, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	if bytes.Contains(old, text) {
		return nil
	}
	if len(old) > 0 && old[len(old)-1] != '\n' {
		text = append([]byte("\n"), text...)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if closed := f.Close(); err == nil {
		err = closed
	}
	return err
}

func ownedBy(info os.FileInfo, uid, gid uint32) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && st.Uid == uid && st.Gid == gid
}
