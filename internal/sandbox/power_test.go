package sandbox_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/errs"
	"github.com/atollhq/atoll/internal/link"
	"github.com/atollhq/atoll/internal/sandbox"
)

func (w *world) pause(id string, toDisk bool) {
	w.t.Helper()
	_, err := w.Pause(w.t.Context(), org, id, toDisk)
	w.must(err)
}

func (w *world) info(id string) api.Sandbox {
	w.t.Helper()
	sb, err := w.Get(w.t.Context(), org, id)
	w.must(err)
	return sb
}

// wantPower checks a sandbox as it is listed, and its shim.
func (w *world) wantPower(id, power string) {
	w.t.Helper()
	synctest.Wait()
	w.wantRunning(id) // paused is not stopped
	status, err := w.launcher.Shim(id).Status(w.t.Context())
	w.must(err)
	if got := w.info(id).Power; got != power || string(status.Power) != power {
		w.t.Errorf("the sandbox is listed as %s and its machine is %s, want %s", got, status.Power, power)
	}
}

func (w *world) wantCalls(id string, calls ...string) {
	w.t.Helper()
	if diff := cmp.Diff(calls, w.launcher.Shim(id).Calls()); diff != "" {
		w.t.Errorf("calls of the shim: %s", diff)
	}
}

// slow makes one of the shims' methods take time.
func (w *world) slow(method string, d time.Duration) {
	w.launcher.FailPower = func(_, m string) error {
		if m == method {
			time.Sleep(d)
		}
		return nil
	}
}

// message is what a client's message does.
func (w *world) message(c *sandbox.Client) error {
	err := c.Enter(w.t.Context())
	if err == nil {
		c.Leave()
	}
	return err
}

func TestPauseInMemoryKeepsClients(t *testing.T) {
	run(t, nil, func(w *world) {
		c := w.create(0)
		defer c.Close()
		for range 2 {
			got, err := w.Pause(w.t.Context(), org, c.ID(), false)
			w.must(err)
			if got.Power != api.PowerPaused || got.Bytes != 0 {
				t.Errorf("got %+v", got)
			}
		}
		time.Sleep(48 * time.Hour)
		w.wantPower(c.ID(), api.PowerPaused)
		w.must(w.message(c))
		w.must(w.message(c))
		w.must(w.Resume(w.t.Context(), org, c.ID()))
		w.wantPower(c.ID(), api.PowerRunning)
		w.wantCalls(c.ID(), "pause", "resume")
		if diff := cmp.Diff([]string{"paused", "running"}, w.observer.powers); diff != "" {
			t.Errorf("observed: %s", diff)
		}
	})
}

func TestPauseToDiskSendsClientsAway(t *testing.T) {
	run(t, nil, func(w *world) {
		c := w.create(0)
		second, err := w.Connect(w.t.Context(), org, c.ID())
		w.must(err)
		got, err := w.Pause(w.t.Context(), org, c.ID(), true)
		w.must(err)
		if got.Power != api.PowerSuspended || got.Bytes != 1<<20 || got.StoodStillMS != 1 {
			t.Errorf("got %+v", got)
		}
		wantEnding(t, c, api.PowerSuspended, 1001)
		wantEnding(t, second, api.PowerSuspended, 1001)
		w.pause(c.ID(), false) // it stands still already
		time.Sleep(48 * time.Hour)
		w.wantPower(c.ID(), api.PowerSuspended)

		heir, err := w.Connect(w.t.Context(), org, c.ID()) // takes the session over
		w.must(err)
		w.wantPower(c.ID(), api.PowerRunning)
		time.Sleep(time.Hour)
		w.wantRunning(c.ID())
		heir.Close()
		w.wantStopped(c.ID(), api.StopSessionClosed)
	})
}

func TestPausedInMemoryGoesToDisk(t *testing.T) {
	run(t, nil, func(w *world) {
		c := w.create(time.Hour)
		w.pause(c.ID(), false)
		w.pause(c.ID(), true)
		wantEnding(t, c, api.PowerSuspended, 1001)
		w.wantPower(c.ID(), api.PowerSuspended)
		w.wantCalls(c.ID(), "pause", "pause to disk")
	})
}

func TestResumedSessionWaitsForAClient(t *testing.T) {
	run(t, nil, func(w *world) {
		c := w.create(0)
		w.pause(c.ID(), true)
		wantEnding(t, c, api.PowerSuspended, 1001)
		w.must(w.Resume(w.t.Context(), org, c.ID()))
		time.Sleep(59 * time.Second)
		w.wantPower(c.ID(), api.PowerRunning)
		time.Sleep(2 * time.Second)
		w.wantStopped(c.ID(), api.StopSessionClosed)
	})
}

