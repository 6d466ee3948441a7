package private

import (
	"bytes"
	"log"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// TestProcess runs in a process of its own, which it changes for good.
func TestProcess(t *testing.T) {
	if os.Getenv("ATOLL_TEST_PRIVATE") != "" {
		inside(t)
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestProcess$")
	cmd.Env = append(os.Environ(), "ATOLL_TEST_PRIVATE=1")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || stderr.Len() > 0 {
		t.Errorf("%v: %s%s", err, out, &stderr)
	}
}

func inside(t *testing.T) {
	if err := Process(); err != nil {
		t.Fatal(err)
	}
	log.Print("what a library has read")
	dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	if err != nil || dumpable != 0 {
		t.Errorf("dumpable: %d, %v", dumpable, err)
	}
	var core unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &core); err != nil || core.Max != 0 {
		t.Errorf("core: %+v, %v", core, err)
	}
}
