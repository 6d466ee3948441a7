package storetest

import (
	"bytes"
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/atollhq/atoll/internal/errs"
	"github.com/atollhq/atoll/internal/store"
)

// Memory is a store without a database, for tests in which time is fake. It
// passes the suite.
type Memory struct {
	mu        sync.Mutex
	orgs      []store.Org
	tokens    []store.Token
	sandboxes map[string]store.Sandbox
}

// NewMemory returns an empty store.
func NewMemory() *Memory { return &Memory{sandboxes: map[string]store.Sandbox{}} }

// CreateOrg implements Store.
func (m *Memory) CreateOrg(_ context.Context, o store.Org) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, have := range m.orgs {
		if have.ID == o.ID || have.Slug == o.Slug {
			return errs.AlreadyExists
		}
	}
	m.orgs = append(m.orgs, o)
	return nil
}

// Org implements Store.
func (m *Memory) Org(_ context.Context, ref string) (store.Org, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, o := range m.orgs {
		if o.ID == ref || o.Slug == ref {
			return o, nil
		}
	}
	return store.Org{}, errs.NotFound
}

// Orgs implements Store.
func (m *Memory) Orgs(context.Context) ([]store.Org, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.orgs), nil
}

// CreateToken implements Store.
func (m *Memory) CreateToken(_ context.Context, t store.Token) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, have := range m.tokens {
		if have.ID == t.ID || bytes.Equal(have.Hash, t.Hash) {
			return errs.AlreadyExists
		}
	}
	m.tokens = append(m.tokens, t)
	return nil
}

// TokenByHash implements Store.
func (m *Memory) TokenByHash(_ context.Context, hash []byte) (store.Token, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, t := range m.tokens {
		if bytes.Equal(t.Hash, hash) {
			return t, nil
		}
	}
	return store.Token{}, errs.NotFound
}

// Tokens implements Store.
func (m *Memory) Tokens(context.Context) ([]store.Token, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.tokens), nil
}

// RevokeToken implements Store.
func (m *Memory) RevokeToken(_ context.Context, id string, now time.Time) error {
	return m.changeToken(id, func(t *store.Token) {
		if t.Revoked.IsZero() {
			t.Revoked = now
		}
	})
}

// TouchToken implements Store.
func (m *Memory) TouchToken(_ context.Context, id string, now time.Time) error {
	return m.changeToken(id, func(t *store.Token) { t.LastUsed = now })
}

func (m *Memory) changeToken(id string, change func(*store.Token)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.tokens {
		if m.tokens[i].ID == id {
			change(&m.tokens[i])
			return nil
		}
	}
	return errs.NotFound
}

// CreateSandbox implements Store.
func (m *Memory) CreateSandbox(_ context.Context, sb store.Sandbox) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.sandboxes[sb.ID]; ok {
		return errs.AlreadyExists
	}
	sb.Labels = maps.Clone(sb.Labels)
	m.sandboxes[sb.ID] = sb
	return nil
}

// change applies a change to a sandbox in one of some states.
func (m *Memory) change(id string, change func(*store.Sandbox), in ...store.Status) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	sb, ok := m.sandboxes[id]
	if !ok || !slices.Contains(in, sb.Status) {
		return errs.NotFound
	}
	change(&sb)
	m.sandboxes[id] = sb
	return nil
}

// SetRunning implements Store.
func (m *Memory) SetRunning(_ context.Context, ids ...string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range ids {
		if m.sandboxes[id].Status != store.Creating {
			return errs.NotFound
		}
	}
	for _, id := range ids {
		sb := m.sandboxes[id]
		sb.Status = store.Running
		m.sandboxes[id] = sb
	}
	return nil
}

// SetStill implements Store.
func (m *Memory) SetStill(_ context.Context, id, power string, since time.Time, remaining time.Duration) error {
	return m.change(id, func(sb *store.Sandbox) { sb.Power, sb.StillSince, sb.Remaining = power, since, remaining }, store.Running)
}

