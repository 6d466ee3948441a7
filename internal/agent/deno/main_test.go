package deno

import (
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv(fakeDenoEnv) != "" && len(os.Args) > 1 && os.Args[1] != "" && os.Args[1][0] != '-' {
		os.Exit(fakeDeno(os.Args[1:]))
	}
	goleak.VerifyTestMain(m)
}

// denoBinary finds a real Deno or skips the test: CI's end-to-end tests
// always run these paths inside a sandbox.
func denoBinary(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("ATOLL_TEST_DENO"); path != "" {
		return path
	}
	path, err := exec.LookPath("deno")
	if err != nil {
		t.Skip("no deno on PATH and no ATOLL_TEST_DENO")
	}
	return path
}

func listenLocal(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// eventually waits for a condition that nothing announces.
func eventually(t *testing.T, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute)
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("waited in vain")
		}
	}
}
