package sandbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/errs"
	"github.com/atollhq/atoll/internal/lifecycle"
	"github.com/atollhq/atoll/internal/store"
)

// ForkSpec is a validated request for children of a sandbox.
type ForkSpec struct {
	Count    int
	Labels   map[string]string // nil: the parent's
	Lifetime *time.Time        // the end, zero for "session"; nil: what is left of the parent's
}

// NewForkSpec validates a request at the time now.
func NewForkSpec(r api.ForkRequest, l Limits, now time.Time) (ForkSpec, error) {
	spec := ForkSpec{Count: 1}
	if r.Count != nil {
		spec.Count = *r.Count
	}
	if spec.Count < 1 || spec.Count > l.Forks {
		return spec, errs.New(errs.Invalid, "FORK_COUNT_OUT_OF_RANGE", "count is %d and must lie between 1 and %d", spec.Count, l.Forks)
	}
	if r.Labels != nil {
		spec.Labels = r.Labels
		if err := CheckLabels(spec.Labels, l.Labels); err != nil {
			return spec, err
		}
	}
	if r.StopAtMS == nil && r.Timeout == "" {
		return spec, nil
	}
	at, err := stopTime(api.SandboxConfig{StopAtMS: r.StopAtMS, Timeout: r.Timeout}, l, now)
	spec.Lifetime = &at
	return spec, err
}

// Fork makes sandboxes that continue from where one stands, which goes on as
// before; one that is on disk is resumed for it. It makes all of them or none.
// Their clients connect later: a child with the lifetime "session" waits for
// its primary client as after a restart of the server.
func (m *Manager) Fork(ctx context.Context, org, id string, spec ForkSpec) ([]api.Sandbox, error) {
	began := time.Now()
	children, err := m.fork(ctx, org, id, spec)
	for range spec.Count {
		m.Observer.SandboxCreated(outcome(err), time.Since(began))
	}
	return children, err
}

func (m *Manager) fork(ctx context.Context, org, id string, spec ForkSpec) (_ []api.Sandbox, err error) {
	parent, err := m.live(ctx, org, id)
	if err != nil {
		return nil, err
	}
	if err := m.can(parent.row.Isolation, "fork sandboxes", canSave); err != nil {
		return nil, err
	}
	if err := m.admit(org, spec.Count); err != nil {
		return nil, err
	}
	var undo lifecycle.Undo
	for range spec.Count {
		undo.Add("release", func(context.Context) error { m.release(org); return nil })
	}
	ctx, cancel := context.WithTimeout(ctx, m.StartTimeout)
	defer cancel()
	defer context.AfterFunc(m.ctx, cancel)()
	defer func() {
		if err != nil {
			err = m.giveUp(ctx, &undo, err)
		}
	}()
	if err := m.checkMemory(0); err != nil {
		return nil, err
	}
	children, err := m.forkAll(ctx, &undo, parent, spec)
	if err != nil {
		return nil, err
	}
	return m.runChildren(ctx, children)
}

// child is a forked sandbox that starts.
type child struct {
	row  store.Sandbox
	shim Shim
	undo lifecycle.Undo
}

// forkAll starts all children, or fails with the first failure and waits for
// the others to give up.
func (m *Manager) forkAll(ctx context.Context, undo *lifecycle.Undo, parent *box, spec ForkSpec) ([]*child, error) {
	fork, err := parent.fork(ctx, spec.Count)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err := fork.Close(); err != nil {
			m.Log.Warn("free a saved sandbox", "sandbox_id", parent.row.ID, "error", err)
		}
	}()
	children := make([]*child, spec.Count)
	g, ctx := errgroup.WithContext(ctx)
	for i := range children {
		c := &child{row: m.childRow(parent, spec)}
		children[i] = c
		undo.Add("end a child", c.undo.Run)
		g.Go(func() error {
			if err := m.startChild(ctx, parent, c, fork); err != nil {
				return nthFailed(err, i+1, spec.Count)
			}
			return nil
		})
	}
	return children, g.Wait()
}

// fork has the parent's shim write the machine down for some children. Nobody
// pauses or resumes it meanwhile.
func (b *box) fork(ctx context.Context, children int) (*Fork, error) {
	done, err := b.begin()
	if err != nil {
		return nil, err
	}
	defer done()
	if err := b.holdInMemory(ctx); err != nil {
		return nil, err
	}
	defer b.release()
	b.traffic.Add(1)
	// Writing a machine down costs the host as much as starting one.
	if err := b.m.starts.Acquire(ctx, 1); err != nil {
		return nil, fmt.Errorf("wait for a turn to fork: %w", err)
	}
	defer b.m.starts.Release(1)
	if err := b.checkFork(ctx, children); err != nil {
		return nil, err
	}
	f, err := b.shim.Fork(ctx)
	if err != nil && ctx.Err() == nil {
		err = b.explain(err, "FORK_FAILED", "the sandbox could not be forked: try again")
	}
	return f, err
}