// SetRemaining implements Store.
func (m *Memory) SetRemaining(_ context.Context, id string, remaining time.Duration) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	sb := m.sandboxes[id]
	if sb.Status != store.Running || sb.Power == "" {
		return errs.NotFound
	}
	sb.Remaining = remaining
	m.sandboxes[id] = sb
	return nil
}

// SetAwake implements Store.
func (m *Memory) SetAwake(_ context.Context, id string, stopAt time.Time) error {
	return m.change(id, func(sb *store.Sandbox) {
		sb.Power, sb.StillSince, sb.Remaining, sb.StopAt = "", time.Time{}, 0, stopAt
	}, store.Running)
}

// SetIdle implements Store.
func (m *Memory) SetIdle(_ context.Context, id string, after time.Duration, toDisk bool) error {
	return m.change(id, func(sb *store.Sandbox) { sb.IdlePause, sb.IdleToDisk = after, toDisk }, store.Running)
}

// SetStopAt implements Store.
func (m *Memory) SetStopAt(_ context.Context, id string, at time.Time) error {
	return m.change(id, func(sb *store.Sandbox) { sb.StopAt = at }, store.Running)
}

// SetStopping implements Store.
func (m *Memory) SetStopping(_ context.Context, id, reason string, now time.Time) error {
	return m.change(id, func(sb *store.Sandbox) {
		sb.Status, sb.Reason, sb.Stopped = store.Stopping, reason, now
	}, store.Creating, store.Running)
}

// SetStopped implements Store.
func (m *Memory) SetStopped(_ context.Context, id string) error {
	return m.change(id, func(sb *store.Sandbox) { sb.Status = store.Stopped }, store.Stopping, store.Stopped)
}

// Sandbox implements Store.
func (m *Memory) Sandbox(_ context.Context, id string) (store.Sandbox, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	sb, ok := m.sandboxes[id]
	if !ok {
		return sb, errs.NotFound
	}
	return sb, nil
}

// LiveSandboxes implements Store.
func (m *Memory) LiveSandboxes(context.Context) ([]store.Sandbox, error) {
	return m.selected(func(sb store.Sandbox) bool { return sb.Status != store.Stopped }), nil
}

// Sandboxes implements Store.
func (m *Memory) Sandboxes(_ context.Context, f store.SandboxFilter) ([]store.Sandbox, error) {
	out := m.selected(func(sb store.Sandbox) bool { return matches(f, sb) })
	slices.SortStableFunc(out, func(a, b store.Sandbox) int {
		return cmp.Or(rank(a)-rank(b), b.Created.Compare(a.Created))
	})
	return out[:min(len(out), f.Limit)], nil
}

func rank(sb store.Sandbox) int {
	if sb.Status == store.Running {
		return 0
	}
	return 1
}

func matches(f store.SandboxFilter, sb store.Sandbox) bool {
	for key, want := range f.Labels {
		if got, ok := sb.Labels[key]; !ok || got != want {
			return false
		}
	}
	switch sb.Status {
	case store.Running:
		return sb.Org == f.Org && f.Running
	case store.Stopping, store.Stopped:
		return sb.Org == f.Org && !f.StoppedAfter.IsZero() && sb.Stopped.After(f.StoppedAfter)
	}
	return false
}

func (m *Memory) selected(want func(store.Sandbox) bool) []store.Sandbox {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []store.Sandbox
	for _, sb := range m.sandboxes {
		if want(sb) {
			out = append(out, sb)
		}
	}
	slices.SortFunc(out, func(a, b store.Sandbox) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
	})
	return out
}

// PurgeSandboxes implements Store.
func (m *Memory) PurgeSandboxes(_ context.Context, before time.Time) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	had := len(m.sandboxes)
	maps.DeleteFunc(m.sandboxes, func(_ string, sb store.Sandbox) bool {
		return sb.Status == store.Stopped && sb.Stopped.Before(before)
	})
	return int64(had - len(m.sandboxes)), nil
}
