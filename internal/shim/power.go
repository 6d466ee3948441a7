package shim

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"time"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/link"
	"github.com/atollhq/atoll/internal/machine"
	"github.com/atollhq/atoll/internal/shim/wire"
)

const (
	firstGeneration = 1
	entropySize     = 64 // bytes; the kernel's pool holds 32

	pauseTimeout  = 30 * time.Second
	saveTimeout   = 10 * time.Minute // the memory of a large machine, to a slow disk
	resumeTimeout = 3 * time.Minute  // it is read back
	wakeTimeout   = 10 * time.Second // for the agent's answer after a pause
	iceTimeout    = 10 * time.Second // for its answer when it has stopped the guest's processes, or let them go on
	statsTimeout  = 2 * time.Second

	// maxForks may be open at once: each is a copy of the machine's memory.
	maxForks = 4
)

var (
	errEnding = errors.New("the sandbox is ending")
	errLeft   = errors.New("nobody waits for it any more")
)

// codedError is an error that the daemon acts on or passes on. Its text is
// written for the caller, its cause for the log.
type codedError struct {
	code  wire.Code
	text  string
	cause error // may be nil
}

func (e *codedError) Error() string {
	if e.cause != nil {
		return e.text + ": " + e.cause.Error()
	}
	return e.text
}

func (e *codedError) Unwrap() error { return e.cause }

// operate runs an operation on the machine, one at a time. Its context ends
// with the sandbox. One whose asker has gone before its turn came is not begun:
// who asks next may count on it.
func (s *Shim) operate(asker context.Context, timeout time.Duration, operation func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(s.operations, timeout)
	defer cancel()
	select {
	case s.turn <- struct{}{}:
	case <-asker.Done():
		return errLeft
	case <-s.operations.Done():
		return errEnding
	case <-ctx.Done():
		return fmt.Errorf("await another operation: %w", ctx.Err())
	}
	defer func() { <-s.turn }()
	switch {
	case s.operations.Err() != nil:
		return errEnding
	case asker.Err() != nil:
		return errLeft
	}
	return operation(ctx)
}

// endOperations interrupts the operation under way and lets none begin any
// more. It is idempotent.
func (s *Shim) endOperations() {
	s.ended.Do(func() {
		s.interrupt()
		select {
		case s.turn <- struct{}{}: // and never gives it back
		case <-time.After(freeTimeout):
			s.log.Error("an operation does not end")
		}
	})
}

// pause has the machine stand still, in memory or on disk.
func (s *Shim) pause(asker context.Context, toDisk bool) (took wire.Paused, err error) {
	timeout := pauseTimeout
	if toDisk {
		timeout = saveTimeout
	}
	err = s.operate(asker, timeout, func(ctx context.Context) error {
		if !s.configured() {
			return errUnconfigured
		}
		l, power := s.current()
		switch {
		case power == wire.PowerSuspended:
		case toDisk:
			took, err = s.suspend(ctx, l)
			return err
		case power == wire.PowerRunning:
			return s.standStill(ctx, l)
		}
		return nil
	})
	return took, err
}

func (s *Shim) standStill(ctx context.Context, l *life) error {
	pauser, ok := l.machine.(machine.Pauser)
	if !ok || !s.parts.Driver.Info().Features.Pause {
		return s.lacks(wire.CodeCannotPause, "stand still in memory")
	}
	s.setPower(wire.PowerPaused)
	if err := pauser.Pause(ctx); err != nil {
		err = errors.Join(fmt.Errorf("pause machine: %w", err), pauser.Resume(ctx)) // it may be half-way
		s.setPower(wire.PowerRunning)
		return err
	}
	debug.FreeOSMemory()
	return nil
}

func (s *Shim) lacks(code wire.Code, power string) error {
	return &codedError{code: code, text: fmt.Sprintf("machines of the driver %q can't %s", s.parts.Driver.Info().Name, power)}
}

// suspend writes the machine down and frees it.
func (s *Shim) suspend(ctx context.Context, l *life) (wire.Paused, error) {
	saver := s.saver(l)
	if saver == nil {
		return wire.Paused{}, s.lacks(wire.CodeCannotPause, "be written to disk")
	}
	used := s.cpuTime(ctx)
	_, before := s.current()
	s.setPower(wire.PowerSuspended)
	v, err := s.save(ctx, saver, s.layout.Saved, machine.SaveOptions{})
	if err != nil {
		s.setPower(before)
		return wire.Paused{}, err
	}
	s.mu.Lock()
	s.saved, s.usedBefore = v, used
	s.mu.Unlock()
	s.setLife(nil)
	s.bury(l)
	s.parts.Gateway.Detach()
	debug.FreeOSMemory()
	return wire.Paused{Bytes: v.Bytes, StoodStill: v.StoodStill}, nil
}

// saver returns nil where machines can't be saved.
func (s *Shim) saver(l *life) machine.Saver {
	saver, ok := l.machine.(machine.Saver)
	_, restores := s.parts.Driver.(machine.Restorer)
	if !ok || !restores || !s.parts.Driver.Info().Features.Save {
		return nil
	}
	return saver
}

