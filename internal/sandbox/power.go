package sandbox

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/errs"
	"github.com/atollhq/atoll/internal/machine"
)

// This file holds how a sandbox comes to stand still and goes on again. Every
// such change is made here, by one goroutine at a time, in this order:
//
//	pause:  nothing goes to the agent any more → time stands still, in memory
//	        and in the store → to disk: the clients are sent away → the machine
//	resume: the machine → time goes on → messages go to the agent again
//
// So a daemon that dies on the way leaves a row that says how much of the
// lifetime was left; what the machine does by then, its shim knows.
//
// A pause to disk first waits for its turn, while the sandbox runs on as if
// nothing were to happen. Nobody has one of a turn and the right to change the
// state while waiting for the other.

const (
	pauseTimeout  = 2 * time.Minute // for 4 GiB to reach a slow disk
	resumeTimeout = time.Minute     // waiting for a turn included
	writeGrace    = 2 * time.Second // for what is on its way to the agent
	crashGrace    = time.Second     // for the news that a machine crashed when it was to go on
)

// maxSaves sandboxes are paused to disk at the same time. One alone nearly keeps
// a disk busy, a second fills the gaps while the first is stopped or freed. With
// more, each stands still for longer before it is on disk, and so does whoever
// wants it back meanwhile. Starts have turns of their own: they need the
// processors, and no disk that is busy writing may hold them up.
const maxSaves = 2

// CodeNotByIsolation refuses what the sandbox's isolation can't do.
const CodeNotByIsolation = "NOT_SUPPORTED_BY_ISOLATION"

// power is whether a sandbox's machine runs, and who may change that.
type power struct {
	changing chan struct{} // capacity 1: who puts something in may change the state, until it is out again
	quiet    chan struct{} // capacity 1: a write to the agent has ended while still was set

	still   atomic.Bool  // nothing may be written to the agent; changed with box.mu held
	traffic atomic.Int64 // grows with everything that clients and sandbox say to each other

	// box.mu guards what follows.
	state  Power
	waking *waking // the resume that is under way
}

func (p *power) init(state Power) {
	p.changing, p.quiet, p.state = make(chan struct{}, 1), make(chan struct{}, 1), state
	p.still.Store(state != PowerRunning)
}

// waking is one resume for everybody who needs it.
type waking struct {
	done    chan struct{} // closed when err is set
	err     error
	waiters int                // box.mu guards it
	abandon context.CancelFunc // nobody waits any more; without effect once the machine is being resumed
}

// begin keeps the box from being forgotten until done is called. It fails
// when the sandbox ends.
func (b *box) begin() (done func(), err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ending != nil {
		return nil, errStopped(b.row.ID, b.ending.Reason)
	}
	b.work.Add(1)
	return b.work.Done, nil
}

// hold waits until nobody else changes the state; release lets others.
func (b *box) hold(ctx context.Context) error { return b.enter(ctx, b.changing) }

// enter waits until there is room in a channel that counts those who are at
// something.
func (b *box) enter(ctx context.Context, room chan struct{}) error {
	select {
	case room <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-b.alive.Done():
		return b.whyEnding()
	}
}

func (b *box) release() { <-b.changing }

func (b *box) powerNow() Power {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state
}

// become is the one place where the state changes.
func (b *box) become(p Power, took time.Duration) {
	b.mu.Lock()
	b.state = p
	if p == PowerRunning && b.session() && b.primary == nil {
		b.orphanUntil = time.Now().Add(b.m.SessionGrace)
	}
	b.still.Store(p != PowerRunning)
	b.mu.Unlock()
	b.m.Log.Debug("sandbox power", "sandbox_id", b.row.ID, "org", b.row.Org, "power", p, "took", took)
	b.moved()
	b.reconsiderIdle()
	b.m.Observer.PowerChanged(b.row.ID, b.row.Org, string(p), took)
}

// errBusy: a pause for lack of activity was overtaken by some.
var errBusy = errors.New("there is activity")

