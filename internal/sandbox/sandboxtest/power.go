package sandboxtest

import (
	"context"
	"slices"
	"time"

	"github.com/atollhq/atoll/internal/errs"
	"github.com/atollhq/atoll/internal/gateway/secret"
	"github.com/atollhq/atoll/internal/machine"
	"github.com/atollhq/atoll/internal/sandbox"
)

// Status implements sandbox.Shim.
func (s *Shim) Status(context.Context) (sandbox.ShimStatus, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead {
		return sandbox.ShimStatus{}, errs.Unavailable
	}
	status := sandbox.ShimStatus{Power: s.power, CPUTime: s.cpu, CopyBytes: s.holds}
	if s.power == sandbox.PowerSuspended {
		status.CopyBytes = written
	}
	return status, nil
}

// written is what a pause to disk writes, in bytes.
const written = 1 << 20

// Hold pretends that the machine has so many bytes in memory. Before, that
// isn't known.
func (s *Shim) Hold(bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holds = bytes
}

// UseCPU pretends that the machine computed.
func (s *Shim) UseCPU(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cpu += d
}

// Calls are the successful calls of Pause, Resume and Fork: "pause", "pause to
// disk", "resume" and "fork".
func (s *Shim) Calls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// OpenForks is how many forks were not closed.
func (s *Shim) OpenForks() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.forks
}

// Pause implements sandbox.Shim. To disk, it ends the streams.
func (s *Shim) Pause(ctx context.Context, toDisk bool) (sandbox.Paused, error) {
	if err := s.mayFail(ctx, "pause"); err != nil {
		return sandbox.Paused{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	call := "pause"
	if toDisk {
		call = "pause to disk"
	}
	if err := s.note(call); err != nil {
		return sandbox.Paused{}, err
	}
	switch {
	case toDisk && s.power != sandbox.PowerSuspended:
		s.power = sandbox.PowerSuspended
		s.closeStreams()
		return sandbox.Paused{Bytes: written, StoodStill: time.Millisecond}, nil
	case s.power == sandbox.PowerRunning:
		s.power = sandbox.PowerPaused
	}
	return sandbox.Paused{}, nil
}

// Resume implements sandbox.Shim.
func (s *Shim) Resume(ctx context.Context) error {
	if err := s.mayFail(ctx, "resume"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.note("resume"); err != nil {
		return err
	}
	s.power = sandbox.PowerRunning
	return nil
}

// Fork implements sandbox.Shim.
func (s *Shim) Fork(ctx context.Context) (*sandbox.Fork, error) {
	if err := s.mayFail(ctx, "fork"); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.power == sandbox.PowerSuspended {
		return nil, errs.New(errs.Precondition, sandbox.CodePaused, "the sandbox is %s", s.power)
	}
	if err := s.note("fork"); err != nil {
		return nil, err
	}
	s.forks++
	return sandbox.NewFork(
		sandbox.Origin{SandboxID: s.Spec.ID, Snapshot: machine.Snapshot{Driver: s.Spec.Driver, Dir: "/forks/1"}, Generation: 1},
		s.personal.personal(), s.endFork,
	), nil
}

func (s *Shim) endFork() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forks--
	return nil
}

// mayFail gives the test its turn, which may take time, and waits as a real
// shim is waited for.
func (s *Shim) mayFail(ctx context.Context, method string) error {
	f := s.launcher.FailPower
	if f == nil {
		return nil
	}
	result := make(chan error, 1)
	go func() { result <- f(s.Spec.ID, method) }()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// note must be called with mu held.
func (s *Shim) note(call string) error {
	if s.dead {
		return errs.Unavailable
	}
	s.calls = append(s.calls, call)
	return nil
}

func (r Received) personal() sandbox.Personal {
	specs := map[string]secret.Spec{}
	for name, spec := range r.Secrets {
		specs[name] = spec
	}
	return sandbox.Personal{Env: r.Env, AllowNet: r.AllowNet, Ceiling: r.Ceiling, Secrets: sandbox.NewSecrets(specs)}
}
