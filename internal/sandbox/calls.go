package sandbox

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/errs"
	"github.com/atollhq/atoll/internal/store"
)

// This file holds the calls on existing sandboxes. One that belongs to
// another organisation does not exist.

// live finds a live sandbox. When there is none the error says whether it has
// stopped or never was.
func (m *Manager) live(ctx context.Context, org, id string) (*box, error) {
	m.mu.Lock()
	b := m.boxes[id]
	m.mu.Unlock()
	if b != nil && b.row.Org == org {
		return b, nil
	}
	row, err := m.row(ctx, org, id)
	if err != nil {
		return nil, err
	}
	if row.Reason == "" {
		return nil, errNotFound(id) // it is only being created
	}
	return nil, errStopped(id, row.Reason)
}

func (m *Manager) row(ctx context.Context, org, id string) (store.Sandbox, error) {
	if !ValidID(id) {
		return store.Sandbox{}, errNotFound(id)
	}
	row, err := m.Store.Sandbox(ctx, id)
	if errors.Is(err, errs.NotFound) || err == nil && row.Org != org {
		return store.Sandbox{}, errNotFound(id)
	}
	return row, err
}

// Connect returns a new client of a running sandbox. One that stands still is
// resumed.
func (m *Manager) Connect(ctx context.Context, org, id string) (*Client, error) {
	b, err := m.live(ctx, org, id)
	if err != nil {
		return nil, err
	}
	for {
		if err := b.wake(ctx); err != nil {
			return nil, err
		}
		c, err := b.connect()
		if !errors.Is(err, errStill) { // paused again already
			return c, err
		}
	}
}

// Kill ends a sandbox. It returns when the end is recorded and its clients
// are told; freeing goes on. Killing what has stopped is no error.
func (m *Manager) Kill(ctx context.Context, org, id string) error {
	b, err := m.live(ctx, org, id)
	if err != nil {
		if errs.Public(err).Code == "SANDBOX_STOPPED" {
			return nil
		}
		return err
	}
	b.request(api.StopKilled)
	select {
	case <-b.ended:
		return nil
	case <-b.done: // let go before it came to it
		select {
		case <-b.ended:
			return nil
		default:
			return errShuttingDown()
		}
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Extend moves the end of a sandbox with a duration towards the wanted time
// and returns the end that was granted: at most MaxExtend from now, and never
// earlier than it was.
func (m *Manager) Extend(ctx context.Context, org, id string, want time.Time) (time.Time, error) {
	b, err := m.live(ctx, org, id)
	if err != nil {
		return time.Time{}, err
	}
	return b.extend(ctx, want)
}

// MayExtend says why Extend would be refused, or nil. It changes nothing.
func (m *Manager) MayExtend(ctx context.Context, org, id string, want time.Time) error {
	b, err := m.live(ctx, org, id)
	if err != nil {
		return err
	}
	return b.mayExtend(want, time.Now())
}

// Get describes one sandbox, also a stopped one.
func (m *Manager) Get(ctx context.Context, org, id string) (api.Sandbox, error) {
	row, err := m.row(ctx, org, id)
	if err != nil {
		return api.Sandbox{}, err
	}
	return describe(row), nil
}

// Filter selects sandboxes in List.
type Filter struct {
	Labels map[string]string // all must match
	Status string            // api.StatusRunning, api.StatusStopped or empty for both
}

const (
	maxListed     = 2000
	listedStopped = time.Hour // how long stopped sandboxes are listed
)

// List describes the running sandboxes of an organisation and those that
// stopped within the last hour, running ones first, newest first, at most
// 2000.
func (m *Manager) List(ctx context.Context, org string, f Filter) ([]api.Sandbox, error) {
	q := store.SandboxFilter{Org: org, Labels: f.Labels, Limit: maxListed}
	q.Running = f.Status != api.StatusStopped
	if f.Status != api.StatusRunning {
		q.StoppedAfter = time.Now().Add(-listedStopped)
	}
	rows, err := m.Store.Sandboxes(ctx, q)
	if err != nil {
		return nil, err
	}
	out := make([]api.Sandbox, 0, len(rows))
	for _, row := range rows {
		out = append(out, describe(row))
	}
	return out, nil
}

// Purge forgets sandboxes that stopped longer ago than Retention, with their
// audit files.
func (m *Manager) Purge(ctx context.Context) error {
	if _, err := m.Store.PurgeSandboxes(ctx, time.Now().Add(-m.Retention)); err != nil {
		return err
	}
	return m.sweepAudit(ctx)
}

func describe(row store.Sandbox) api.Sandbox {
	sb := api.Sandbox{
		ID:         row.ID,
		CreatedAt:  api.Date{Time: row.Created},
		Region:     row.Region,
		Status:     api.StatusRunning,
		Labels:     row.Labels,
		MemoryMiB:  row.MemoryMiB,
		Isolation:  row.Isolation,
		Timeout:    "session",
		StopReason: row.Reason,

		Power:           cmp.Or(row.Power, api.PowerRunning),
		IdlePause:       formatIdle(row.IdlePause),
		IdlePauseToDisk: row.IdleToDisk && row.IdlePause > 0,
		ForkedFrom:      row.ForkedFrom,
	}
	stopped := row.Status == store.Stopping || row.Status == store.Stopped
	if stopped {
		sb.Status, sb.StoppedAt, sb.Power = api.StatusStopped, &api.Date{Time: row.Stopped}, ""
	}
	if !row.StopAt.IsZero() {
		sb.Timeout, sb.StopAt = "duration", &api.Date{Time: row.StopAt}
	}
	if row.Power != "" && !stopped {
		sb.PausedAt = &api.Date{Time: row.StillSince}
	}
	if sb.StopAt != nil && row.Power != "" && !stopped {
		left := row.Remaining.Milliseconds()
		sb.StopAt, sb.RemainingMS = nil, &left
	}
	return sb
}
