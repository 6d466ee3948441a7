// Command atoll-shim runs one sandbox: see package shim. The daemon starts
// it; its specification comes on standard input.
package main

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/atollhq/atoll/internal/cgroup"
	"github.com/atollhq/atoll/internal/gateway/audit"
	"github.com/atollhq/atoll/internal/layout"
	"github.com/atollhq/atoll/internal/machine"
	"github.com/atollhq/atoll/internal/machine/gvisor"
	"github.com/atollhq/atoll/internal/machine/microvm"
	"github.com/atollhq/atoll/internal/machine/microvm/jail"
	"github.com/atollhq/atoll/internal/private"
	"github.com/atollhq/atoll/internal/shim"
	"github.com/atollhq/atoll/internal/shim/wire"
)

const (
	// A host runs many shims: each gives back memory early, and runs Go code
	// in one thread at a time. A packet passes through several goroutines;
	// with a second thread each of them would wake it, which costs more than
	// it has to do.
	maxProcs  = 1
	gcPercent = 50

	// What a guest can make its gateway hold (the buffers of thousands of
	// connections, above all) counts here and not in the machine's group.
	// Near the limit memory is collected harder; beyond it the sandbox ends.
	memoryLimit = 512 << 20
	softMemory  = 384 << 20
	maxTasks    = 1024 // processes and threads, those of runsc included
)

func main() {
	if os.Args[0] == jail.Name {
		fmt.Fprintln(os.Stderr, jail.Main(os.Args[1:])) // it returns only when it fails
		os.Exit(1)
	}
	runtime.GOMAXPROCS(maxProcs)
	debug.SetGCPercent(gcPercent)
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "atoll-shim:", err)
		os.Exit(1)
	}
}

func run() error {
	if err := private.Process(); err != nil {
		return fmt.Errorf("keep memory private: %w", err)
	}
	// The daemon may go away at any time; its pipes must not take us along.
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	var spec wire.Spec
	if err := wire.Read(bufio.NewReader(os.Stdin), &spec); err != nil {
		return fmt.Errorf("read specification: %w", err)
	}
	_ = os.Stdin.Close()
	log := newLogger(spec)
	group, err := confine(spec)
	var parts shim.Parts
	if err == nil {
		parts, err = assemble(spec, log)
	}
	if spec.Driver == microvm.Name {
		parts.Room = func() error { return group.RaiseMemory(memoryLimit + group.SharedBytes() + spec.MemoryBytes) }
	}
	if err != nil {
		_ = wire.Write(os.Stdout, wire.Started{Error: err.Error()})
		return err
	}
	return shim.New(spec, parts).Run(ctx, os.Stdout)
}

// confine puts this process, and with it all that it starts, into a group of
// its own. Package launch removes it.
func confine(spec wire.Spec) (*cgroup.Group, error) {
	debug.SetMemoryLimit(softMemory)
	group := cgroup.Open(cgroup.ShimName(spec.ID))
	if err := group.Create(cgroup.Limits{MemoryBytes: memoryLimit, PIDs: maxTasks}); err != nil {
		return nil, err
	}
	return group, group.Enter(os.Getpid())
}

// maxLog bounds a shim's log, in bytes: at level debug a guest makes it write.
const maxLog = 16 << 20

func newLogger(spec wire.Spec) *slog.Logger {
	level := slog.LevelInfo
	if err := level.UnmarshalText([]byte(spec.LogLevel)); err != nil {
		level = slog.LevelInfo
	}
	handler := slog.NewTextHandler(&shim.CappedLog{To: os.Stderr, Left: maxLog}, &slog.HandlerOptions{Level: level})
	return slog.New(handler).With("sandbox_id", spec.ID)
}

func assemble(spec wire.Spec, log *slog.Logger) (shim.Parts, error) {
	driver, err := newDriver(spec, log)
	if err != nil {
		return shim.Parts{}, err
	}
	parts := shim.Parts{Driver: driver, Network: wire.Network(), Log: log}
	var record audit.Log
	if file := newAudit(spec, log); file != nil {
		record, parts.Audit = file, file
	}
	gateway, err := shim.NewGateway(spec, record, log)
	if err != nil {
		return shim.Parts{}, err
	}
	parts.Gateway = gateway
	return parts, nil
}

// newAudit returns nil where none is kept.
func newAudit(spec wire.Spec, log *slog.Logger) *audit.File {
	if spec.Gateway.AuditFile == "" {
		return nil
	}
	return audit.NewFile(audit.FileConfig{
		Path: spec.Gateway.AuditFile, Older: layout.Older(spec.Gateway.AuditFile), Max: spec.Gateway.AuditMax, Sandbox: spec.ID, Log: log,
	})
}

func newDriver(spec wire.Spec, log *slog.Logger) (machine.Driver, error) {
	switch spec.Driver {
	case gvisor.Name:
		return gvisor.New(spec.Runsc, log), nil
	case microvm.Name:
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find the jail: %w", err)
		}
		accel, _ := microvm.Accelerate() // why not is said by the daemon, once
		return microvm.New(microvm.Config{QEMU: spec.QEMU, Jail: self, Accel: accel, Log: log}), nil
	default:
		return nil, fmt.Errorf("no machine driver %q on this host", spec.Driver)
	}
}