// A primary client that leaves by itself ends its session, paused or not.
func TestPrimaryClientLeavesAPausedSession(t *testing.T) {
	run(t, nil, func(w *world) {
		c := w.create(0)
		w.pause(c.ID(), false)
		c.Close()
		w.wantStopped(c.ID(), api.StopSessionClosed)
	})
}

func TestLifetimeStandsStill(t *testing.T) {
	for _, restart := range []bool{false, true} {
		for _, toDisk := range []bool{false, true} {
			run(t, nil, func(w *world) {
				c := w.create(10 * time.Minute)
				c.Close()
				time.Sleep(4 * time.Minute)
				w.pause(c.ID(), toDisk)
				time.Sleep(2 * time.Hour)
				if restart {
					w.restart()
					time.Sleep(2 * time.Hour)
				}
				sb := w.info(c.ID())
				if sb.StopAt != nil || sb.Timeout != "duration" || sb.RemainingMS == nil || *sb.RemainingMS != (6*time.Minute).Milliseconds() {
					t.Errorf("got %+v", sb)
				}
				w.must(w.Resume(w.t.Context(), org, c.ID()))
				sb = w.info(c.ID())
				if sb.RemainingMS != nil || sb.StopAt == nil || !sb.StopAt.Equal(time.Now().Add(6*time.Minute)) {
					t.Errorf("got %+v", sb)
				}
				time.Sleep(6*time.Minute - time.Second)
				w.wantPower(c.ID(), api.PowerRunning)
				time.Sleep(time.Second)
				w.wantStopped(c.ID(), api.StopTimeout)
			})
		}
	}
}

func TestExtendDoesNotResume(t *testing.T) {
	run(t, nil, func(w *world) {
		c := w.create(10 * time.Minute)
		c.Close()
		w.pause(c.ID(), false)
		time.Sleep(time.Hour)
		start := time.Now()
		for _, step := range []struct{ ask, want time.Duration }{
			{20 * time.Minute, 20 * time.Minute}, {5 * time.Minute, 20 * time.Minute}, {2 * time.Hour, 30 * time.Minute},
		} {
			got, err := w.Extend(w.t.Context(), org, c.ID(), start.Add(step.ask))
			w.must(err)
			if !got.Equal(start.Add(step.want)) {
				t.Errorf("asked for %v, got %v, want %v", step.ask, got.Sub(start), step.want)
			}
		}
		_, err := w.Network(w.t.Context(), org, c.ID())
		w.must(err)
		_, err = w.SetNetwork(w.t.Context(), org, c.ID(), &[]string{})
		w.must(err)
		w.wantPower(c.ID(), api.PowerPaused)
		w.restart()
		w.must(w.Resume(w.t.Context(), org, c.ID()))
		time.Sleep(29 * time.Minute)
		w.wantRunning(c.ID())
		time.Sleep(time.Minute)
		w.wantStopped(c.ID(), api.StopTimeout)
	})
}

// TestRestartInTheMiddle: what the shim says counts, and no lifetime gets lost.
func TestRestartInTheMiddle(t *testing.T) {
	run(t, nil, func(w *world) {
		running, paused, session := w.create(10*time.Minute), w.create(10*time.Minute), w.create(0)
		running.Close()
		paused.Close()
		go func() { <-session.Context().Done(); session.Close() }()
		w.pause(session.ID(), false)
		w.must(w.Shutdown(w.t.Context()))
		w.must(w.store.SetStill(w.t.Context(), running.ID(), "paused", time.Now(), 5*time.Minute)) // and died before the shim did
		_, err := w.launcher.Shim(paused.ID()).Pause(w.t.Context(), false)                         // unrecorded
		w.must(err)
		time.Sleep(time.Minute)
		w.Manager = sandbox.NewManager(w.options)
		w.must(w.Recover(w.t.Context()))

		w.wantPower(running.ID(), api.PowerRunning)
		w.wantPower(paused.ID(), api.PowerPaused)
		time.Sleep(5*time.Minute - time.Second)
		w.wantRunning(running.ID())
		time.Sleep(time.Second)
		w.wantStopped(running.ID(), api.StopTimeout)
		time.Sleep(time.Hour)
		w.wantPower(paused.ID(), api.PowerPaused)
		if left := w.info(paused.ID()).RemainingMS; left == nil || *left != (9*time.Minute).Milliseconds() {
			t.Errorf("left: %v", left)
		}
		w.wantPower(session.ID(), api.PowerPaused) // nobody has connected for an hour
		heir, err := w.Connect(w.t.Context(), org, session.ID())
		w.must(err)
		heir.Close()
		w.wantStopped(session.ID(), api.StopSessionClosed)
	})
}

