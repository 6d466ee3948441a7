package trust

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// keyStores are where Java installations keep the certificates that they
// trust, also those that Debian's are links to.
var keyStores = []string{
	"etc/ssl/certs/java/cacerts",
	"usr/lib/jvm/*/lib/security/cacerts",
	"usr/lib/jvm/*/jre/lib/security/cacerts",
	"usr/local/*/lib/security/cacerts",
	"opt/*/lib/security/cacerts",
	"opt/*/*/lib/security/cacerts",
	"home/*/.sdkman/candidates/java/*/lib/security/cacerts",
}

// maxKeyStore bounds a file that is read whole, in bytes. Real ones have about
// 200 KiB.
const maxKeyStore = 8 << 20

// password opens the trusted certificates of every Java. It protects nothing.
const password = "changeit"

var errKeyStore = errors.New("not a key store of a known form")

// setKeyStores makes the certificates trusted by the Java installations that
// are there. A store that can't be changed is left as it is: the machine is of
// use without it.
func (s Store) setKeyStores(certs [][]byte) {
	for _, pattern := range keyStores {
		files, _ := filepath.Glob(s.path(pattern)) // fails for bad patterns only
		for _, file := range files {
			if err := setKeyStore(file, certs); err != nil {
				s.Log.Warn("set trust of Java", "file", file, "error", err)
			}
		}
	}
}

// setKeyStore changes one file. Links lead to another file of the list.
func setKeyStore(file string, certs [][]byte) error {
	info, err := os.Lstat(file)
	if err != nil || !info.Mode().IsRegular() {
		return err
	}
	if info.Size() > maxKeyStore {
		return fmt.Errorf("%d bytes are too many", info.Size())
	}
	old, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	set := setPKCS12
	if bytes.HasPrefix(old, jksMagic) {
		set = setJKS
	}
	store, err := set(old, certs)
	if err != nil || bytes.Equal(store, old) {
		return err
	}
	return os.WriteFile(file, store, info.Mode().Perm())
}

// alias is a certificate's name in a key store.
func alias(i int) string { return fmt.Sprintf("%s%d", prefix, i+1) }
