package sandbox

import (
	"context"
	"sync"
	"time"

	"github.com/atollhq/atoll/api"
)

// SpareSpec describes the sandboxes that are kept started ahead of their
// creation: those that a client gets who asks for no unusual machine.
type SpareSpec struct {
	Count     int // kept ready; 0 keeps none
	Region    string
	MemoryMiB int
}

// spare is a machine that runs and belongs to nobody yet. It has an id, which
// its shim, directory and control group are named after, but no row in the
// store: what a crashed daemon leaves of it is swept up like any leftover.
type spare struct {
	id   string
	shim Shim
}

// spares keeps machines ready. A creation that finds none waits for one that
// is being made, if nobody else does, because that one is ahead of any it
// could start itself.
type spares struct {
	mu      sync.Mutex // guards what follows
	closed  bool
	ready   []*spare
	making  int
	waiters []chan *spare // each of capacity 1; nil is sent when the making failed
}

// fits reports whether a spare can become this sandbox: environment, network
// and secrets come to it late.
func (s SpareSpec) fits(spec Spec) bool {
	return s.Count > 0 && spec.Region == s.Region && spec.MemoryMiB == s.MemoryMiB
}

// takeSpare returns a spare that has become what spec asks for, or nil when
// there is none. Its id is claimed: the caller must unclaim it. A spare that
// fails is freed meanwhile.
func (m *Manager) takeSpare(ctx context.Context, org string, spec Spec) *spare {
	if !m.Spare.fits(spec) {
		return nil
	}
	for {
		s := m.spares.take(ctx)
		if s == nil {
			return nil
		}
		m.claim(s.id)
		err := m.configure(ctx, s, m.personal(org, spec))
		if err == nil {
			return s
		}
		m.unclaim(s.id)
		m.Log.Warn("configure a spare sandbox", "sandbox_id", s.id, "error", err)
		m.work.Go(func() { m.discard(s) })
		if ctx.Err() != nil { // the client has left: it must not use up all spares
			return nil
		}
	}
}

// configureTimeout is how long a spare may take to become a sandbox. It needs
// milliseconds; one that hangs must not hold up a creation.
const configureTimeout = 5 * time.Second

func (m *Manager) configure(ctx context.Context, s *spare, p Personal) error {
	ctx, cancel := context.WithTimeout(ctx, configureTimeout)
	defer cancel()
	return s.shim.Configure(ctx, p)
}

// claim keeps the audit file that a spare opens from being taken for one that
// belongs to nobody, until there is a row.
func (m *Manager) claim(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.claimed[id] = true
}

func (m *Manager) unclaim(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.claimed, id)
}

func (m *Manager) isClaimed(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.claimed[id]
}

func (p *spares) take(ctx context.Context) *spare {
	p.mu.Lock()
	if n := len(p.ready); n > 0 {
		s := p.ready[n-1]
		p.ready = p.ready[:n-1]
		p.mu.Unlock()
		return s
	}
	if p.closed || p.making <= len(p.waiters) {
		p.mu.Unlock()
		return nil
	}
	turn := make(chan *spare, 1)
	p.waiters = append(p.waiters, turn)
	p.mu.Unlock()
	select {
	case s := <-turn:
		return s
	case <-ctx.Done():
		return p.leave(turn)
	}
}

// leave takes a waiter out of the queue. What it was given meanwhile goes
// back.
func (p *spares) leave(turn chan *spare) *spare {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, w := range p.waiters {
		if w == turn {
			p.waiters = append(p.waiters[:i], p.waiters[i+1:]...)
			return nil
		}
	}
	if s := <-turn; s != nil {
		p.ready = append(p.ready, s)
	}
	return nil
}

// made hands a new spare, or nil for a failure, to the first waiter or keeps
// it. It reports whether the spare found a place.
func (p *spares) made(s *spare) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.making--
	if len(p.waiters) > 0 {
		p.waiters[0] <- s
		p.waiters = p.waiters[1:]
		return true
	}
	if p.closed {
		return false
	}
	if s != nil {
		p.ready = append(p.ready, s)
	}
	return true
}

// reserve reports how many spares are to be made, and counts them as being
// made.
func (p *spares) reserve(count int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return 0
	}
	missing := max(0, count-len(p.ready)-p.making)
	p.making += missing
	return missing
}

// close makes the pool refuse spares and returns those it has.
func (p *spares) close() []*spare {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	ready := p.ready
	p.ready = nil
	return ready
}

// Refill starts making the spares that are missing. Failures are logged; the
// next creation tries again.
func (m *Manager) Refill() {
	for range m.spares.reserve(m.Spare.Count) {
		m.mu.Lock()
		closing := m.closing
		if !closing {
			m.work.Add(1)
		}
		m.mu.Unlock()
		if closing {
			m.spares.made(nil)
			continue
		}
		go func() {
			defer m.work.Done()
			m.makeSpare()
		}()
	}
}

func (m *Manager) makeSpare() {
	ctx, cancel := context.WithTimeout(m.ctx, m.StartTimeout)
	defer cancel()
	s, err := m.launchSpare(ctx)
	if err != nil && ctx.Err() == nil {
		m.Log.Warn("make a spare sandbox", "error", err)
	}
	if !m.spares.made(s) && s != nil {
		m.discard(s)
	}
}

func (m *Manager) launchSpare(ctx context.Context) (*spare, error) {
	if err := m.starts.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer m.starts.Release(1)
	if err := m.checkMemory(0); err != nil {
		return nil, err
	}
	id := NewID(m.Spare.Region)
	spec := m.shimSpec(id, m.Spare.MemoryMiB)
	spec.Spare = true
	shim, err := m.Launcher.Launch(ctx, spec)
	if err != nil {
		return nil, err
	}
	return &spare{id: id, shim: shim}, nil
}

// discard frees a spare that nobody gets.
func (m *Manager) discard(s *spare) {
	ctx, cancel := context.WithTimeout(context.Background(), m.StopTimeout)
	defer cancel()
	if err := s.shim.Stop(ctx, api.StopShutdown); err != nil {
		m.Log.Error("free a spare sandbox", "sandbox_id", s.id, "error", err)
	}
}

// dropSpares frees all spares and makes no more.
func (m *Manager) dropSpares() {
	var stopping sync.WaitGroup
	for _, s := range m.spares.close() {
		stopping.Go(func() { m.discard(s) })
	}
	stopping.Wait()
}

// refillDelay keeps the making of new spares out of the way of the call that
// took one: its first command is worth more.
const refillDelay = 20 * time.Millisecond

func (m *Manager) refillSoon() {
	if m.Spare.Count > 0 {
		time.AfterFunc(refillDelay, m.Refill)
	}
}
