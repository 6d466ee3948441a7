package sandbox

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/errs"
	"github.com/atollhq/atoll/internal/store"
)

// box is one live sandbox. Its supervisor goroutine alone ends it.
type box struct {
	m    *Manager
	row  store.Sandbox // as it was when the box was made; lifetime, power and idle policy move on below
	shim Shim

	alive context.Context // ends when the sandbox begins to end, or is let go
	die   context.CancelFunc
	work  sync.WaitGroup // what the supervisor waits for: pauses, resumes, the watch for idleness

	requests  chan string   // reasons to stop, from anyone; holds one, the rest don't matter
	rearm     chan struct{} // the deadline changed; holds one
	idleMoved chan struct{} // idle policy or power changed; holds one
	ended     chan struct{} // closed by the supervisor once the end is recorded and clients are told
	done      chan struct{} // closed by the supervisor once everything is freed

	timing sync.Mutex // serialises changes of lifetime and idle policy, so that store and memory agree

	power

	mu          sync.Mutex // guards what follows
	life        lifetime
	idle        IdlePolicy
	orphanUntil time.Time // set while a session waits for a new primary client
	primary     *Client
	clients     map[*Client]struct{}
	ending      *Ending // set once it ends or is let go
}

func newBox(m *Manager, row store.Sandbox, shim Shim, state Power) *box {
	b := &box{
		m:         m,
		row:       row,
		shim:      shim,
		requests:  make(chan string, 1),
		rearm:     make(chan struct{}, 1),
		idleMoved: make(chan struct{}, 1),
		ended:     make(chan struct{}),
		done:      make(chan struct{}),
		life:      lifetime{end: row.StopAt},
		idle:      IdlePolicy{After: row.IdlePause, ToDisk: row.IdleToDisk},
		clients:   map[*Client]struct{}{},
	}
	b.power.init(state)
	b.alive, b.die = context.WithCancel(m.ctx)
	return b
}

func (b *box) session() bool { return b.row.StopAt.IsZero() }

// request asks the supervisor to end the sandbox. The first reason counts.
func (b *box) request(reason string) {
	select {
	case b.requests <- reason:
	default:
	}
}

// supervise watches one sandbox from start to end.
func (b *box) supervise() {
	defer b.m.remove(b)
	defer close(b.done)
	defer b.work.Wait()
	defer b.die()
	timer := time.NewTimer(b.untilDeadline())
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			if reason := b.overdue(); reason != "" {
				b.end(reason, "")
				return
			}
		case exit := <-b.shim.Exited():
			b.end(exitReason(exit), exit.Detail)
			return
		case reason := <-b.requests:
			b.end(reason, "")
			return
		case <-b.rearm:
		case <-b.m.ctx.Done():
			b.disconnect(endingRestart)
			return
		}
		timer.Reset(b.untilDeadline())
	}
}

func exitReason(exit ShimExit) string {
	if exit.Reason == "" {
		return api.StopCrashed
	}
	return exit.Reason
}

// maxNap bounds how long the supervisor trusts its timer: the host's clock
// may be set, or stand still while the host sleeps.
const maxNap = time.Minute

func (b *box) untilDeadline() time.Duration {
	at, _ := b.deadline()
	if at.IsZero() {
		return maxNap
	}
	return min(max(time.Until(at), 0), maxNap)
}

func (b *box) overdue() string {
	at, reason := b.deadline()
	if at.IsZero() || time.Now().Before(at) {
		return ""
	}
	return reason
}

func (b *box) deadline() (at time.Time, reason string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.still.Load() || b.life.still: // on the way there and back, too
		return b.mayStandStillUntil(), api.StopPausedTooLong
	case !b.orphanUntil.IsZero():
		return b.orphanUntil, api.StopSessionClosed
	}
	return b.life.end, api.StopTimeout
}

// mayStandStillUntil is zero where that is not bounded, and while the sandbox is
// on its way there or back, or somebody waits for it. It must be called with mu
// held.
func (b *box) mayStandStillUntil() time.Time {
	if b.m.MaxPaused == 0 || b.state == PowerRunning || !b.life.still || b.waking != nil {
		return time.Time{}
	}
	return b.life.since.Add(b.m.MaxPaused)
}

func (b *box) moved() {
	select {
	case b.rearm <- struct{}{}:
	default:
	}
}