// save writes a machine into a new directory, which goes again when it fails.
func (s *Shim) save(ctx context.Context, saver machine.Saver, name func(n int) string, o machine.SaveOptions) (*machine.Snapshot, error) {
	s.mu.Lock()
	s.saves++
	o.Dir = name(s.saves)
	s.mu.Unlock()
	err := os.MkdirAll(o.Dir, 0o700)
	if err == nil {
		var snapshot machine.Snapshot
		snapshot, err = saver.Save(ctx, o)
		if err == nil {
			return &snapshot, nil
		}
	}
	s.log.Error("save machine", "error", err)
	return nil, &codedError{
		code: wire.CodeSaveFailed, text: "the sandbox could not be written down, and goes on as before",
		cause: errors.Join(err, os.RemoveAll(o.Dir)),
	}
}

// saveFrozen writes the machine down for others. Where the driver asks for it,
// the guest's processes are stopped by then. In this machine they go on at
// once, whatever became of it all; if it is paused, when it is resumed; in the
// others, when these know who they are.
func (s *Shim) saveFrozen(ctx context.Context, l *life, power wire.Power, saver machine.Saver) (*machine.Snapshot, error) {
	frozen := false
	v, err := s.save(ctx, saver, s.layout.Fork, machine.SaveOptions{Leave: true, Freeze: func(ctx context.Context) error {
		frozen = true // even if nobody says so
		return s.freeze(ctx, l, true)
	}})
	if frozen && power == wire.PowerRunning {
		if err := s.freeze(s.operations, l, false); err != nil && s.operations.Err() == nil {
			s.log.Error("let processes go on", "error", err) // the agent lets them later
		}
	}
	return v, err
}

// freeze has the agent stop the guest's processes, or let them go on.
func (s *Shim) freeze(ctx context.Context, l *life, frozen bool) error {
	ctx, cancel := context.WithTimeout(ctx, s.iceTimeout)
	defer cancel()
	return l.tell(ctx, func(w io.Writer) error { return link.SendFreeze(w, link.Freeze{Frozen: frozen}) })
}

// release frees a saved machine that nobody needs any more.
func (s *Shim) release(v *machine.Snapshot) {
	var err error
	if v.Close != nil {
		err = v.Close()
	}
	if err := errors.Join(err, os.RemoveAll(v.Dir)); err != nil {
		s.log.Error("free saved machine", "error", err)
	}
}

// resume has the machine go on.
func (s *Shim) resume(asker context.Context) error {
	return s.operate(asker, resumeTimeout, func(ctx context.Context) error {
		switch l, power := s.current(); power {
		case wire.PowerPaused:
			return s.goOn(ctx, l)
		case wire.PowerSuspended:
			return s.restore(ctx)
		}
		return nil
	})
}

// goOn wakes a machine that stood still in memory. It runs from then on, also
// when its agent doesn't say so.
func (s *Shim) goOn(ctx context.Context, l *life) error {
	if err := l.machine.(machine.Pauser).Resume(ctx); err != nil {
		return fmt.Errorf("resume machine: %w", err)
	}
	defer s.setPower(wire.PowerRunning)
	ctx, cancel := context.WithTimeout(ctx, wakeTimeout)
	defer cancel()
	return l.wake(ctx, link.Resume{})
}

// restore makes a machine that continues from the saved one. A sandbox that
// can't be restored ends.
func (s *Shim) restore(ctx context.Context) error {
	s.mu.Lock()
	v := s.saved
	s.mu.Unlock()
	l, err := s.continueFrom(ctx, *v, s.generation+1, nil)
	if err != nil {
		select {
		case s.broken <- wire.Exit{Reason: api.StopCrashed, Detail: fmt.Sprintf("it could not be restored: %s", err)}:
		default:
		}
		return err
	}
	s.mu.Lock()
	s.saved = nil
	s.mu.Unlock()
	s.setLife(l)
	s.setPower(wire.PowerRunning)
	s.release(v) // what the machine needs of the files, it has open
	return nil
}

// continueFrom makes a machine from a saved one and tells its agent.
func (s *Shim) continueFrom(ctx context.Context, from machine.Snapshot, generation uint32, as *link.Identity) (*life, error) {
	restorer, ok := s.parts.Driver.(machine.Restorer)
	if !ok {
		return nil, s.lacks(wire.CodeCannotFork, "continue from a saved one")
	}
	if err := os.MkdirAll(s.layout.Machine(), 0o700); err != nil {
		return nil, fmt.Errorf("make machine directory: %w", err)
	}
	m, err := restorer.Restore(ctx, s.machineSpec(), from)
	if err != nil {
		return nil, fmt.Errorf("restore machine: %w", err)
	}
	return s.enliven(ctx, m, generation, func(l *life) error {
		return l.wake(ctx, link.Resume{CutNetwork: true, Identity: as})
	})
}

// wake tells the agent that its machine stood still.
func (l *life) wake(ctx context.Context, r link.Resume) error {
	r.Generation, r.Entropy, r.TimeUnixNs = l.generation, entropy(), time.Now().UnixNano()
	return l.tell(ctx, func(w io.Writer) error { return link.SendResume(w, r) })
}

