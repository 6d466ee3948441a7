package sandbox_test

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/sandbox"
)

func (w *world) createIdle(p sandbox.IdlePolicy) *sandbox.Client {
	w.t.Helper()
	c, err := w.Create(w.t.Context(), org, sandbox.Spec{Region: "ord", MemoryMiB: 1280, Idle: p})
	w.must(err)
	return c
}

// wantIdleAfter checks that a sandbox runs until it was idle long enough, and
// is paused soon after.
func (w *world) wantIdleAfter(id string, after time.Duration, power string) {
	w.t.Helper()
	time.Sleep(after - time.Second)
	w.wantPower(id, api.PowerRunning)
	time.Sleep(after/5 + 3*time.Second)
	w.wantPower(id, power)
}

func TestIdleSandboxIsPaused(t *testing.T) {
	run(t, nil, func(w *world) {
		c := w.createIdle(sandbox.IdlePolicy{After: 10 * time.Second})
		w.wantIdleAfter(c.ID(), 10*time.Second, api.PowerPaused)
		if sb := w.info(c.ID()); sb.IdlePause != "10s" || sb.IdlePauseToDisk {
			t.Errorf("got %+v", sb)
		}
		time.Sleep(48 * time.Hour)
		w.wantPower(c.ID(), api.PowerPaused)
		w.must(w.message(c))
		w.wantIdleAfter(c.ID(), 10*time.Second, api.PowerPaused)
		w.wantCalls(c.ID(), "pause", "resume", "pause")
		c.Close()
	})
}

func TestIdleSandboxGoesToDisk(t *testing.T) {
	run(t, nil, func(w *world) {
		c := w.createIdle(sandbox.IdlePolicy{After: time.Minute, ToDisk: true})
		w.wantIdleAfter(c.ID(), time.Minute, api.PowerSuspended)
		wantEnding(t, c, api.PowerSuspended, 1001)
		w.restart()
		w.wantPower(c.ID(), api.PowerSuspended)
		heir, err := w.Connect(w.t.Context(), org, c.ID())
		w.must(err)
		w.wantIdleAfter(c.ID(), time.Minute, api.PowerSuspended)
		heir.Close()
		w.wantRunning(c.ID())
	})
}

func TestActivityKeepsItAwake(t *testing.T) {
	run(t, nil, func(w *world) {
		c := w.createIdle(sandbox.IdlePolicy{After: time.Minute})
		defer c.Close()
		shim := w.launcher.Shim(c.ID())
		for name, act := range map[string]func(){
			"from the client": func() { w.must(w.message(c)) },
			"to the client":   c.Sent,
			"computing":       func() { shim.UseCPU(30 * time.Second) },
		} {
			for range 20 {
				time.Sleep(30 * time.Second)
				act()
			}
			synctest.Wait()
			if got := w.info(c.ID()).Power; got != api.PowerRunning {
				t.Errorf("%s: it is %s", name, got)
			}
		}
		w.wantIdleAfter(c.ID(), time.Minute, api.PowerPaused)
	})
}

func TestIdlePolicyIsReplaced(t *testing.T) {
	run(t, nil, func(w *world) {
		c := w.create(0)
		defer func() { c.Close() }()
		set := func(after time.Duration, want string) {
			t.Helper()
			got, _, err := w.SetIdle(w.t.Context(), org, c.ID(), sandbox.IdleChange{After: &after})
			w.must(err)
			if got != want || w.info(c.ID()).IdlePause != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
		time.Sleep(time.Hour)
		w.wantPower(c.ID(), api.PowerRunning)
		set(time.Minute, "1m")
		time.Sleep(30 * time.Second)
		set(2*time.Minute, "2m") // begins anew
		w.wantIdleAfter(c.ID(), 2*time.Minute, api.PowerPaused)
		set(0, "") // does not resume
		w.wantPower(c.ID(), api.PowerPaused)
		w.must(w.message(c))
		time.Sleep(time.Hour)
		w.wantPower(c.ID(), api.PowerRunning)
		set(time.Minute, "1m")
		go func() { <-c.Context().Done(); c.Close() }()
		w.restart()
		heir, err := w.Connect(w.t.Context(), org, c.ID())
		w.must(err)
		c = heir
		w.wantIdleAfter(c.ID(), time.Minute, api.PowerPaused)
	})
}

// An idle pause that fails is tried again when it is due again.
func TestFailedIdlePause(t *testing.T) {
	run(t, nil, func(w *world) {
		var tries atomic.Int32
		w.launcher.FailPower = func(_, method string) error {
			if method == "pause" {
				if tries.Add(1) <= 3 {
					return errors.New("no")
				}
			}
			return nil
		}
		c := w.createIdle(sandbox.IdlePolicy{After: time.Minute})
		defer c.Close()
		time.Sleep(3*time.Minute + 20*time.Second)
		w.wantPower(c.ID(), api.PowerRunning)
		if n := tries.Load(); n != 3 {
			t.Errorf("tried %d times in three minutes", n)
		}
		time.Sleep(time.Minute + 10*time.Second)
		w.wantPower(c.ID(), api.PowerPaused)
	})
}