// end records the end, tells the clients and frees everything. It runs in the
// supervisor.
func (b *box) end(reason, detail string) {
	log := b.m.Log.With("sandbox_id", b.row.ID, "org", b.row.Org, "reason", reason)
	ctx, cancel := context.WithTimeout(context.Background(), b.m.StopTimeout)
	defer cancel()
	b.close(endingFor(reason))
	b.die()
	if err := b.m.Store.SetStopping(ctx, b.row.ID, reason, time.Now().UTC()); err != nil {
		log.Error("record the end of a sandbox", "error", err)
	}
	b.disconnect(endingFor(reason))
	close(b.ended)
	b.m.Observer.SandboxStopped(b.row.ID, b.row.Org, reason)
	if err := b.free(ctx, reason); err != nil {
		log.Error("free a sandbox", "error", err) // the next start of the server tries again
		return
	}
	if err := b.m.Store.SetStopped(ctx, b.row.ID); err != nil {
		log.Error("record the end of a sandbox", "error", err)
	}
	log.Info("sandbox stopped", "detail", detail)
}

func (b *box) free(ctx context.Context, reason string) error {
	stopErr := b.shim.Stop(ctx, reason)
	if stopErr == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), b.m.StopTimeout)
	defer cancel()
	if err := b.m.Launcher.Cleanup(ctx, b.row.ID); err != nil {
		return errors.Join(stopErr, err)
	}
	return nil
}

// close lets nobody connect any more.
func (b *box) close(e *Ending) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ending == nil {
		b.ending = e
	}
}

// disconnect tells all clients to go.
func (b *box) disconnect(e *Ending) {
	b.close(e)
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.clients {
		c.cancel(e)
	}
}

// maxClients bounds the connections to one sandbox: each may hold a window of
// unread bytes in the shim and a buffer in the daemon, which no sandbox's
// memory limit covers. It stays below what the link carries.
const maxClients = 256

// errStill: the sandbox stands still and has to be woken first.
var errStill = errors.New("the sandbox stands still")

// connect adds a client. The first one of a session is its primary client.
func (b *box) connect() (*Client, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ending != nil {
		return nil, errStopped(b.row.ID, b.ending.Reason)
	}
	if b.still.Load() {
		return nil, errStill
	}
	if len(b.clients) >= maxClients {
		return nil, errs.New(errs.Exhausted, "CONNECTION_LIMIT_REACHED", "the sandbox has %d connections already, its limit: close one first", maxClients)
	}
	c := &Client{box: b}
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	if b.session() && b.primary == nil {
		b.primary, b.orphanUntil = c, time.Time{}
		b.moved()
	}
	b.clients[c] = struct{}{}
	b.traffic.Add(1)
	b.m.work.Add(1)
	return c, nil
}

// leave removes a client and reports whether the session ends with it.
func (b *box) leave(c *Client) (last bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.clients[c]; !ok {
		return false
	}
	delete(b.clients, c)
	b.traffic.Add(1)
	b.m.work.Done()
	return b.primary == c && b.ending == nil
}

// orphan takes the session from a client that could not wake it, and so must
// not end it.
func (b *box) orphan(c *Client) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.primary == c && b.still.Load() {
		b.primary = nil
	}
}

// extend moves the end to the wanted time, or as near as is allowed, and
// never back. The end of a sandbox that stands still is where it would be if
// it went on now.
func (b *box) extend(ctx context.Context, want time.Time) (time.Time, error) {
	b.timing.Lock()
	defer b.timing.Unlock()
	now := time.Now()
	b.mu.Lock()
	life := b.life
	b.mu.Unlock()
	current := life.from(now)
	if err := b.mayExtend(want, now); err != nil {
		return current, err
	}
	granted := later(current, earlier(want, now.Add(b.m.MaxExtend))).Truncate(time.Millisecond)
	if !granted.After(current) {
		return current, nil
	}
	life.moveTo(granted, now)
	if err := b.keep(ctx, life); err != nil {
		return current, err
	}
	b.mu.Lock()
	b.life = life
	b.mu.Unlock()
	b.moved()
	return granted, nil
}

func (b *box) keep(ctx context.Context, l lifetime) error {
	if l.still {
		return b.m.Store.SetRemaining(ctx, b.row.ID, l.left)
	}
	return b.m.Store.SetStopAt(ctx, b.row.ID, l.end)
}

func (b *box) mayExtend(want, now time.Time) error {
	b.mu.Lock()
	ending := b.ending
	b.mu.Unlock()
	switch {
	case ending != nil:
		return errStopped(b.row.ID, ending.Reason)
	case b.session():
		return errs.New(errs.Conflict, "SESSION_LIFETIME", `the lifetime of this sandbox is "session", it ends with the client that created it: create it with a timeout to extend it`)
	case !want.After(now):
		return badTimeout("stop_at_ms is not a time in the future, in milliseconds since 1970")
	}
	return nil
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
