package sandbox_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/sandbox"
)

// disk makes pauses take ten seconds, and counts how many are under way.
type disk struct {
	mu        sync.Mutex
	now, peak int
}

const writing = 10 * time.Second

func (w *world) slowDisk() *disk {
	d := &disk{}
	w.launcher.FailPower = func(_, method string) error {
		if method == "pause" {
			d.count(1)
			defer d.count(-1)
			time.Sleep(writing)
		}
		return nil
	}
	return d
}

func (d *disk) count(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.now += n
	d.peak = max(d.peak, d.now)
}

// busyDisk pauses two sandboxes to disk, which keeps others from it.
func (w *world) busyDisk() {
	w.t.Helper()
	w.slowDisk()
	for range 2 {
		c := w.create(time.Hour)
		c.Close()
		go func() { _, _ = w.Pause(w.t.Context(), org, c.ID(), true) }()
	}
	synctest.Wait()
}

func TestPausesToDiskTakeTurns(t *testing.T) {
	run(t, func(o *sandbox.Options) { o.Starts = 1 }, func(w *world) {
		disk := w.slowDisk()
		clients := make([]*sandbox.Client, 6)
		for i := range clients {
			clients[i] = w.create(time.Hour)
			defer clients[i].Close()
		}
		began := time.Now()
		var pauses sync.WaitGroup
		for _, c := range clients {
			pauses.Go(func() { w.pause(c.ID(), true) })
		}
		synctest.Wait()
		running := 0
		for _, c := range clients {
			if w.info(c.ID()).Power == api.PowerRunning {
				running++
				w.must(w.message(c)) // also where a pause waits
			}
		}
		w.create(time.Hour).Close() // no start waits for a disk
		if took := time.Since(began); running != 4 || took != 0 {
			t.Errorf("%d run, and they and a start were held up for %v", running, took)
		}
		pauses.Wait()
		if took := time.Since(began); disk.peak != 2 || took != 3*writing {
			t.Errorf("%d at once, in %v", disk.peak, took)
		}
		for _, c := range clients {
			w.wantPower(c.ID(), api.PowerSuspended)
		}
	})
}

// One that can't be paused now, because its guest lets a resume wait, keeps no
// turn from others.
func TestPauseThatCanNotBeginHasNoTurn(t *testing.T) {
	run(t, nil, func(w *world) {
		c, other := w.create(time.Hour), w.create(time.Hour)
		c.Close()
		other.Close()
		w.pause(c.ID(), false)
		w.launcher.FailPower = func(_, method string) error {
			if method == "resume" {
				time.Sleep(time.Minute)
			}
			return nil
		}
		go func() { _ = w.Resume(w.t.Context(), org, c.ID()) }()
		synctest.Wait()
		for range 3 {
			go func() { _, _ = w.Pause(w.t.Context(), org, c.ID(), true) }()
		}
		synctest.Wait()
		began := time.Now()
		w.pause(other.ID(), true)
		if took := time.Since(began); took != 0 {
			t.Errorf("it took %v", took)
		}
		time.Sleep(2 * time.Minute)
		w.wantPower(c.ID(), api.PowerSuspended)
	})
}

func TestPauseInMemoryNeedsNoTurn(t *testing.T) {
	run(t, nil, func(w *world) {
		c := w.create(0)
		defer c.Close()
		w.busyDisk()
		w.launcher.FailPower = nil
		began := time.Now()
		w.pause(c.ID(), false)
		w.must(w.message(c))
		if took := time.Since(began); took != 0 {
			t.Errorf("it took %v", took)
		}
	})
}