func entropy() []byte {
	b := make([]byte, entropySize)
	_, _ = rand.Read(b) // never fails
	return b
}

// newMachineID draws what machine-id(5) describes.
func newMachineID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

// fork writes the machine down for others to continue from. The caller calls
// done when they have.
func (s *Shim) fork(asker context.Context) (f wire.Fork, done func(), err error) {
	if !s.beginFork() {
		return f, nil, &codedError{code: wire.CodeTooManyForks, text: fmt.Sprintf("the sandbox is being forked %d times already: wait for one to end", maxForks)}
	}
	var v *machine.Snapshot
	err = s.operate(asker, saveTimeout, func(ctx context.Context) (err error) {
		f.Origin.Generation = s.generation
		v, err = s.forkable(ctx)
		return err
	})
	if err != nil {
		s.endFork()
		return f, nil, err
	}
	f.Origin.SandboxID, f.Origin.Snapshot, f.Origin.Names = s.spec.ID, *v, s.parts.Gateway.Names()
	f.Origin.Image = s.imagePath()
	f.Personal = s.own.personal()
	return f, func() { s.endFork(); s.release(v) }, nil
}

// forkable writes the machine down. What a suspended one is kept in is for its
// own restoration only: it may be changed by that.
func (s *Shim) forkable(ctx context.Context) (*machine.Snapshot, error) {
	if !s.configured() {
		return nil, errUnconfigured
	}
	l, power := s.current()
	if power == wire.PowerSuspended {
		return nil, standsStill(power)
	}
	saver := s.saver(l)
	if saver == nil {
		return nil, s.lacks(wire.CodeCannotFork, "be saved, and so not be forked")
	}
	if s.parts.Room != nil {
		if err := s.parts.Room(); err != nil {
			return nil, fmt.Errorf("make room for a fork: %w", err)
		}
	}
	return s.saveFrozen(ctx, l, power, saver)
}

func standsStill(power wire.Power) error {
	return &codedError{code: wire.CodePaused, text: fmt.Sprintf("the sandbox is %s", power)}
}

func (s *Shim) beginFork() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.forks == maxForks {
		return false
	}
	s.forks++
	return true
}

func (s *Shim) endFork() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forks--
}

// startFork begins as what another sandbox was.
func (s *Shim) startFork(ctx context.Context, from wire.Origin) (*life, error) {
	s.generation = from.Generation + 1
	if err := s.parts.Gateway.ContinueNames(from.Names); err != nil {
		return nil, err
	}
	return s.continueFrom(ctx, from.Snapshot, s.generation, &link.Identity{
		SandboxID: s.spec.ID, ForkedFrom: from.SandboxID, Hostname: s.spec.Hostname, MachineID: newMachineID(),
		Env: s.environment(), ExtraRoots: s.guestRoots(),
	})
}

// current returns the sandbox's life, nil while it has none.
func (s *Shim) current() (*life, wire.Power) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.life, s.status.Power
}

// look returns the sandbox's life, and a channel that is closed when it has
// another or none.
func (s *Shim) look() (*life, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.life, s.changed
}

func (s *Shim) setLife(l *life) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.life = l
	if l != nil {
		s.generation = l.generation
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Shim) setPower(p wire.Power) {
	s.mu.Lock()
	s.status.Power = p
	s.mu.Unlock()
	if err := s.writeStatus(); err != nil {
		s.log.Error("record power", "error", err)
	}
}

// running returns the sandbox's life while it runs.
func (s *Shim) running() (*life, error) {
	l, power := s.current()
	if power != wire.PowerRunning || l == nil {
		return nil, standsStill(power)
	}
	return l, nil
}

// measured is the status with what the machine used.
func (s *Shim) measured() wire.Status {
	ctx, cancel := context.WithTimeout(s.operations, statsTimeout)
	defer cancel()
	now := s.stats(ctx)
	st := s.snapshot()
	st.CPUTime, st.CopyBytes = s.allUsed(now.CPUTime), now.CopyBytes
	return st
}

// cpuTime is what the sandbox's machines have used, as far as it is known.
func (s *Shim) cpuTime(ctx context.Context) time.Duration { return s.allUsed(s.stats(ctx).CPUTime) }

// stats measures the machine, or the saved one if there is none, as far as it
// can be.
func (s *Shim) stats(ctx context.Context) machine.Stats {
	l, _ := s.current()
	if l == nil {
		return s.savedStats()
	}
	if reader, ok := l.machine.(machine.StatsReader); ok {
		if stats, err := reader.Stats(ctx); err == nil {
			return stats
		}
	}
	return machine.Stats{}
}

func (s *Shim) savedStats() machine.Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.saved == nil {
		return machine.Stats{}
	}
	return machine.Stats{CopyBytes: s.saved.Bytes}
}

// allUsed adds what the sandbox's machine has used to what earlier ones had.
func (s *Shim) allUsed(now time.Duration) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used = max(s.used, s.usedBefore+now)
	return s.used
}
