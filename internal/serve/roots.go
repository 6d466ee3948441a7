package serve

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/atollhq/atoll/internal/config"
)

// hostRootsDir is where Debian and its relatives keep certificates that the
// operator added to the host's trust store (update-ca-certificates(8)).
const hostRootsDir = "/usr/local/share/ca-certificates"

const maxRoots = 1 << 20 // bytes of certificates

// extraRoots returns the certificates that sandboxes are to trust beyond their
// image's, as PEM: those of the given file or, where none is set, those that
// were added to this host. Behind a proxy that opens TLS, a sandbox reaches
// nothing without them.
func extraRoots(setting, hostDir string) (string, error) {
	switch setting {
	case config.NoRoots:
		return "", nil
	case "":
		return rootsBelow(hostDir)
	}
	raw, err := readRoots(setting)
	if err != nil {
		return "", fmt.Errorf("read extra roots: %w", err)
	}
	return string(raw), nil
}

// readRoots reads a file of certificates in PEM form. A mistake is better
// known now than when a sandbox doesn't reach a server.
func readRoots(file string) ([]byte, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	if len(raw) > maxRoots {
		return nil, fmt.Errorf("%s: %d bytes are more than the limit of %d", file, len(raw), maxRoots)
	}
	found := false
	for rest := raw; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		found = true
	}
	if !found {
		return nil, fmt.Errorf("%s: there is no certificate in PEM form in it", file)
	}
	return raw, nil
}

func rootsBelow(dir string) (string, error) {
	var all bytes.Buffer
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case entry.IsDir() || filepath.Ext(path) != ".crt":
			return nil
		}
		raw, err := readRoots(path)
		if err != nil {
			return err
		}
		all.Write(bytes.TrimSpace(raw))
		all.WriteByte('\n')
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("read the host's extra roots (the setting extra_roots names others, or none): %w", err)
	}
	if all.Len() > maxRoots {
		return "", fmt.Errorf("read the host's extra roots: %d bytes of certificates below %s are more than the limit of %d", all.Len(), dir, maxRoots)
	}
	return all.String(), nil
}