func TestKillOfAPausedSandbox(t *testing.T) {
	for _, toDisk := range []bool{false, true} {
		run(t, nil, func(w *world) {
			c := w.create(time.Hour)
			c.Close()
			w.pause(c.ID(), toDisk)
			w.must(w.Kill(w.t.Context(), org, c.ID()))
			w.wantStopped(c.ID(), api.StopKilled)
			_, err := w.Pause(w.t.Context(), org, c.ID(), toDisk)
			wantCode(t, err, "SANDBOX_STOPPED")
			wantCode(t, w.Resume(w.t.Context(), org, c.ID()), "SANDBOX_STOPPED")
			_, err = w.Connect(w.t.Context(), org, c.ID())
			wantCode(t, err, "SANDBOX_STOPPED")
			if sb := w.info(c.ID()); sb.Power != "" || sb.RemainingMS != nil {
				t.Errorf("got %+v", sb)
			}
		})
	}
}

func TestUnknownAndForeignOnesAreNotPaused(t *testing.T) {
	run(t, nil, func(w *world) {
		c := w.create(time.Hour)
		defer c.Close()
		for _, who := range []struct{ org, id string }{{org, sandbox.NewID("ord")}, {"org_2", c.ID()}} {
			_, err := w.Pause(w.t.Context(), who.org, who.id, false)
			wantCode(t, err, "SANDBOX_NOT_FOUND")
			wantCode(t, w.Resume(w.t.Context(), who.org, who.id), "SANDBOX_NOT_FOUND")
			_, err = w.Fork(w.t.Context(), who.org, who.id, sandbox.ForkSpec{Count: 1})
			wantCode(t, err, "SANDBOX_NOT_FOUND")
			_, _, err = w.SetIdle(w.t.Context(), who.org, who.id, sandbox.IdleChange{})
			wantCode(t, err, "SANDBOX_NOT_FOUND")
		}
		w.wantPower(c.ID(), api.PowerRunning)
	})
}

func TestKillOvertakesPauseAndResume(t *testing.T) {
	for _, method := range []string{"pause", "resume"} {
		run(t, nil, func(w *world) {
			c := w.create(0)
			defer c.Close()
			w.slow(method, time.Minute)
			result := make(chan error, 1)
			go func() {
				_, err := w.Pause(w.t.Context(), org, c.ID(), false)
				if err == nil {
					err = w.Resume(w.t.Context(), org, c.ID())
				}
				result <- err
			}()
			time.Sleep(time.Second)
			w.must(w.Kill(w.t.Context(), org, c.ID()))
			wantCode(t, <-result, "SANDBOX_STOPPED")
			w.wantStopped(c.ID(), api.StopKilled)
		})
	}
}

func TestShutdownOvertakesAPause(t *testing.T) {
	run(t, nil, func(w *world) {
		c := w.create(10 * time.Minute)
		c.Close()
		w.slow("pause", time.Minute)
		result := make(chan error, 1)
		go func() {
			_, err := w.Pause(w.t.Context(), org, c.ID(), false)
			result <- err
		}()
		time.Sleep(time.Second)
		w.restart()
		wantCode(t, <-result, "SERVER_STOPPING")
		w.wantPower(c.ID(), api.PowerRunning) // as its shim says
	})
}

// A message that comes while the machine is being paused is not lost: it
// waits, and resumes.
func TestMessageOvertakesAPause(t *testing.T) {
	run(t, nil, func(w *world) {
		c := w.create(0)
		defer c.Close()
		w.slow("pause", time.Second)
		paused := make(chan error, 1)
		go func() {
			_, err := w.Pause(w.t.Context(), org, c.ID(), false)
			paused <- err
		}()
		time.Sleep(500 * time.Millisecond)
		w.must(w.message(c))
		w.must(<-paused)
		w.wantPower(c.ID(), api.PowerRunning)
		w.wantCalls(c.ID(), "pause", "resume")
	})
}

