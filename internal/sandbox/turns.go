package sandbox

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Starts take turns: so many at once. What continues from a saved machine takes
// one, too, but its agent is the guest's by then, and may let everybody wait for
// its answer. So all of one organisation's that continue have no more than half
// of the turns, and give each back after a while, although they go on.

// turnPatience is longer than the work takes that a turn is for, reading memory
// from a disk included.
const turnPatience = 15 * time.Second

// shares counts what of each organisation has a share of the turns. The zero
// value is ready.
type shares struct {
	mu   sync.Mutex        // guards the following
	orgs map[string]*share // of those that have or want one
}

type share struct {
	room  chan struct{} // holds one for each that has it
	users int           // guarded by shares.mu: that have it or wait for it
}

// enter waits until fewer than most of an organisation have a share.
func (s *shares) enter(ctx context.Context, org string, most int) (leave func(), err error) {
	room := s.join(org, most)
	select {
	case room <- struct{}{}:
		return func() { <-room; s.part(org) }, nil
	case <-ctx.Done():
		s.part(org)
		return nil, ctx.Err()
	}
}

func (s *shares) join(org string, most int) chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.orgs == nil {
		s.orgs = map[string]*share{}
	}
	if s.orgs[org] == nil {
		s.orgs[org] = &share{room: make(chan struct{}, most)}
	}
	s.orgs[org].users++
	return s.orgs[org].room
}

func (s *shares) part(org string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.orgs[org].users--; s.orgs[org].users == 0 {
		delete(s.orgs, org)
	}
}

// guestTurn waits for the turn of something that may wait for a guest. done
// gives it back, if it is not given back already.
func (m *Manager) guestTurn(ctx context.Context, org, to string) (done func(), err error) {
	leave, err := m.shares.enter(ctx, org, max(1, m.Starts/2))
	if err == nil {
		if err = m.starts.Acquire(ctx, 1); err != nil {
			leave()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("wait for a turn to %s: %w", to, err)
	}
	giveBack := sync.OnceFunc(func() { m.starts.Release(1) })
	late := time.AfterFunc(turnPatience, giveBack)
	return func() {
		late.Stop()
		giveBack()
		leave()
	}, nil
}
