package sandbox

import (
	"cmp"
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/errs"
	"github.com/atollhq/atoll/internal/store"
)

const (
	recoveries    = 8                // at the same time
	attachTimeout = 20 * time.Second // for a shim to answer, on a host that may just have booted
)

// Recover finds the sandboxes of an earlier daemon again: those whose shims
// still run go on, of the others everything is freed. It fails only when the
// store does or ctx ends; whatever was not looked at by then goes on.
func (m *Manager) Recover(ctx context.Context) error {
	rows, err := m.Store.LiveSandboxes(ctx)
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(recoveries)
	known := map[string]bool{}
	for _, row := range rows {
		known[row.ID] = true
		g.Go(func() error { m.recoverOne(ctx, row); return nil })
	}
	_ = g.Wait()
	if err := ctx.Err(); err != nil {
		return err
	}
	m.sweep(ctx, known)
	if err := m.sweepAudit(ctx); err != nil {
		m.Log.Error("remove orphaned audit files", "error", err)
	}
	return nil
}

func (m *Manager) recoverOne(ctx context.Context, row store.Sandbox) {
	log := m.Log.With("sandbox_id", row.ID, "org", row.Org)
	shim, err := m.attach(ctx, row.ID)
	if err != nil && ctx.Err() != nil {
		return // nothing was found out about it
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.StopTimeout)
	defer cancel()
	reason := reasonAfterCrash(row, err)
	switch {
	case err == nil && row.Status == store.Running:
		m.adopt(ctx, row, shim)
		log.Info("sandbox found again")
		return
	case err == nil:
		err = shim.Stop(ctx, reason)
	case !errors.Is(err, errs.NotFound):
		log.Warn("attach to shim", "error", err)
	}
	if err != nil {
		err = m.Launcher.Cleanup(ctx, row.ID)
	}
	if err != nil {
		log.Error("free a lost sandbox", "error", err)
	}
	if err := m.recordStop(ctx, row.ID, reason); err != nil {
		log.Error("record the end of a lost sandbox", "error", err)
	}
	log.Warn("sandbox was lost", "reason", reason)
}

func (m *Manager) attach(ctx context.Context, id string) (Shim, error) {
	ctx, cancel := context.WithTimeout(ctx, attachTimeout)
	defer cancel()
	return m.Launcher.Attach(ctx, id)
}

// reasonAfterCrash is why a sandbox that can't go on has stopped: what was
// recorded when its end began, or what its shim wrote down before it ended.
func reasonAfterCrash(row store.Sandbox, attach error) string {
	switch e, ok := errors.AsType[*errs.Error](attach); {
	case row.Reason != "":
		return row.Reason
	case ok && e.Code == CodeShimEnded:
		return e.Message
	case row.Status == store.Creating:
		return api.StopFailed
	}
	return api.StopCrashed
}

// adopt supervises a sandbox that was found alive. One with the lifetime
// "session" waits a while for a client that takes it over, if it runs. Limits
// don't apply.
func (m *Manager) adopt(ctx context.Context, row store.Sandbox, shim Shim) {
	b := newBox(m, row, shim, m.foundPower(ctx, row, shim))
	if err := b.restoreTime(ctx); err != nil {
		m.Log.Error("record whether a sandbox stands still", "sandbox_id", row.ID, "error", err)
	}
	if b.session() {
		b.orphanUntil = time.Now().Add(m.SessionGrace)
	}
	m.mu.Lock()
	m.work.Add(1)
	m.count(row.Org, 1)
	m.mu.Unlock()
	if !m.add(b) {
		b.die()
		m.release(row.Org)
	}
}

// foundPower is whether a machine runs: its shim knows. One that can't say so
// is believed to be as it was, and resumed if it was paused: that does no harm
// to one that runs.
func (m *Manager) foundPower(ctx context.Context, row store.Sandbox, shim Shim) Power {
	ctx, cancel := context.WithTimeout(ctx, attachTimeout)
	defer cancel()
	status, err := shim.Status(ctx)
	if err == nil {
		return status.Power
	}
	m.Log.Warn("ask a shim whether its machine runs", "sandbox_id", row.ID, "error", err)
	return cmp.Or(Power(row.Power), PowerRunning)
}

// restoreTime gives a sandbox that was found alive what was left of its
// lifetime. The earlier server may have died between what it recorded and what
// the shim did.
func (b *box) restoreTime(ctx context.Context) error {
	if b.row.Power != "" {
		b.life.stop(time.Now())
		b.life.since, b.life.left = b.row.StillSince, b.row.Remaining
	}
	switch {
	case b.state == PowerRunning && b.row.Power != "":
		return b.startTime(ctx)
	case b.state != PowerRunning && string(b.state) != b.row.Power:
		return b.stopTime(ctx, b.state)
	}
	return nil
}

// sweep frees what is on disk and belongs to no live row.
func (m *Manager) sweep(ctx context.Context, known map[string]bool) {
	ids, err := m.Launcher.Leftovers(ctx)
	if err != nil {
		m.Log.Error("list leftovers", "error", err)
	}
	for _, id := range ids {
		if known[id] || !ValidID(id) {
			continue
		}
		if err := m.Launcher.Cleanup(ctx, id); err != nil {
			m.Log.Error("free a leftover", "sandbox_id", id, "error", err)
			continue
		}
		m.Log.Info("leftover freed", "sandbox_id", id)
	}
}
