//go:build e2e

// Package shim tests the process per sandbox with a real machine: start,
// reattachment, and that nothing survives its death.
package shim

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/cgroup"
	"github.com/atollhq/atoll/internal/layout"
	"github.com/atollhq/atoll/internal/machine"
	"github.com/atollhq/atoll/internal/machine/gvisor"
	"github.com/atollhq/atoll/internal/sandbox"
	"github.com/atollhq/atoll/internal/shim/launch"
)

const patience = 3 * time.Minute

func launcher(t *testing.T) *launch.Launcher {
	t.Helper()
	bin := os.Getenv("ATOLL_TEST_BIN")
	if bin == "" {
		t.Fatal("ATOLL_TEST_BIN is not set; run this through `make test`")
	}
	dir, err := os.MkdirTemp("", "atoll-shim-") // t.TempDir's path is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	log := slog.New(slog.DiscardHandler)
	return &launch.Launcher{
		Binaries: launch.Binaries{
			Shim: filepath.Join(bin, "atoll-shim"), Runsc: filepath.Join(bin, "runsc"), Agent: filepath.Join(bin, "atoll-agent"),
		},
		Data: layout.Data{Dir: dir}, Log: log,
		Drivers: map[string]machine.Driver{gvisor.Name: gvisor.New(filepath.Join(bin, "runsc"), log)},
	}
}

func spec(t *testing.T, id string) sandbox.ShimSpec {
	image := os.Getenv("ATOLL_TEST_IMAGE")
	if image == "" {
		t.Fatal("ATOLL_TEST_IMAGE is not set; run this through `make test`")
	}
	return sandbox.ShimSpec{
		ID: id, Driver: gvisor.Name, Hostname: "shimtest", Image: machine.Image{File: image},
		MemoryBytes: 512 << 20, CPUs: 2, DiskBytes: 1 << 30,
	}
}

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func start(t *testing.T, id string) (*launch.Launcher, sandbox.Shim) {
	t.Helper()
	l := launcher(t)
	began := time.Now()
	s, err := l.Launch(deadline(t), spec(t, id))
	if err != nil {
		t.Fatalf("launch: %v", err)
	}
	t.Logf("started in %v", time.Since(began))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := l.Cleanup(ctx, id); err != nil {
			t.Errorf("cleanup: %v", err)
		}
	})
	return l, s
}

func awaitExit(t *testing.T, s sandbox.Shim) sandbox.ShimExit {
	t.Helper()
	select {
	case exit := <-s.Exited():
		return exit
	case <-time.After(patience):
		t.Fatal("no exit reported")
		return sandbox.ShimExit{}
	}
}

func TestStopFreesEverything(t *testing.T) {
	const id = "shim-stop"
	_, s := start(t, id)
	own := cgroup.Open(cgroup.ShimName(id))
	if !slices.Contains(own.PIDs(), s.(*launch.Shim).PID()) {
		t.Error("the shim is not in a control group of its own")
	}
	if err := s.Stop(deadline(t), api.StopKilled); err != nil {
		t.Fatalf("stop: %v", err)
	}
	if slices.Contains(cgroup.Leftovers(), cgroup.ShimName(id)) {
		t.Error("the shim's control group is still there")
	}
	if exit := awaitExit(t, s); exit.Reason != api.StopKilled {
		t.Errorf("exit: %+v", exit)
	}
	if pids := cgroup.Open(id).PIDs(); len(pids) > 0 {
		t.Errorf("processes left: %v", pids)
	}
}

func TestReattach(t *testing.T) {
	const id = "shim-reattach"
	l, _ := start(t, id)
	again, err := l.Attach(deadline(t), id)
	if err != nil {
		t.Fatalf("attach: %v", err)
	}
	if err := again.Stop(deadline(t), api.StopTimeout); err != nil {
		t.Fatal(err)
	}
	if exit := awaitExit(t, again); exit.Reason != api.StopTimeout {
		t.Errorf("exit: %+v", exit)
	}
}

// A killed shim takes its machine along; Cleanup frees the rest.
func TestKilledShim(t *testing.T) {
	const id = "shim-killed"
	l, s := start(t, id)
	group := cgroup.Open(id)
	if len(group.PIDs()) == 0 {
		t.Fatal("the machine has no processes in its control group")
	}
	if err := syscall.Kill(s.(*launch.Shim).PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if exit := awaitExit(t, s); exit.Reason != api.StopCrashed {
		t.Errorf("exit: %+v", exit)
	}
	for end := time.Now().Add(patience); len(group.PIDs()) > 0; {
		if time.Now().After(end) {
			t.Fatalf("the machine survived its shim: %v", group.PIDs())
		}
		time.Sleep(5 * time.Millisecond) // another process's end: nothing to wait on
	}
	if err := l.Cleanup(deadline(t), id); err != nil {
		t.Fatalf("cleanup: %v", err)
	}
	for _, name := range cgroup.Leftovers() {
		if name == id {
			t.Error("the control group is still there")
		}
	}
	if _, err := os.Stat(l.Data.Sandbox(id).Dir); !errors.Is(err, os.ErrNotExist) {
		t.Error("the directory is still there")
	}
}

func TestFailedStartLeavesNothing(t *testing.T) {
	const id = "shim-failed"
	l := launcher(t)
	l.Binaries.Agent = l.Binaries.Runsc // not an agent: it exits
	l.StartTimeout = 10 * time.Second
	if _, err := l.Launch(deadline(t), spec(t, id)); err == nil {
		t.Fatal("launch succeeded")
	} else {
		t.Logf("launch: %.300v", err)
	}
	if _, err := os.Stat(l.Data.Sandbox(id).Dir); !errors.Is(err, os.ErrNotExist) {
		t.Error("the directory is still there")
	}
	if left, _ := l.Leftovers(deadline(t)); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