// Whoever waits for a turn gives up with the call, and holds up nothing that
// happens to the sandbox meanwhile.
func TestPauseWaitsWithoutHoldingAnythingUp(t *testing.T) {
	run(t, nil, func(w *world) {
		c := w.create(time.Hour)
		c.Close()
		w.pause(c.ID(), false)
		w.busyDisk()
		began := time.Now()
		ctx, cancel := context.WithTimeout(w.t.Context(), time.Second)
		defer cancel()
		result := make(chan error, 1)
		go func() {
			_, err := w.Pause(ctx, org, c.ID(), true)
			result <- err
		}()
		synctest.Wait()
		w.must(w.Resume(w.t.Context(), org, c.ID()))
		w.fork(c.ID(), sandbox.ForkSpec{Count: 1})
		if took := time.Since(began); took != 0 {
			t.Errorf("a resume and a fork were held up for %v", took)
		}
		if err := <-result; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error: %v", err)
		}
		time.Sleep(time.Minute)
		w.wantPower(c.ID(), api.PowerRunning)
		w.pause(c.ID(), true) // the turn was given back
		w.wantCalls(c.ID(), "pause", "resume", "fork", "pause to disk")
	})
}

func TestKillOfOneThatWaitsForItsTurn(t *testing.T) {
	run(t, nil, func(w *world) {
		c := w.create(time.Hour)
		c.Close()
		w.busyDisk()
		result := make(chan error, 1)
		go func() {
			_, err := w.Pause(w.t.Context(), org, c.ID(), true)
			result <- err
		}()
		synctest.Wait()
		began := time.Now()
		w.must(w.Kill(w.t.Context(), org, c.ID()))
		wantCode(t, <-result, "SANDBOX_STOPPED")
		w.wantStopped(c.ID(), api.StopKilled)
		if took := time.Since(began); took != 0 {
			t.Errorf("it took %v", took)
		}
	})
}

// A sandbox that becomes idle while the disk is busy is paused when it is its
// turn, and not at all if it is needed meanwhile.
func TestIdlePauseWaitsForItsTurn(t *testing.T) {
	for name, c := range map[string]struct {
		happen func(w *world, c *sandbox.Client)
		paused bool
	}{
		"nothing":   {func(*world, *sandbox.Client) {}, true},
		"a message": {func(w *world, c *sandbox.Client) { w.must(w.message(c)) }, false},
		"computing": {func(w *world, c *sandbox.Client) { w.launcher.Shim(c.ID()).UseCPU(time.Second) }, false},
		"the policy goes": {func(w *world, c *sandbox.Client) {
			_, _, err := w.SetIdle(w.t.Context(), org, c.ID(), sandbox.IdleChange{After: new(time.Duration)})
			w.must(err)
		}, false},
	} {
		for _, late := range []time.Duration{0, 8 * time.Second} { // with samples to come before the turn, and without
			run(t, nil, func(w *world) {
				client := w.createIdle(sandbox.IdlePolicy{After: time.Minute, ToDisk: true})
				defer client.Close()
				time.Sleep(59 * time.Second)
				w.busyDisk() // until 69 s
				time.Sleep(1500*time.Millisecond + late)
				c.happen(w, client)
				time.Sleep(20*time.Second - late)
				want := map[bool]string{true: api.PowerSuspended, false: api.PowerRunning}[c.paused]
				w.wantPower(client.ID(), want)
				if t.Failed() {
					t.Logf("with %s, %v later", name, late)
				}
			})
		}
	}
}

// Many that become idle together are paused one after the other, and none is
// forgotten.
func TestManyIdleOnes(t *testing.T) {
	run(t, nil, func(w *world) {
		disk := w.slowDisk()
		var clients []*sandbox.Client
		for range 20 {
			c := w.createIdle(sandbox.IdlePolicy{After: time.Minute, ToDisk: true})
			defer c.Close()
			clients = append(clients, c)
		}
		time.Sleep(time.Minute + 10*writing + time.Second)
		for _, c := range clients {
			w.wantPower(c.ID(), api.PowerSuspended)
			w.wantCalls(c.ID(), "pause to disk")
		}
		if disk.peak != 2 {
			t.Errorf("%d at once", disk.peak)
		}
	})
}