// shares reports whether children share one copy of the machine's memory, which
// is made with the fork, or have one each, made when they start.
func (b *box) shares() bool { return b.m.Features[b.row.Isolation].Share }

// checkFork refuses a fork that the host lacks memory for, children included.
func (b *box) checkFork(ctx context.Context, children int) error {
	if b.shares() {
		children = 1
	}
	return b.checkCopies(ctx, children)
}

// checkChild refuses one more child. Others may have taken the memory since.
func (b *box) checkChild(ctx context.Context) error {
	if b.shares() {
		return b.m.checkMemory(0)
	}
	return b.checkCopies(ctx, 1)
}

// holdInMemory is hold for a machine that is not on disk, after it resumed it
// if need be.
func (b *box) holdInMemory(ctx context.Context) error {
	for {
		if err := b.hold(ctx); err != nil {
			return err
		}
		if b.powerNow() != PowerSuspended {
			return nil
		}
		b.release()
		if err := b.wake(ctx); err != nil {
			return err
		}
	}
}

// childRow is the parent's row with what a child has of its own.
func (m *Manager) childRow(parent *box, spec ForkSpec) store.Sandbox {
	now := time.Now()
	parent.mu.Lock()
	life, idle := parent.life, parent.idle
	parent.mu.Unlock()
	row := store.Sandbox{
		ID: NewID(parent.row.Region), Org: parent.row.Org, Region: parent.row.Region,
		Labels: maps.Clone(parent.row.Labels), MemoryMiB: parent.row.MemoryMiB, Isolation: parent.row.Isolation,
		CPUs: parent.row.CPUs, DiskBytes: parent.row.DiskBytes, Image: parent.row.Image,
		Created: now.UTC(), ForkedFrom: parent.row.ID, Status: store.Creating,
		StopAt: life.from(now), IdlePause: idle.After, IdleToDisk: idle.ToDisk,
	}
	if spec.Labels != nil {
		row.Labels = maps.Clone(spec.Labels)
	}
	if spec.Lifetime != nil {
		row.StopAt = *spec.Lifetime
	}
	return row
}

func (m *Manager) startChild(ctx context.Context, parent *box, c *child, fork *Fork) error {
	if err := m.starts.Acquire(ctx, 1); err != nil {
		return fmt.Errorf("wait for a turn to start: %w", err)
	}
	defer m.starts.Release(1)
	if err := parent.checkChild(ctx); err != nil {
		return err
	}
	if err := m.record(ctx, &c.undo, c.row); err != nil {
		return err
	}
	s := m.childSpec(c.row, fork)
	defer s.Secrets.Drop()
	var err error
	c.shim, err = m.launchShim(ctx, &c.undo, s)
	return err
}

// childSpec has the parent's machine, whatever the settings are by now, and
// the ceiling as it is now.
func (m *Manager) childSpec(row store.Sandbox, fork *Fork) ShimSpec {
	s := m.shimSpec(row.ID, row.MemoryMiB)
	s.Driver, s.Origin, s.Personal = row.Isolation, &fork.Origin, fork.Personal()
	s.CPUs, s.DiskBytes = cmp.Or(row.CPUs, s.CPUs), cmp.Or(row.DiskBytes, s.DiskBytes)
	s.Image.File = cmp.Or(row.Image, s.Image.File)
	s.Ceiling = m.Ceilings.entriesOf(row.Org)
	return s
}

// nthFailed says which child failed. Those that only gave up because another
// one failed, or because nobody waits, say nothing more.
func nthFailed(err error, n, of int) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	public := errs.Public(err)
	if public.Class == errs.Internal {
		return errs.Wrap(err, errs.Unavailable, "FORK_FAILED", "fork %d of %d did not start, and none was made: try again", n, of)
	}
	return errs.Wrap(err, public.Class, public.Code, "fork %d of %d did not start, and none was made: %s", n, of, public.Message)
}

// runChildren hands all children to their supervisors, after all of them are
// recorded as running at once: a server that dies here leaves all or none.
func (m *Manager) runChildren(ctx context.Context, children []*child) ([]api.Sandbox, error) {
	var ids []string
	for _, c := range children {
		ids = append(ids, c.row.ID)
	}
	if err := m.Store.SetRunning(ctx, ids...); err != nil {
		return nil, err
	}
	var boxes []*box
	var out []api.Sandbox
	for _, c := range children {
		c.row.Status = store.Running
		b := newBox(m, c.row, c.shim, PowerRunning)
		if b.session() {
			b.orphanUntil = time.Now().Add(m.SessionGrace)
		}
		boxes, out = append(boxes, b), append(out, describe(c.row))
	}
	if !m.add(boxes...) {
		for _, b := range boxes {
			b.die()
		}
		return nil, errShuttingDown()
	}
	return out, nil
}
