package sandbox_test

import (
	"errors"
	"testing"
	"time"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/sandbox"
)

func pausedForADay(o *sandbox.Options) { o.MaxPaused = 24 * time.Hour }

// wantStoppedAfter checks that a sandbox is stopped for its pause, and when.
func (w *world) wantStoppedAfter(id string, left time.Duration) {
	w.t.Helper()
	time.Sleep(left - time.Second)
	w.wantRunning(id)
	time.Sleep(time.Second)
	w.wantStopped(id, api.StopPausedTooLong)
}

func TestPausedTooLong(t *testing.T) {
	for _, lifetime := range []time.Duration{0, time.Hour} {
		for _, toDisk := range []bool{false, true} {
			run(t, pausedForADay, func(w *world) {
				c := w.create(lifetime)
				since := time.Now()
				w.pause(c.ID(), toDisk)
				if at := w.info(c.ID()).PausedAt; at == nil || !at.Equal(since) {
					t.Errorf("paused at %v, want %v", at, since)
				}
				w.wantStoppedAfter(c.ID(), 24*time.Hour)
				if toDisk {
					wantEnding(t, c, api.PowerSuspended, 1001)
				} else {
					wantEnding(t, c, api.StopPausedTooLong, 1001)
				}
				if sb := w.info(c.ID()); sb.StopReason != api.StopPausedTooLong || sb.PausedAt != nil {
					t.Errorf("got %+v", sb)
				}
				if w.observer.stopped[api.StopPausedTooLong] != 1 {
					t.Errorf("stopped: %v", w.observer.stopped)
				}
			})
		}
	}
}

// A resume begins it anew; a way from memory to disk, a restart of the server
// and a resume that fails do not.
func TestPauseIsCountedFromItsBeginning(t *testing.T) {
	run(t, pausedForADay, func(w *world) {
		c := w.create(100 * time.Hour)
		c.Close()
		w.pause(c.ID(), false)
		time.Sleep(23 * time.Hour)
		w.must(w.Resume(w.t.Context(), org, c.ID()))
		if at := w.info(c.ID()).PausedAt; at != nil {
			t.Errorf("it runs, and is paused since %v", at)
		}
		time.Sleep(time.Hour)
		w.pause(c.ID(), false)
		time.Sleep(6 * time.Hour)
		w.pause(c.ID(), true)
		time.Sleep(6 * time.Hour)
		w.launcher.FailPower = func(string, string) error { return errors.New("no") }
		wantCode(t, w.Resume(w.t.Context(), org, c.ID()), "RESUME_FAILED")
		w.launcher.FailPower = nil
		time.Sleep(6*time.Hour - time.Second) // a second went by until the failure was explained
		w.restart()
		w.wantStoppedAfter(c.ID(), 6*time.Hour)
	})
}

// The server is not there when the time is up.
func TestPausedTooLongMeanwhile(t *testing.T) {
	run(t, pausedForADay, func(w *world) {
		c := w.create(0)
		w.pause(c.ID(), true)
		wantEnding(t, c, api.PowerSuspended, 1001)
		w.must(w.Shutdown(w.t.Context()))
		time.Sleep(100 * time.Hour)
		w.Manager = sandbox.NewManager(w.options)
		w.must(w.Recover(w.t.Context()))
		w.wantStopped(c.ID(), api.StopPausedTooLong)
	})
}

// Whoever needs a sandbox in the last moment gets it, also when its resume
// takes longer than that.
func TestResumedInTheLastMoment(t *testing.T) {
	run(t, pausedForADay, func(w *world) {
		c := w.create(0)
		w.pause(c.ID(), false)
		time.Sleep(24*time.Hour - time.Second)
		w.slow("resume", 10*time.Second)
		w.must(w.message(c))
		w.wantPower(c.ID(), api.PowerRunning)
		w.launcher.FailPower = nil
		time.Sleep(time.Hour)
		w.wantPower(c.ID(), api.PowerRunning)
		c.Close()
		w.wantStopped(c.ID(), api.StopSessionClosed)
	})
}
