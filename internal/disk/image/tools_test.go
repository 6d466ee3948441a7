package image

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// A tool's processes and mounts end with it, whether it cleans up or not.
func TestIsolatedToolLeavesNothing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("namespaces need root")
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "mnt"), 0o755); err != nil {
		t.Fatal(err)
	}
	// The number makes the child's command line its own.
	seconds := strconv.Itoa(1_000_000 + os.Getpid())
	r := runner{echo: newProgress(io.Discard), isolate: true}
	err := r.run(t.Context(), dir, "sh", "-ec", "mount -t tmpfs none mnt; touch mnt/inside; sleep "+seconds+" & sleep 0")
	if errors.Is(err, syscall.EPERM) || err != nil && strings.Contains(err.Error(), "permission denied") {
		t.Skipf("namespaces are not permitted here: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if mounts, err := mountsBelow(dir); err != nil || len(mounts) != 0 {
		t.Errorf("mounts left: %q, %v", mounts, err)
	}
	if pid := processWith(t, seconds); pid != "" {
		t.Errorf("the tool's child %s lives on", pid)
	}
}

// processWith finds a process by an argument of its command line.
func processWith(t *testing.T, argument string) string {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range lines {
		text, _ := os.ReadFile(path) // gone by now is as good as another's
		if strings.Contains(string(text), "\x00"+argument+"\x00") {
			return filepath.Base(filepath.Dir(path))
		}
	}
	return ""
}

func TestToolErrorsNameTheTool(t *testing.T) {
	r := runner{echo: newProgress(io.Discard)}
	err := r.run(t.Context(), t.TempDir(), "sh", "-c", "echo first; echo second >&2; exit 3")
	if err == nil || !strings.Contains(err.Error(), "run sh: exit status 3") || !strings.Contains(err.Error(), "first\n  second") {
		t.Errorf("error = %v", err)
	}
	if err := r.run(t.Context(), t.TempDir(), "no-such-program"); err == nil || !strings.Contains(err.Error(), "no-such-program") {
		t.Errorf("error = %v", err)
	}
}
