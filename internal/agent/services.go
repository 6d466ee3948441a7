package agent

import (
	"context"
	"log/slog"
	"maps"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/atollhq/atoll/internal/agent/deno"
	"github.com/atollhq/atoll/internal/agent/fetch"
	"github.com/atollhq/atoll/internal/agent/fs"
	"github.com/atollhq/atoll/internal/agent/oom"
	"github.com/atollhq/atoll/internal/agent/proc"
	"github.com/atollhq/atoll/internal/agent/rpc"
	"github.com/atollhq/atoll/internal/link"
)

// closePatience is how long the agent waits for processes that it ended.
const closePatience = 3 * time.Second

// services are the methods that clients can call and what is behind them.
type services struct {
	registry *rpc.Registry
	procs    *proc.Manager
	fs       *fs.Service
	deno     *deno.Service
	fetch    *fetch.Service
	watcher  sync.WaitGroup
}

// newServices starts everything for a configured machine, whose processes are
// born in group, if there is one. The extra variables come before those of the
// configuration.
func newServices(ctx context.Context, cfg link.Config, group proc.Group, env map[string]string, log *slog.Logger) *services {
	vars := map[string]string{}
	maps.Copy(vars, env)
	if cfg.SandboxID != "" {
		vars[sandboxIDVariable] = cfg.SandboxID
	}
	maps.Copy(vars, cfg.Env)
	s := &services{registry: rpc.NewRegistry()}
	s.procs = proc.NewManager(proc.Config{
		UID: cfg.UserID, GID: cfg.GroupID, User: cfg.User, Home: cfg.Home, Env: vars, Group: group, Log: log,
	})
	proc.Register(s.registry, s.procs)
	s.fs = fs.Register(s.registry, fs.Config{
		UserID: cfg.UserID, GroupID: cfg.GroupID, Groups: proc.Groups(cfg.User, proc.GroupFile), Home: cfg.Home,
	})
	s.deno = deno.Register(s.registry, s.procs, deno.Config{
		UID: cfg.UserID, GID: cfg.GroupID, Home: cfg.Home, Log: log,
	})
	s.fetch = fetch.Register(s.registry, s.deno.DialHTTP)
	if cfg.MemoryBytes > 0 {
		limitOwnMemory(cfg.MemoryBytes)
		s.watchMemory(ctx, cfg.MemoryBytes, log)
	}
	return s
}

// limitOwnMemory makes the agent collect its garbage before it takes a
// considerable share of the machine.
func limitOwnMemory(machine int64) { debug.SetMemoryLimit(machine / 4) }

func (s *services) watchMemory(ctx context.Context, limit int64, log *slog.Logger) {
	procfs, err := oom.OpenProcFS("/proc")
	if err != nil {
		log.Warn("memory is not watched", "error", err)
		return
	}
	end := func(p oom.Process) {
		s.procs.MarkOOM(p.PID)
		_ = unix.Kill(p.PID, unix.SIGKILL)
	}
	s.watcher.Go(func() {
		defer func() { _ = procfs.Close() }()
		oom.New(limit, procfs, end, log).Run(ctx)
	})
}

// close ends the processes and frees the services. The connections have ended
// by then, and the context given to newServices too.
func (s *services) close() {
	ctx, cancel := context.WithTimeout(context.Background(), closePatience)
	defer cancel()
	s.procs.Close(ctx)
	s.watcher.Wait()
	s.fetch.Close()
	s.deno.Close()
	s.fs.Close()
}