// pause lets the machine stand still, to disk or in memory, unless it does
// already. Unless seen is nil, it fails with errBusy when anything has happened
// since that was seen. ctx bounds only the time until it is its turn.
func (b *box) pause(ctx context.Context, toDisk bool, seen *idleness) (Paused, error) {
	done, err := b.begin()
	if err != nil {
		return Paused{}, err
	}
	defer done()
	release, err := b.holdToPause(ctx, toDisk)
	if err != nil {
		return Paused{}, err
	}
	defer release()
	was, goal := b.powerNow(), stillness(toDisk)
	if was == goal || was == PowerSuspended {
		return Paused{}, nil
	}
	began := time.Now()
	if seen != nil && b.computes(seen) || !b.silence(seen) {
		return Paused{}, errBusy
	}
	took, err := b.standStill(goal)
	if err != nil {
		return took, b.goBack(was, err)
	}
	b.become(goal, time.Since(began))
	return took, nil
}

// holdToPause is hold, to disk with a turn. Nobody has a turn who can't use it:
// while others change the state, which may take as long as a guest likes, it is
// given back.
func (b *box) holdToPause(ctx context.Context, toDisk bool) (release func(), err error) {
	if !toDisk {
		return b.release, b.hold(ctx)
	}
	for {
		if err := b.enter(ctx, b.m.saves); err != nil {
			return nil, err
		}
		giveBack := func() { <-b.m.saves }
		select {
		case b.changing <- struct{}{}:
			return func() { b.release(); giveBack() }, nil
		default:
			giveBack()
		}
		if err := b.hold(ctx); err != nil {
			return nil, err
		}
		b.release()
	}
}

func stillness(toDisk bool) Power {
	if toDisk {
		return PowerSuspended
	}
	return PowerPaused
}

// silence lets nothing go to the agent any more, and waits a moment for what
// is on its way. If there was traffic since what was seen, all stays as it is.
//
// Both sides first say what they do and then look at the other: a client that
// finds still unset has counted its message before, so it is seen here.
func (b *box) silence(seen *idleness) bool {
	b.mu.Lock()
	before := b.still.Swap(true)
	overtaken := seen != nil && (b.traffic.Load() != seen.traffic || b.writing())
	if overtaken {
		b.still.Store(before)
	}
	b.mu.Unlock()
	if overtaken {
		return false
	}
	patience := time.NewTimer(writeGrace)
	defer patience.Stop()
	for b.anyWriting() {
		select {
		case <-b.quiet:
		case <-patience.C: // the agent doesn't take it; it will when it runs again, or never would
			return true
		case <-b.alive.Done():
			return true
		}
	}
	return true
}

func (b *box) anyWriting() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.writing()
}

// writing must be called with mu held.
func (b *box) writing() bool {
	for c := range b.clients {
		if c.writing.Load() {
			return true
		}
	}
	return false
}

func (b *box) standStill(goal Power) (Paused, error) {
	ctx, cancel := context.WithTimeout(b.alive, pauseTimeout)
	defer cancel()
	if err := b.stopTime(ctx, goal); err != nil {
		return Paused{}, err
	}
	if goal == PowerSuspended {
		b.sendAway()
	}
	return b.shim.Pause(ctx, goal == PowerSuspended)
}

// stopTime lets the lifetime stand still, and records it together with what
// the machine is about to do.
func (b *box) stopTime(ctx context.Context, as Power) error {
	b.timing.Lock()
	defer b.timing.Unlock()
	b.mu.Lock()
	b.life.stop(time.Now())
	life := b.life
	b.mu.Unlock()
	return b.m.Store.SetStill(ctx, b.row.ID, string(as), life.since, life.left)
}

func (b *box) startTime(ctx context.Context) error {
	b.timing.Lock()
	defer b.timing.Unlock()
	b.mu.Lock()
	b.life.start(time.Now())
	end := b.life.end
	b.mu.Unlock()
	return b.m.Store.SetAwake(ctx, b.row.ID, end)
}

