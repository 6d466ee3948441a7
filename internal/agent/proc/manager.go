package proc

import (
	"context"
	"log/slog"
	"os"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/agent/rpc"
)

// Config says as whom and with what environment processes run.
type Config struct {
	UID, GID uint32
	User     string
	Home     string            // also the default working directory
	Env      map[string]string // added to the initial environment
	Log      *slog.Logger
}

// Manager starts the sandbox's processes and knows them by number.
type Manager struct{}

// NewManager returns a manager without processes.
func NewManager(cfg Config) *Manager { return &Manager{} }

// Env is the sandbox's environment.
func (m *Manager) Env() *Env { return nil }

// Start runs a process with its stdio streams on c.
func (m *Manager) Start(ctx context.Context, c *rpc.Conn, spec Spec) (*Process, error) {
	return nil, nil
}

// Find returns a process by its number, also when it ended in the last ten
// minutes. Otherwise the error is the one that the SDKs take for "already
// exited".
func (m *Manager) Find(pid int) (*Process, error) { return nil, nil }

// Close ends every process in the sandbox.
func (m *Manager) Close(ctx context.Context) {}

// Spec describes a process to start.
type Spec struct {
	Path       string   // a path, or a name looked up in PATH
	Args       []string // without the name itself
	Options    api.ProcessOptions
	ExtraEnv   map[string]string // wins over Options.Env
	ExtraFiles []*os.File        // become descriptors 3, 4, …; stay the caller's to close
}

// Process is one started process.
type Process struct{}

func (p *Process) PID() int                  { return 0 }
func (p *Process) Result() api.SpawnResult   { return api.SpawnResult{} }   // what spawn answers: number and streams
func (p *Process) Done() <-chan struct{}     { return nil }                 // closed when it has ended
func (p *Process) Status() api.ProcessStatus { return api.ProcessStatus{} } // valid once Done is closed
func (p *Process) OnExit(fn func())          {}                             // runs after the end, at once if it has ended
func (p *Process) Signal(name string) error  { return nil }                 // to the whole process group; "SIGTERM"
func (p *Process) Wait(ctx context.Context) (api.ProcessStatus, error) {
	return api.ProcessStatus{}, nil
}

// Env is the sandbox-wide environment. Its methods may be called concurrently.
type Env struct{}

func (e *Env) Get(key string) (string, bool) { return "", false }
func (e *Env) Set(key, value string) error   { return nil }
func (e *Env) Delete(key string) error       { return nil }
func (e *Env) All() map[string]string        { return nil }

// Register adds spawn, processWait, processKill and the env methods.
func Register(reg *rpc.Registry, m *Manager) {}
