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
	"syscall"
	"testing"
	"time"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/cgroup"
	"github.com/atollhq/atoll/internal/layout"
	"github.com/atollhq/atoll/internal/machine"
	"github.com/atollhq/atoll/internal/machine/gvisor"
	"github.com/atollhq/atoll/internal/shim/launch"
	"github.com/atollhq/atoll/internal/shim/wire"
)

const patience = 30 * time.Second

func launcher(t *testing.T) (*launch.Launcher, string) {
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
		Shim: filepath.Join(bin, "atoll-shim"), Data: layout.Data{Dir: dir}, Log: log,
		Drivers: map[string]machine.Driver{gvisor.Name: gvisor.New(filepath.Join(bin, "runsc"), log)},
	}, bin
}

func spec(t *testing.T, bin, id string) wire.Spec {
	image := os.Getenv("ATOLL_TEST_IMAGE")
	if image == "" {
		t.Fatal("ATOLL_TEST_IMAGE is not set; run this through `make test`")
	}
	return wire.Spec{
		ID: id, Driver: gvisor.Name, Hostname: "shimtest",
		Runsc: filepath.Join(bin, "runsc"), Agent: filepath.Join(bin, "atoll-agent"), Image: image,
		MemoryBytes: 512 << 20, CPUs: 2, DiskBytes: 1 << 30,
	}
}

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func start(t *testing.T, id string) (*launch.Launcher, *launch.Shim) {
	t.Helper()
	l, bin := launcher(t)
	began := time.Now()
	s, err := l.Launch(deadline(t), spec(t, bin, id))
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

func awaitExit(t *testing.T, s *launch.Shim) wire.Exit {
	t.Helper()
	select {
	case exit := <-s.Exited():
		return exit
	case <-time.After(patience):
		t.Fatal("no exit reported")
		return wire.Exit{}
	}
}

func TestStopFreesEverything(t *testing.T) {
	const id = "shim-stop"
	l, s := start(t, id)
	if err := s.Stop(deadline(t), api.StopKilled); err != nil {
		t.Fatalf("stop: %v", err)
	}
	if exit := awaitExit(t, s); exit.Reason != api.StopKilled {
		t.Errorf("exit: %+v", exit)
	}
	if reason := l.RecordedReason(id); reason != api.StopKilled {
		t.Errorf("recorded reason: %q", reason)
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
	if err := syscall.Kill(s.PID(), syscall.SIGKILL); err != nil {
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
	l, bin := launcher(t)
	bad := spec(t, bin, id)
	bad.Agent = filepath.Join(bin, "runsc") // not an agent: it exits
	bad.StartTimeout = 10 * time.Second
	if _, err := l.Launch(deadline(t), bad); err == nil {
		t.Fatal("launch succeeded")
	} else {
		t.Logf("launch: %v", err)
	}
	if _, err := os.Stat(l.Data.Sandbox(id).Dir); !errors.Is(err, os.ErrNotExist) {
		t.Error("the directory is still there")
	}
	if left, _ := l.Leftovers(deadline(t)); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