// A client that a pause to disk sends away does not resume what it was waiting
// for.
func TestWhoeverGivesUpResumesNothing(t *testing.T) {
	run(t, nil, func(w *world) {
		c := w.create(time.Hour)
		defer c.Close()
		w.slow("pause", time.Second)
		go func() {
			time.Sleep(500 * time.Millisecond)
			ctx, cancel := context.WithTimeout(w.t.Context(), 100*time.Millisecond)
			defer cancel()
			if err := c.Enter(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("enter: %v", err)
			}
		}()
		w.pause(c.ID(), true)
		w.wantPower(c.ID(), api.PowerSuspended)
		w.wantCalls(c.ID(), "pause to disk")
	})
}

// What is on its way when a pause begins gets through, or is given up after a
// moment.
func TestPauseWaitsForWrites(t *testing.T) {
	run(t, nil, func(w *world) {
		c := w.create(0)
		defer c.Close()
		for _, takes := range []time.Duration{time.Second, time.Hour} {
			w.must(c.Enter(w.t.Context()))
			timer := time.AfterFunc(takes, c.Leave)
			began := time.Now()
			w.pause(c.ID(), false)
			if got, want := time.Since(began), min(takes, 2*time.Second); got != want {
				t.Errorf("a write of %v held up the pause for %v", takes, got)
			}
			timer.Stop()
			c.Leave()
			w.must(w.Resume(w.t.Context(), org, c.ID()))
		}
	})
}

func TestManyShareOneResume(t *testing.T) {
	run(t, nil, func(w *world) {
		c := w.create(0)
		w.pause(c.ID(), false)
		w.slow("resume", time.Second)
		var all sync.WaitGroup
		for i := range 20 {
			all.Go(func() {
				switch i % 3 {
				case 0:
					ctx, cancel := context.WithTimeout(w.t.Context(), time.Millisecond) // the others go on without it
					defer cancel()
					_ = c.Enter(ctx)
				case 1:
					w.must(w.Resume(w.t.Context(), org, c.ID()))
				case 2:
					other, err := w.Connect(w.t.Context(), org, c.ID())
					w.must(err)
					other.Close()
				}
			})
		}
		all.Wait()
		w.wantCalls(c.ID(), "pause", "resume")
		c.Close()
	})
}

func TestFailedResume(t *testing.T) {
	run(t, nil, func(w *world) {
		c := w.create(0)
		w.pause(c.ID(), false)
		w.launcher.FailPower = func(string, string) error { return errors.New("no") }
		wantCode(t, w.message(c), "RESUME_FAILED")
		c.Close() // as the relay does; the session stays
		w.wantPower(c.ID(), api.PowerPaused)
		wantCode(t, w.Resume(w.t.Context(), org, c.ID()), "RESUME_FAILED")

		w.launcher.FailPower = nil
		heir, err := w.Connect(w.t.Context(), org, c.ID())
		w.must(err)
		w.wantPower(c.ID(), api.PowerRunning)
		heir.Close()
		w.wantStopped(c.ID(), api.StopSessionClosed)
	})
}

func TestCrashWhileResuming(t *testing.T) {
	run(t, nil, func(w *world) {
		c := w.create(0)
		w.pause(c.ID(), false)
		w.launcher.FailPower = func(id, _ string) error {
			w.launcher.Shim(id).Crash(api.StopCrashed)
			return errors.New("it crashed")
		}
		wantCode(t, w.message(c), "SANDBOX_STOPPED")
		w.wantStopped(c.ID(), api.StopCrashed)
		wantEnding(t, c, api.StopCrashed, 1011)
	})
}

