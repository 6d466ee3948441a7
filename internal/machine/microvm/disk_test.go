package microvm

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func TestCopySparseKeepsHoles(t *testing.T) {
	dir := t.TempDir()
	from := filepath.Join(dir, "from")
	file, err := os.Create(from)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	for _, at := range []int64{0, 3 << 20, 9<<20 - 5} {
		if _, err := file.WriteAt([]byte("data!"), at); err != nil {
			t.Fatal(err)
		}
	}
	if err := file.Truncate(64<<20 + 1); err != nil { // a hole at the end, and an odd size
		t.Fatal(err)
	}
	to := filepath.Join(dir, "to")
	if err := copySparse(to, from); err != nil {
		t.Fatal(err)
	}
	want, _ := os.ReadFile(from)
	got, err := os.ReadFile(to)
	if err != nil || !bytes.Equal(want, got) {
		t.Errorf("the copy differs (%v)", err)
	}
	copied, err := os.Open(to)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = copied.Close() }()
	if used := blocks(t, copied); used > 1<<20 {
		t.Errorf("the copy takes %d bytes", used)
	}
	if err := copySparse(to, from); err == nil {
		t.Error("another file was overwritten")
	}
	if err := copySparse(filepath.Join(dir, "new"), filepath.Join(dir, "absent")); err == nil {
		t.Error("copied nothing")
	}
}

func TestChainsHaveTheirNames(t *testing.T) {
	for _, good := range [][]string{{"disk0.raw"}, {"disk0.raw", "disk1.qcow2", "disk2.qcow2"}, {"disk9.qcow2"}, {"disk9.qcow2", "disk10.qcow2"}} {
		if !isChain(good) {
			t.Errorf("%q is a chain", good)
		}
	}
	for _, bad := range [][]string{
		nil, {""}, {".."}, {"disk0.qcow2"}, {"disk01.qcow2"}, {"disk+1.qcow2"}, {"disk-1.qcow2"}, {"disk1.raw"}, {"disk2.qcow2", "disk2.qcow2"}, {"disk1.qcow2", "disk0.raw"}, {"disk0.raw", "disk0.raw"}, {"disk0.raw", "disk2.qcow2"},
		{"disk0.raw", "../disk1.qcow2"}, {"/etc/shadow"}, {"disk0.raw,driver=nbd"},
	} {
		if isChain(bad) {
			t.Errorf("%q is no chain", bad)
		}
	}
}