// sendAway disconnects the clients of a machine that goes to disk. Its session
// goes on without them: whoever connects first takes it over.
func (b *box) sendAway() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.primary = nil
	for c := range b.clients {
		c.cancel(endingSuspended)
	}
}

// goBack takes a failed pause back and says why it failed. When the shim
// didn't answer in time the machine may yet come to stand still: asking to
// resume it works in either case. If that fails, too, the sandbox counts as
// paused, and the next message tries again.
func (b *box) goBack(was Power, err error) error {
	if b.alive.Err() != nil {
		return b.explain(err, "PAUSE_FAILED", "the sandbox could not be paused")
	}
	ctx, cancel := context.WithTimeout(b.alive, resumeTimeout)
	defer cancel()
	if was == PowerRunning {
		if rerr := b.goOn(ctx); rerr != nil {
			b.become(PowerPaused, 0)
			err = errors.Join(err, rerr)
		}
	} else if serr := b.stopTime(ctx, was); serr != nil {
		err = errors.Join(err, serr)
	}
	return b.explain(err, "PAUSE_FAILED", "the sandbox could not be paused and goes on as before")
}

// wake returns when the machine runs. All who call it while it doesn't wait
// for the same resume, which goes on as long as one of them does.
func (b *box) wake(ctx context.Context) error {
	for b.still.Load() {
		w, err := b.joinWaking()
		if err != nil {
			return err
		}
		err = b.await(ctx, w)
		b.leaveWaking(w)
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *box) await(ctx context.Context, w *waking) error {
	select {
	case <-w.done:
		return w.err
	case <-ctx.Done():
		return ctx.Err()
	case <-b.alive.Done():
		return b.whyEnding()
	}
}

func (b *box) joinWaking() (*waking, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ending != nil {
		return nil, errStopped(b.row.ID, b.ending.Reason)
	}
	if b.waking == nil {
		ctx, abandon := context.WithCancel(b.alive)
		b.waking = &waking{done: make(chan struct{}), abandon: abandon}
		w := b.waking
		b.work.Go(func() { b.runWaking(ctx, w) })
	}
	b.waking.waiters++
	return b.waking, nil
}

func (b *box) leaveWaking(w *waking) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if w.waiters--; w.waiters == 0 {
		w.abandon()
		if b.waking == w {
			b.waking = nil
		}
	}
}

func (b *box) runWaking(ctx context.Context, w *waking) {
	err := b.resume(ctx)
	b.mu.Lock()
	if b.waking == w {
		b.waking = nil
	}
	b.mu.Unlock()
	w.err = err
	close(w.done)
}

// resume lets the machine go on. ctx bounds only the time until it is its
// turn.
func (b *box) resume(ctx context.Context) error {
	if err := b.hold(ctx); err != nil {
		return err
	}
	defer b.release()
	if b.powerNow() == PowerRunning || ctx.Err() != nil {
		return ctx.Err()
	}
	ctx, cancel := context.WithTimeout(b.alive, resumeTimeout)
	defer cancel()
	err := b.goOn(ctx)
	if err != nil {
		b.m.Log.Error("resume a sandbox", "sandbox_id", b.row.ID, "org", b.row.Org, "error", err)
		b.noticeRunning() // only its agent may not have answered
	}
	return b.explain(err, "RESUME_FAILED", "the sandbox could not be resumed: try again")
}

// goOn resumes the machine. Its memory comes back from disk like that of one
// that starts.
func (b *box) goOn(ctx context.Context) error {
	began := time.Now()
	if b.powerNow() == PowerSuspended {
		turnEnds, err := b.m.guestTurn(ctx, b.row.Org, "resume")
		if err != nil {
			return err
		}
		defer turnEnds()
		if err := b.checkCopies(ctx, 1); err != nil {
			return err
		}
	}
	if err := b.shim.Resume(ctx); err != nil {
		return err
	}
	if err := b.startTime(ctx); err != nil { // it runs all the same; after a crash of the server it would get the time anew
		b.m.Log.Error("record that a sandbox goes on", "sandbox_id", b.row.ID, "error", err)
	}
	b.become(PowerRunning, time.Since(began))
	return nil
}

