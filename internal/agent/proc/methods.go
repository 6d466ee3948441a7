package proc

import (
	"context"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/agent/rpc"
)

// spawnParams are checked beyond their types.
type spawnParams struct{ api.SpawnParams }

// Validate checks the stdio options.
func (p *spawnParams) Validate() []api.ValidationIssue { return CheckOptions(p.ProcessOptions) }

// CheckOptions is for the parameters of every method that starts a process.
func CheckOptions(o api.ProcessOptions) []api.ValidationIssue {
	var issues []api.ValidationIssue
	for _, f := range []struct{ name, value string }{{"stdout", o.Stdout}, {"stderr", o.Stderr}} {
		if f.value != api.StdioPiped && f.value != api.StdioNull {
			issues = append(issues, api.ValidationIssue{
				Code: "invalid_value", Expected: `"piped"|"null"`, Path: []string{f.name},
				Message: `Invalid option: expected one of "piped"|"null"`,
			})
		}
	}
	return issues
}

type killParams struct {
	PID    int         `json:"pid"`
	Signal *signalName `json:"signal,omitempty"`
}

// Register adds spawn, processWait, processKill and the env methods.
func Register(reg *rpc.Registry, m *Manager) {
	rpc.Register(reg, "spawn", m.spawn)
	rpc.Register(reg, "processWait", m.wait)
	rpc.Register(reg, "processKill", m.kill)
	rpc.Register(reg, "envGet", m.envGet)
	rpc.Register(reg, "envSet", m.envSet)
	rpc.Register(reg, "envDelete", m.envDelete)
	rpc.Register(reg, "envToObject", m.envToObject)
}

func (m *Manager) spawn(ctx context.Context, c *rpc.Conn, p spawnParams) (api.SpawnResult, error) {
	process, err := m.Start(ctx, c, Spec{Path: p.Command, Args: p.Args, Options: p.ProcessOptions})
	if err != nil {
		return api.SpawnResult{}, err
	}
	return process.Result(), nil
}

func (m *Manager) wait(ctx context.Context, c *rpc.Conn, p api.PIDParams) (api.ProcessStatus, error) {
	process, err := m.Find(p.PID)
	if err != nil {
		return api.ProcessStatus{}, err
	}
	if process.conn == c {
		process.openGate() // the SDKs wait right after they have set up their streams
	}
	return process.Wait(ctx)
}

func (m *Manager) kill(_ context.Context, _ *rpc.Conn, p killParams) (rpc.Null, error) {
	process, err := m.Find(p.PID)
	if err != nil {
		return rpc.Null{}, err
	}
	name := "SIGTERM"
	if p.Signal != nil {
		name = string(*p.Signal)
	}
	return rpc.Null{}, process.Signal(name)
}

func (m *Manager) envGet(_ context.Context, _ *rpc.Conn, p api.EnvKeyParams) (*string, error) {
	if value, ok := m.env.Get(p.Key); ok {
		return &value, nil
	}
	return nil, nil
}

func (m *Manager) envSet(_ context.Context, _ *rpc.Conn, p api.EnvSetParams) (rpc.Null, error) {
	return rpc.Null{}, m.env.Set(p.Key, p.Value)
}

func (m *Manager) envDelete(_ context.Context, _ *rpc.Conn, p api.EnvKeyParams) (rpc.Null, error) {
	return rpc.Null{}, m.env.Delete(p.Key)
}

func (m *Manager) envToObject(context.Context, *rpc.Conn, struct{}) (map[string]string, error) {
	return m.env.All(), nil
}