func TestResumeHasADeadline(t *testing.T) {
	run(t, nil, func(w *world) {
		c := w.create(time.Hour)
		defer c.Close()
		w.pause(c.ID(), false)
		w.slow("resume", time.Hour)
		began := time.Now()
		err := w.message(c)
		wantCode(t, err, "RESUME_FAILED")
		if !errors.Is(err, errs.Timeout) || time.Since(began) > 2*time.Minute {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

func TestFailedPause(t *testing.T) {
	run(t, nil, func(w *world) {
		c := w.create(10 * time.Minute)
		defer c.Close()
		w.launcher.FailPower = func(_, method string) error {
			if method == "pause" {
				return errors.New("no")
			}
			return nil
		}
		_, err := w.Pause(w.t.Context(), org, c.ID(), false)
		wantCode(t, err, "PAUSE_FAILED")
		w.wantPower(c.ID(), api.PowerRunning)
		w.must(w.message(c))

		// If it can't be made sure that the machine runs, the next message tries.
		w.launcher.FailPower = func(string, string) error { return errors.New("no") }
		_, err = w.Pause(w.t.Context(), org, c.ID(), false)
		wantCode(t, err, "PAUSE_FAILED")
		w.launcher.FailPower = nil
		w.must(w.message(c))
		w.wantPower(c.ID(), api.PowerRunning)
		w.wantCalls(c.ID(), "resume", "resume")

		// What the shim says for the caller stays.
		w.launcher.FailPower = func(_, method string) error {
			if method == "pause" {
				return errs.New(errs.Unavailable, sandbox.CodeSaveFailed, "the disk is full")
			}
			return nil
		}
		_, err = w.Pause(w.t.Context(), org, c.ID(), true)
		wantCode(t, err, sandbox.CodeSaveFailed)
		w.wantPower(c.ID(), api.PowerRunning)
	})
}

func TestIsolationWithoutPower(t *testing.T) {
	run(t, func(o *sandbox.Options) { o.Template.Driver = "stiff" }, func(w *world) {
		c := w.create(time.Hour)
		defer c.Close()
		for _, toDisk := range []bool{false, true} {
			_, err := w.Pause(w.t.Context(), org, c.ID(), toDisk)
			wantCode(t, err, sandbox.CodeNotByIsolation)
			if !errors.Is(err, errs.Unsupported) || !slices.Contains([]string{
				"the isolation stiff can't pause sandboxes: create it with fake for that",
				"the isolation stiff can't pause sandboxes to disk: create it with fake for that",
			}, errs.Public(err).Message) {
				t.Errorf("error: %v", err)
			}
		}
		_, err := w.Fork(w.t.Context(), org, c.ID(), sandbox.ForkSpec{Count: 1})
		wantCode(t, err, sandbox.CodeNotByIsolation)
		minute := time.Minute
		_, _, err = w.SetIdle(w.t.Context(), org, c.ID(), sandbox.IdleChange{After: &minute})
		wantCode(t, err, sandbox.CodeNotByIsolation)
		_, err = w.Create(w.t.Context(), org, sandbox.Spec{Region: "ord", Idle: sandbox.IdlePolicy{After: time.Minute}})
		wantCode(t, err, sandbox.CodeNotByIsolation)
		w.must(w.Resume(w.t.Context(), org, c.ID()))
	})
}

func TestResumeFromDiskNeedsMemory(t *testing.T) {
	free := int64(1 << 30)
	run(t, func(o *sandbox.Options) {
		o.MinFreeMemory, o.FreeMemory = 512<<20, func() (int64, error) { return free, nil }
	}, func(w *world) {
		c := w.create(time.Hour)
		c.Close()
		w.pause(c.ID(), true)
		free = 513<<20 - 1 // 1 MiB was written
		wantCode(t, w.Resume(w.t.Context(), org, c.ID()), "HOST_MEMORY_LOW")
		w.wantPower(c.ID(), api.PowerSuspended)
		free = 513 << 20
		w.must(w.Resume(w.t.Context(), org, c.ID()))
	})
}

// TestNothingIsSaidToAPausedMachine is about real concurrency: whoever was let
// in finds the machine running.
func TestNothingIsSaidToAPausedMachine(t *testing.T) {
	run(t, nil, func(w *world) {
		first := w.create(time.Hour)
		shim := w.launcher.Shim(first.ID())
		var clients sync.WaitGroup
		for range 8 {
			clients.Go(func() {
				c, err := w.Connect(w.t.Context(), org, first.ID())
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				for range 1000 {
					if err := c.Enter(w.t.Context()); err != nil {
						t.Error(err)
						return
					}
					if status, err := shim.Status(w.t.Context()); err != nil || status.Power != sandbox.PowerRunning {
						t.Errorf("let in while it is %s (%v)", status.Power, err)
					}
					c.Leave()
				}
			})
		}
		over := make(chan struct{})
		go func() { clients.Wait(); close(over) }()
		for going := true; going; {
			select {
			case <-over:
				going = false
			default:
				w.pause(first.ID(), false)
			}
		}
		if n := len(shim.Calls()); n < 2 {
			t.Errorf("%d pauses and resumes", n)
		}
		first.Close()
	})
}

func TestOpenRPCWakes(t *testing.T) {
	run(t, nil, func(w *world) {
		c := w.create(time.Hour)
		defer c.Close()
		w.pause(c.ID(), false)
		conn, err := c.OpenRPC(w.t.Context(), link.RPCHeader{})
		w.must(err)
		w.must(conn.Close())
		w.wantPower(c.ID(), api.PowerRunning)
	})
}