// explain turns a failure into one for the caller: text that was written for
// one stays, and the end of the sandbox explains everything.
func (b *box) explain(err error, code, text string) error {
	if err == nil {
		return nil
	}
	select {
	case <-b.alive.Done():
		return b.whyEnding()
	default:
	}
	if _, ok := errors.AsType[*errs.Error](err); ok {
		return b.refusedByShim(err)
	}
	select { // a machine that died of it is known to in a moment
	case <-b.alive.Done():
		return b.whyEnding()
	case <-time.After(crashGrace):
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return errs.Wrap(err, errs.Timeout, code, "%s", text)
	}
	return errs.Wrap(err, errs.Unavailable, code, "%s", text)
}

// refusedByShim gives what a driver can't do the code that callers know.
func (b *box) refusedByShim(err error) error {
	switch errs.Public(err).Code {
	case CodeCannotPause:
		return b.m.errNotByIsolation(b.row.Isolation, "pause sandboxes", canPause)
	case CodeCannotFork:
		return b.m.errNotByIsolation(b.row.Isolation, "fork sandboxes", canSave)
	}
	return err
}

// whyEnding says why a sandbox that is no longer alive ends.
func (b *box) whyEnding() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ending == nil { // the manager is about to let it go
		return errShuttingDown()
	}
	return errStopped(b.row.ID, b.ending.Reason)
}

func canPause(f machine.Features) bool { return f.Pause }
func canSave(f machine.Features) bool  { return f.Save }

// errNotByIsolation names the isolations of this server that can, if any.
func (m *Manager) errNotByIsolation(isolation, what string, has func(machine.Features) bool) error {
	var able []string
	for _, name := range slices.Sorted(maps.Keys(m.Features)) {
		if has(m.Features[name]) && name != isolation {
			able = append(able, name)
		}
	}
	hint := "and no other isolation of this server can"
	if len(able) > 0 {
		hint = "create it with " + strings.Join(able, " or ") + " for that"
	}
	return errs.New(errs.Unsupported, CodeNotByIsolation, "the isolation %s can't %s: %s", isolation, what, hint)
}

// can refuses what an isolation lacks the power for.
func (m *Manager) can(isolation, what string, has func(machine.Features) bool) error {
	if has(m.Features[isolation]) {
		return nil
	}
	return m.errNotByIsolation(isolation, what, has)
}

// canStandStill refuses a kind of pause that an isolation can't do.
func (m *Manager) canStandStill(isolation string, toDisk bool) error {
	if toDisk {
		return m.can(isolation, "pause sandboxes to disk", canSave)
	}
	return m.can(isolation, "pause sandboxes", canPause)
}

// Pause lets a sandbox stand still: in memory, or on disk, which gives its
// memory back and disconnects its clients. One that stands still in memory can
// still go to disk. The next message of a client, or a new connection,
// resumes it. A pause to disk waits for its turn as long as ctx lets it.
func (m *Manager) Pause(ctx context.Context, org, id string, toDisk bool) (api.PauseResult, error) {
	b, err := m.live(ctx, org, id)
	if err != nil {
		return api.PauseResult{}, err
	}
	if err := m.canStandStill(b.row.Isolation, toDisk); err != nil {
		return api.PauseResult{}, err
	}
	took, err := b.pause(ctx, toDisk, nil)
	if err != nil {
		return api.PauseResult{}, err
	}
	return api.PauseResult{Power: string(b.powerNow()), Bytes: took.Bytes, StoodStillMS: took.StoodStill.Milliseconds()}, nil
}

// Resume returns when a sandbox runs. It is no error if it did.
func (m *Manager) Resume(ctx context.Context, org, id string) error {
	b, err := m.live(ctx, org, id)
	if err != nil {
		return err
	}
	done, err := b.begin()
	if err != nil {
		return err
	}
	defer done()
	return b.wake(ctx)
}
