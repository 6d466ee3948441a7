package gvisor

import (
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/atollhq/atoll/internal/machine"
)

// sentryOf starts a process of this one that has a sentry's name.
func sentryOf(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/bin/cat")
	cmd.Args[0] = sentryName
	in, err := cmd.StdinPipe() // at its end, cat ends
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close() })
	return cmd
}

// The number of a runsc that has ended may be another machine's by now, whose
// processes are left alone.
func TestSignalsGoToLivingMachinesOnly(t *testing.T) {
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for _, over := range []bool{true, false} {
		m := newMachine(New("", nil), "never-was", "/nonexistent")
		m.Started(self)
		if over {
			m.Finish(machine.Exit{})
		}
		sentry := sentryOf(t)
		if err := m.signal(sentryName, unix.SIGKILL); err != nil {
			t.Error(err)
		}
		if over {
			_ = sentry.Process.Signal(unix.SIGTERM)
		}
		_ = sentry.Wait()
		if killed := sentry.ProcessState.Sys().(interface{ Signal() unix.Signal }).Signal() == unix.SIGKILL; killed == over {
			t.Errorf("over: %v, killed: %v", over, killed)
		}
	}
}
