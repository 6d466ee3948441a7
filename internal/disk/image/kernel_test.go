package image

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The archive has the directory before its files, and those in the order of
// their names.
func TestArchiveModules(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"10-ext4.ko": "four", "02-b.ko": "", "01-a.ko": "longer than a header's padding"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "archive")
	if err := archiveModules(dir, path); err != nil {
		t.Fatal(err)
	}
	archive, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"040755 modules ", "100644 modules/01-a.ko longer than a header's padding", "100644 modules/02-b.ko ", "100644 modules/10-ext4.ko four",
	}
	if diff := cmp.Diff(want, readCpio(t, archive)); diff != "" {
		t.Errorf("archive (-want +got):\n%s", diff)
	}
	if len(archive)%cpioBlock != 0 {
		t.Errorf("archive has %d bytes: another could not follow it", len(archive))
	}
}

// readCpio reads the form as the kernel's documentation has it, entry by
// entry: mode, name and content.
func readCpio(t *testing.T, archive []byte) []string {
	t.Helper()
	const headerSize = 6 + 13*8
	aligned := func(n int) int { return (n + 3) &^ 3 }
	var entries []string
	for at := 0; ; {
		header := archive[at : at+headerSize]
		if !bytes.HasPrefix(header, []byte("070701")) {
			t.Fatalf("no header at %d: %q", at, header)
		}
		field := func(i int) int {
			n, err := strconv.ParseUint(string(header[6+8*i:6+8*i+8]), 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			return int(n)
		}
		name := archive[at+headerSize : at+headerSize+field(11)]
		content := aligned(at + headerSize + field(11))
		at = aligned(content + field(6))
		name, ended := bytes.CutSuffix(name, []byte{0})
		if !ended {
			t.Fatalf("name %q has no end", name)
		}
		if string(name) == cpioTrailer {
			return entries
		}
		entries = append(entries, fmt.Sprintf("%06o %s %s", field(1), name, archive[content:content+field(6)]))
	}
}
