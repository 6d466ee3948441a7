package agent

import (
	"errors"
	"time"

	"github.com/atollhq/atoll/internal/agent/proc"
	"github.com/atollhq/atoll/internal/link"
)

// mostFrozen is after what time without a word from the shim processes go on:
// more than it takes to save a machine, most of which the guest's clock, which
// stands still with the machine, doesn't count.
const mostFrozen = time.Minute

// Freezer stops all processes but the agent, and lets them go on. The agent
// starts processes where it reaches them.
type Freezer interface {
	proc.Group
	// Freeze returns when they have stopped. It is idempotent. When it fails,
	// some may have stopped.
	Freeze() error
	// Thaw lets them go on. It is idempotent.
	Thaw() error
}

// The methods in this file are called with the agent's lock held.

// freeze stops the guest's processes before the machine is saved, or lets them
// go on. Only the session of a configured machine can say so: in a machine that
// continues from a saved one, they go on when it is resumed.
func (s *session) freeze(f link.Freeze) error {
	a := s.agent
	switch {
	case !s.isReady():
		return errors.New("the session has not begun yet")
	case a.opts.Freezer == nil:
		return nil
	case !f.Frozen:
		return a.thaw()
	}
	a.staysFrozen()
	if err := a.opts.Freezer.Freeze(); err != nil {
		return errors.Join(err, a.opts.Freezer.Thaw())
	}
	a.thawLater()
	return nil
}

// thaw lets the guest's processes go on, if they were stopped.
func (a *Agent) thaw() error {
	a.staysFrozen()
	if a.opts.Freezer == nil {
		return nil
	}
	return a.opts.Freezer.Thaw()
}

// thawLater lets processes go on whose shim has forgotten them.
func (a *Agent) thawLater() {
	var late *time.Timer
	late = time.AfterFunc(mostFrozen, func() {
		a.once.Lock()
		defer a.once.Unlock()
		if a.late != late {
			return
		}
		a.log.Warn("the shim doesn't say that processes go on: they do")
		if err := a.thaw(); err != nil {
			a.log.Error("let processes go on", "error", err)
		}
	})
	a.late = late
}

// staysFrozen has processes that were stopped wait for the shim's word, for
// however long.
func (a *Agent) staysFrozen() {
	if a.late != nil {
		a.late.Stop()
		a.late = nil
	}
}
