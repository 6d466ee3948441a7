package deno

import (
	"net"
	"os"
	"os/exec"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

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
