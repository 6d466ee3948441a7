package microvm

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// A host without descriptors gets those back that were made before the last.
func TestWiresAreClosedWhenOneCantBeMade(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	open := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	m := newMachine(New(Config{}), "sbx", t.TempDir())
	before := open()
	few := limit
	few.Cur = uint64(before + 7) // for three sockets, and a half
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	theirs, err := m.wires()
	if rerr := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); rerr != nil {
		t.Fatal(rerr)
	}
	for _, f := range theirs {
		_ = f.Close()
	}
	if err == nil || len(theirs) == 0 {
		t.Fatalf("%d were made (%v)", len(theirs), err)
	}
	if after := open(); after > before {
		t.Errorf("%d descriptors are left", after-before)
	}
}
