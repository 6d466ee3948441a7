package deno

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/agent/proc"
	"github.com/atollhq/atoll/internal/agent/rpc"
)

// Config says which Deno runs and as whom.
type Config struct {
	Path     string // default "deno", looked up in PATH
	UID, GID uint32 // the user of the sandbox's processes, as in proc.Config
	Home     string // the default working directory, as in proc.Config
	Log      *slog.Logger
}

// Service is the Deno side of a sandbox.
type Service struct {
	cfg      Config
	procs    *proc.Manager
	proc     procFS
	watchers atomic.Int64 // numbers watchers

	mu       sync.Mutex
	sessions map[int]*repl // by process number, while the process runs
	running  sync.WaitGroup
}

// Register adds the Deno methods to reg. What the service holds is freed as
// its processes end; Close waits for that.
func Register(reg *rpc.Registry, procs *proc.Manager, cfg Config) *Service {
	s := &Service{cfg: cfg, procs: procs, proc: procDir("/proc"), sessions: map[int]*repl{}}
	s.cfg.Path = cmp.Or(cfg.Path, "deno")
	rpc.Register(reg, "spawnDeno", s.spawnDeno)
	rpc.Register(reg, "spawnDenoRepl", s.spawnDenoRepl)
	rpc.Register(reg, "denoReplEval", s.replEval)
	rpc.Register(reg, "denoReplCall", s.replCall)
	rpc.Register(reg, "denoReplClose", s.replClose)
	rpc.Register(reg, "denoHttpWait", s.httpWait)
	unsupported(reg, "vscode", "exposeHttp")
	return s
}

// Close waits until everything that belonged to processes is freed. The
// processes themselves are the Manager's to end, before.
func (s *Service) Close() { s.running.Wait() }

// unsupported registers methods that a later version brings.
func unsupported(reg *rpc.Registry, methods ...string) {
	for _, name := range methods {
		rpc.Register(reg, name, func(context.Context, *rpc.Conn, struct{}) (rpc.Null, error) {
			return rpc.Null{}, rpc.NewError("NotSupported", "ENOTSUP", "%s is not supported yet by this server", name)
		})
	}
}

// httpWait answers whether the process listens, as soon as that is decided.
func (s *Service) httpWait(ctx context.Context, _ *rpc.Conn, p api.PIDParams) (bool, error) {
	process, err := s.procs.Find(p.PID)
	if err != nil {
		return false, remote(err)
	}
	_, ok, err := awaitEndpoint(ctx, s.proc, p.PID, process.Done())
	return ok, remote(err)
}

// serveTimeout is how long DialHTTP waits for a server to come up.
const serveTimeout = 30 * time.Second

// DialHTTP opens a connection to the server of a process, for which it waits
// if the process has none yet: clients fetch right after they start one.
func (s *Service) DialHTTP(ctx context.Context, pid int) (net.Conn, error) {
	process, err := s.procs.Find(pid)
	if err != nil {
		return nil, remote(err)
	}
	late := rpc.NewError("TypeError", "ECONNREFUSED", "the process with pid %d doesn't listen for HTTP requests", pid)
	ctx, cancel := context.WithTimeoutCause(ctx, serveTimeout, late)
	defer cancel()
	addr, ok, err := awaitEndpoint(ctx, s.proc, pid, process.Done())
	if err != nil {
		return nil, remote(err)
	}
	if !ok {
		return nil, rpc.NewError("TypeError", "ECONNREFUSED", "the process with pid %d ended without listening for HTTP requests", pid)
	}
	return new(net.Dialer).DialContext(ctx, "tcp", addr.String())
}

// remote turns an error into the one that the client sees; nil stays nil.
func remote(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errSessionEnded):
		return rpc.NewError("Error", "", "%s", errSessionEnded.Error())
	}
	return rpc.FromOS("", err)
}
