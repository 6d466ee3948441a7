package microvm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseVersion(t *testing.T) {
	for said, want := range map[string]string{
		"QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright (c) 2003-2022": "7.2.22",
		"QEMU emulator version 10.0.2": "10.0.2",
		"QEMU emulator version ":       "",
		"something else":               "",
		"":                             "",
	} {
		if got, ok := parseVersion([]byte(said)); got != want || ok != (want != "") {
			t.Errorf("%q: %q %t", said, got, ok)
		}
	}
}

func TestNewEnough(t *testing.T) {
	for version, want := range map[string]bool{
		"7.2.22": true, "7.2": true, "7.10.0": true, "8.0.0": true, "10.0.2": true,
		"7.1.9": false, "6.9": false, "7": false, "seven.two": false, "7.x": false, "": false,
	} {
		if got := newEnough(version); got != want {
			t.Errorf("%s: %t", version, got)
		}
	}
}

func TestFindProgram(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "qemu")
	if err := os.WriteFile(outside, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := findProgram(outside); err == nil || !strings.Contains(err.Error(), "not below /usr") {
		t.Errorf("outside of /usr: %v", err)
	}
	if _, err := findProgram("/usr/bin/no-such-program"); err == nil {
		t.Error("a program that is not there was found")
	}
	// A name is looked for in PATH, and /bin is a link into /usr on all hosts of
	// today.
	t.Setenv("PATH", "/usr/bin:/bin")
	if path, err := findProgram("env"); err != nil || !strings.HasPrefix(path, "/usr/") {
		t.Errorf("env: %q %v", path, err)
	}
}
