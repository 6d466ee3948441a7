package microvm

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestTrimKeepsWhatWasOpenedLast(t *testing.T) {
	dir := t.TempDir()
	began := time.Now()
	for i := range maxStored + 3 {
		path := filepath.Join(dir, fmt.Sprintf("%016x", i))
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		used := began.Add(-time.Duration(i) * time.Hour)
		if err := os.Chtimes(path, used, used); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, buildPrefix+"x"), 0o700); err != nil {
		t.Fatal(err)
	}
	held := fmt.Sprintf("%016x", maxStored+1)
	(&Templates{dir: dir, log: slog.New(slog.DiscardHandler), resident: map[string]*resident{held: {}}}).trim()
	if _, err := os.Stat(filepath.Join(dir, held)); err != nil {
		t.Errorf("one that is held: %v", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != maxStored+2 { // and the one that is being made
		t.Fatalf("%d entries, %v", len(entries), err)
	}
	for i := range maxStored {
		if _, err := os.Stat(filepath.Join(dir, fmt.Sprintf("%016x", i))); err != nil {
			t.Errorf("one of the last: %v", err)
		}
	}
}
