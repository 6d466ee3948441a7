// Package gvisor is the driver for machines that are gVisor sandboxes.
//
// A machine is one `runsc run` process and its children: the sentry, which is
// the guest's kernel, and until the agent has answered a gofer, which opens
// the guest's disk file. All of them die with the thread of the shim that started runsc. The root is the
// image's EROFS file, mapped by the sentry, below a file of limited size that
// takes the guest's writes and has no name on the host. The network card is a
// TAP device in a network namespace that has no name either and holds nothing
// else. So a machine leaves only its control group and its directory behind
// when everything is killed, and Destroy frees those.
package gvisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/atollhq/atoll/internal/cgroup"
	"github.com/atollhq/atoll/internal/machine"
	"github.com/atollhq/atoll/internal/machine/process"
)

// Name is the driver's name.
const Name = "gvisor"

// overheadBytes is what the sentry and the gofer need beyond the guest's own
// memory. It is added to the control group's limit.
const overheadBytes = 96 << 20

// defaultMaxPIDs bounds host processes and threads: a guest process costs a
// few of them.
const defaultMaxPIDs = 4096

// Driver starts gVisor sandboxes. It is safe for concurrent use.
type Driver struct {
	runsc string
	log   *slog.Logger
}

// New returns a driver that runs the given runsc binary, which must be built
// without cgo.
func New(runsc string, log *slog.Logger) *Driver {
	return &Driver{runsc: runsc, log: log}
}

// Info describes the driver.
func (d *Driver) Info() machine.Info {
	return machine.Info{Name: Name, Features: machine.Features{Pause: true, Save: true}}
}

// Start makes a sandbox and runs its agent.
func (d *Driver) Start(ctx context.Context, s machine.Spec) (machine.Machine, error) {
	return d.make(ctx, s, func(m *gvisorMachine) error { return m.start(ctx, s, runArgs(s)) })
}

// Restore makes a sandbox that continues from a saved one.
func (d *Driver) Restore(ctx context.Context, s machine.Spec, from machine.Snapshot) (machine.Machine, error) {
	return d.make(ctx, s, func(m *gvisorMachine) error { return m.restore(ctx, s, from) })
}

// make starts a machine in one way or the other, and leaves nothing if it
// fails.
func (d *Driver) make(ctx context.Context, s machine.Spec, start func(*gvisorMachine) error) (machine.Machine, error) {
	m := newMachine(d, s.ID, s.Dir)
	err := checkSpec(s)
	if err == nil {
		err = start(m)
	}
	if err != nil {
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), process.Patience)
		defer cancel()
		err = errors.Join(err, m.Destroy(cleanup))
		if m.link != nil {
			_ = m.link.Close()
		}
		return nil, err
	}
	return m, nil
}

// Reattach finds what is left of a machine. Control group and directory are
// named by id and path alone.
func (d *Driver) Reattach(_ context.Context, st machine.State) (machine.Machine, error) {
	if st.Driver != Name {
		return nil, fmt.Errorf("reattach: state belongs to driver %q", st.Driver)
	}
	m := newMachine(d, st.ID, st.Dir)
	m.Finish(machine.Exit{Reason: machine.ExitCrashed, Detail: "its shim is gone"})
	return m, nil
}

func checkSpec(s machine.Spec) error {
	if s.AttachNIC == nil {
		return errors.New("start: no network card callback")
	}
	for _, path := range []string{s.Dir, s.Image.File, s.Agent} {
		if !filepath.IsAbs(path) {
			return fmt.Errorf("start: %q is not an absolute path", path)
		}
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("start: %w", err)
		}
	}
	return nil
}

func (m *gvisorMachine) limits(s machine.Spec) cgroup.Limits {
	pids := s.MaxPIDs
	if pids == 0 {
		pids = defaultMaxPIDs
	}
	return cgroup.Limits{MemoryBytes: s.MemoryBytes + overheadBytes, CPUs: s.CPUs, PIDs: pids}
}

var (
	_ machine.Driver   = (*Driver)(nil)
	_ machine.Restorer = (*Driver)(nil)
)
