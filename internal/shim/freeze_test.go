package shim

import (
	"testing"
	"time"

	"github.com/atollhq/atoll/internal/shim/wire"
)

// wantIce checks what was frozen, saved and thawed since the last look.
func (r *running) wantIce(want string) {
	r.t.Helper()
	if got := r.guest.ice.melted(); got != want {
		r.t.Errorf("got %q, want %q", got, want)
	}
}

// TestForkIsFrozen: no process of the guest runs in what is saved, and in the
// parent they go on at once.
func TestForkIsFrozen(t *testing.T) {
	r := run(t, nil)
	r.fork()
	r.wantIce("freeze save thaw")
	r.do(wire.Request{Op: wire.OpPause, ToDisk: true}) // goes on once only
	r.wantIce("save")
	r.do(wire.Request{Op: wire.OpResume})
	r.wantIce("thaw") // in case it was frozen
	r.fork()
	r.wantIce("freeze save thaw")
}

func TestFailedForkIsThawed(t *testing.T) {
	r := run(t, nil)
	r.driver.saveFails = errTest
	r.refused(wire.Request{Op: wire.OpFork}, wire.CodeSaveFailed)
	r.wantIce("freeze save thaw")
	r.wantPower(wire.PowerRunning)
	r.driver.saveFails = nil
	r.fork()
	r.wantIce("freeze save thaw")
}

// TestForkOfPausedIsFrozen until the parent is resumed.
func TestForkOfPausedIsFrozen(t *testing.T) {
	r := run(t, nil)
	r.do(wire.Request{Op: wire.OpPause})
	for range 2 {
		r.fork()
		r.wantIce("freeze save")
		r.wantPower(wire.PowerPaused)
	}
	r.do(wire.Request{Op: wire.OpResume})
	r.wantIce("thaw")
	r.environment()
}

// TestAgentRefusesToFreeze: then nothing is saved, and nothing stays frozen.
func TestAgentRefusesToFreeze(t *testing.T) {
	r := run(t, nil)
	r.guest.ice.fails = errTest
	r.refused(wire.Request{Op: wire.OpFork}, wire.CodeSaveFailed)
	r.wantIce("freeze thaw thaw") // the agent's own, and the shim's
	r.wantPower(wire.PowerRunning)
	r.wantNone("forks/*")
	r.guest.ice.fails = nil
	r.fork()
}

// TestAgentDoesNotFreeze in time. It may do so later: it is told not to stay so.
func TestAgentDoesNotFreeze(t *testing.T) {
	r := prepared(t, nil)
	r.shim.iceTimeout = 50 * time.Millisecond
	r.start()
	r.guest.ice.hangs = make(chan struct{})
	r.refused(wire.Request{Op: wire.OpFork}, wire.CodeSaveFailed)
	r.wantIce("")
	r.wantPower(wire.PowerRunning)
	r.wantNone("forks/*")
	close(r.guest.ice.hangs)
	r.environment()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		r.guest.ice.mu.Lock()
		events := len(r.guest.ice.events)
		r.guest.ice.mu.Unlock()
		if events == 2 || time.Now().After(deadline) {
			break
		}
	}
	r.wantIce("freeze thaw")
}
