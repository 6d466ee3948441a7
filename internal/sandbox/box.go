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
	row  store.Sandbox // as it was when the box was made; StopAt moves on below
	shim Shim

	requests chan string   // reasons to stop, from anyone; holds one, the rest don't matter
	rearm    chan struct{} // the deadline changed; holds one
	ended    chan struct{} // closed by the supervisor once the end is recorded and clients are told
	done     chan struct{} // closed by the supervisor once everything is freed

	extending sync.Mutex // serialises extensions, so that store and memory agree

	mu          sync.Mutex // guards what follows
	stopAt      time.Time  // zero for the lifetime "session"
	orphanUntil time.Time  // set while a session waits for a new primary client
	primary     *Client
	clients     map[*Client]struct{}
	ending      *Ending // set once it ends or is let go
}

func newBox(m *Manager, row store.Sandbox, shim Shim) *box {
	return &box{
		m:        m,
		row:      row,
		shim:     shim,
		requests: make(chan string, 1),
		rearm:    make(chan struct{}, 1),
		ended:    make(chan struct{}),
		done:     make(chan struct{}),
		stopAt:   row.StopAt,
		clients:  map[*Client]struct{}{},
	}
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
	if !b.orphanUntil.IsZero() {
		return b.orphanUntil, api.StopSessionClosed
	}
	return b.stopAt, api.StopTimeout
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

// connect adds a client. The first one of a session is its primary client.
func (b *box) connect() (*Client, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ending != nil {
		return nil, errStopped(b.row.ID, b.ending.Reason)
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
	b.m.work.Done()
	return b.primary == c && b.ending == nil
}

// extend moves the end to the wanted time, or as near as is allowed, and
// never back.
func (b *box) extend(ctx context.Context, want time.Time) (time.Time, error) {
	b.extending.Lock()
	defer b.extending.Unlock()
	now := time.Now()
	b.mu.Lock()
	current := b.stopAt
	b.mu.Unlock()
	if err := b.mayExtend(want, now); err != nil {
		return current, err
	}
	granted := later(current, earlier(want, now.Add(b.m.MaxExtend))).Truncate(time.Millisecond)
	if !granted.After(current) {
		return current, nil
	}
	if err := b.m.Store.SetStopAt(ctx, b.row.ID, granted); err != nil {
		return current, err
	}
	b.mu.Lock()
	b.stopAt = granted
	b.mu.Unlock()
	b.moved()
	return granted, nil
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
