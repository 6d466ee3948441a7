package microvm

import (
	"os"
	"path/filepath"
	"testing"
)

// What QEMU does to its file afterwards changes nothing of what was saved.
func TestKeptStateIsNotQEMUs(t *testing.T) {
	from, to := filepath.Join(t.TempDir(), "state"), filepath.Join(t.TempDir(), "state")
	write(t, from, "the state")
	qemus, err := os.OpenFile(from, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = qemus.Close() }()
	if err := keepState(to, from); err != nil {
		t.Fatal(err)
	}
	if _, err := qemus.WriteAt([]byte("another"), 0); err != nil {
		t.Fatal(err)
	}
	if got := read(t, filepath.Dir(to), "state"); got != "the state" {
		t.Errorf("it became %q", got)
	}
}

// A state that no machine has is not kept, and takes no disk any more.
func TestStateIsBounded(t *testing.T) {
	from, to := filepath.Join(t.TempDir(), "state"), filepath.Join(t.TempDir(), "state")
	write(t, from, "")
	if err := os.Truncate(from, maxState); err != nil {
		t.Fatal(err)
	}
	if err := keepState(to, from); err != nil {
		t.Error(err)
	}
	if err := os.Truncate(from, maxState+1); err != nil {
		t.Fatal(err)
	}
	if err := keepState(to, from); err == nil {
		t.Errorf("%d bytes were kept", maxState+1)
	}
	if info, err := os.Stat(from); err != nil || info.Size() != 0 {
		t.Errorf("left: %v (%v)", info, err)
	}
}
