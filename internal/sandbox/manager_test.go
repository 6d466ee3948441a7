package sandbox_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/errs"
	"github.com/atollhq/atoll/internal/machine"
	"github.com/atollhq/atoll/internal/sandbox"
	"github.com/atollhq/atoll/internal/sandbox/sandboxtest"
	"github.com/atollhq/atoll/internal/store"
	"github.com/atollhq/atoll/internal/store/storetest"
)

const org = "org_1"

type observer struct {
	mu      sync.Mutex
	created map[string]int
	stopped map[string]int
	powers  []string
	live    int
}

func (o *observer) SandboxCreated(outcome string, _ time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.created[outcome]++
}

func (o *observer) SandboxStopped(_, _, reason string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.stopped[reason]++
}

func (o *observer) PowerChanged(_, _, power string, _ time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.powers = append(o.powers, power)
}

func (o *observer) SandboxesLive(n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.live = n
}

// world is one host: what outlives the manager, and the manager.
type world struct {
	*sandbox.Manager
	t        *testing.T
	launcher *sandboxtest.Launcher
	store    *storetest.Memory
	observer *observer
	options  sandbox.Options
}

// run runs a test in a bubble of fake time, and checks in the end that
// nothing is left.
func run(t *testing.T, change func(*sandbox.Options), test func(w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, launcher: &sandboxtest.Launcher{}, store: storetest.NewMemory(), observer: &observer{created: map[string]int{}, stopped: map[string]int{}}}
		w.options = sandbox.Options{
			Store: w.store, Launcher: w.launcher, Observer: w.observer, Log: slog.New(slog.DiscardHandler),
			Template:     sandbox.ShimSpec{Driver: "fake"},
			Features:     map[string]machine.Features{"fake": {Pause: true, Save: true}, "stiff": {}},
			MaxSandboxes: 1000, Starts: 4,
			StartTimeout: sandbox.DefaultStartTimeout, StopTimeout: sandbox.DefaultStopTimeout,
			MaxExtend: 30 * time.Minute, SessionGrace: time.Minute, Retention: 24 * time.Hour,
		}
		if change != nil {
			change(&w.options)
		}
		w.Manager = sandbox.NewManager(w.options)
		test(w)
		w.must(w.Shutdown(t.Context()))
		if w.observer.live != 0 {
			t.Errorf("%d sandboxes are counted after the shutdown", w.observer.live)
		}
		time.Sleep(time.Hour) // shims that a test slowed down come to their end
	})
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) create(timeout time.Duration) *sandbox.Client {
	w.t.Helper()
	spec := sandbox.Spec{Region: "ord", MemoryMiB: 1280, Labels: map[string]string{}}
	if timeout > 0 {
		spec.StopAt = time.Now().Add(timeout)
	}
	c, err := w.Create(w.t.Context(), org, spec)
	w.must(err)
	return c
}

// restart ends the manager and starts another one, as an upgrade does.
func (w *world) restart() {
	w.t.Helper()
	w.must(w.Shutdown(w.t.Context()))
	w.Manager = sandbox.NewManager(w.options)
	w.must(w.Recover(w.t.Context()))
}

func (w *world) wantStopped(id, reason string) {
	w.t.Helper()
	synctest.Wait()
	row, err := w.store.Sandbox(w.t.Context(), id)
	w.must(err)
	if row.Status != store.Stopped || row.Reason != reason {
		w.t.Errorf("sandbox is %s (%s), want stopped (%s)", row.Status, row.Reason, reason)
	}
	if w.launcher.Shim(id) != nil {
		w.t.Error("its shim still runs")
	}
}

func (w *world) wantRunning(id string) {
	w.t.Helper()
	synctest.Wait()
	row, err := w.store.Sandbox(w.t.Context(), id)
	w.must(err)
	if row.Status != store.Running || w.launcher.Shim(id) == nil {
		w.t.Errorf("sandbox is %s (%s), want running", row.Status, row.Reason)
	}
}

func wantEnding(t *testing.T, c *sandbox.Client, reason string, code int) {
	t.Helper()
	select {
	case <-c.Context().Done():
		if e := c.Ending(); e.Reason != reason || e.Code != code {
			t.Errorf("ending = %+v, want %s %d", e, reason, code)
		}
	default:
		t.Error("the client was not told to go")
	}
	c.Close()
}

func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	if err == nil || errs.Public(err).Code != code {
		t.Errorf("error = %v, want code %s", err, code)
	}
}

func TestSessionEndsWithItsPrimaryClient(t *testing.T) {
	run(t, nil, func(w *world) {
		c := w.create(0)
		second, err := w.Connect(w.t.Context(), org, c.ID())
		w.must(err)
		time.Sleep(48 * time.Hour)
		w.wantRunning(c.ID())
		c.Close()
		c.Close()
		w.wantStopped(c.ID(), api.StopSessionClosed)
		wantEnding(t, second, api.StopSessionClosed, 1000)
	})
}

func TestSecondClientDoesNotEndASession(t *testing.T) {
	run(t, nil, func(w *world) {
		c := w.create(0)
		second, err := w.Connect(w.t.Context(), org, c.ID())
		w.must(err)
		second.Close()
		w.wantRunning(c.ID())
		c.Close()
	})
}

func TestDurationOutlivesItsClientAndEnds(t *testing.T) {
	run(t, nil, func(w *world) {
		c := w.create(5 * time.Minute)
		c.Close()
		time.Sleep(5*time.Minute - time.Second)
		w.wantRunning(c.ID())
		again, err := w.Connect(w.t.Context(), org, c.ID())
		w.must(err)
		time.Sleep(time.Second)
		w.wantStopped(c.ID(), api.StopTimeout)
		wantEnding(t, again, api.StopTimeout, 1001)
		_, err = w.Connect(w.t.Context(), org, c.ID())
		wantCode(t, err, "SANDBOX_STOPPED")
	})
}

func TestKill(t *testing.T) {
	run(t, nil, func(w *world) {
		w.launcher.StopBy = 10 * time.Second // freeing is slow, telling is not
		c := w.create(0)
		began := time.Now()
		w.must(w.Kill(w.t.Context(), org, c.ID()))
		if took := time.Since(began); took > time.Second {
			t.Errorf("kill took %v", took)
		}
		wantEnding(t, c, api.StopKilled, 1000)
		w.must(w.Kill(w.t.Context(), org, c.ID()))
		time.Sleep(11 * time.Second)
		w.wantStopped(c.ID(), api.StopKilled)
		w.must(w.Kill(w.t.Context(), org, c.ID()))
		wantCode(t, w.Kill(w.t.Context(), org, sandbox.NewID("ord")), "SANDBOX_NOT_FOUND")
	})
}

func TestExits(t *testing.T) {
	run(t, nil, func(w *world) {
		for _, reason := range []string{api.StopOOM, api.StopCrashed} {
			c := w.create(0)
			w.launcher.Shim(c.ID()).Crash(reason)
			w.wantStopped(c.ID(), reason)
			wantEnding(t, c, reason, 1011)
		}
	})
}

func TestExtend(t *testing.T) {
	run(t, nil, func(w *world) {
		c := w.create(10 * time.Minute)
		defer c.Close()
		start := time.Now()
		for _, step := range []struct{ ask, want time.Duration }{
			{20 * time.Minute, 20 * time.Minute},
			{5 * time.Minute, 20 * time.Minute}, // never back
			{2 * time.Hour, 30 * time.Minute},   // at most 30 minutes
		} {
			got, err := w.Extend(w.t.Context(), org, c.ID(), start.Add(step.ask))
			w.must(err)
			if !got.Equal(start.Add(step.want)) {
				t.Errorf("asked for %v, got %v, want %v", step.ask, got.Sub(start), step.want)
			}
		}
		_, err := w.Extend(w.t.Context(), org, c.ID(), start)
		wantCode(t, err, "INVALID_TIMEOUT")
		time.Sleep(29 * time.Minute)
		w.wantRunning(c.ID())
		time.Sleep(time.Minute)
		w.wantStopped(c.ID(), api.StopTimeout)
		_, err = w.Extend(w.t.Context(), org, c.ID(), time.Now().Add(time.Minute))
		wantCode(t, err, "SANDBOX_STOPPED")
	})
}

func TestSessionCannotBeExtended(t *testing.T) {
	run(t, nil, func(w *world) {
		c := w.create(0)
		_, err := w.Extend(w.t.Context(), org, c.ID(), time.Now().Add(time.Minute))
		wantCode(t, err, "SESSION_LIFETIME")
		c.Close()
	})
}

func TestOtherOrganisationsSeeNothing(t *testing.T) {
	run(t, nil, func(w *world) {
		c := w.create(0)
		const other = "org_2"
		_, err := w.Connect(w.t.Context(), other, c.ID())
		wantCode(t, err, "SANDBOX_NOT_FOUND")
		wantCode(t, w.Kill(w.t.Context(), other, c.ID()), "SANDBOX_NOT_FOUND")
		_, err = w.Extend(w.t.Context(), other, c.ID(), time.Now().Add(time.Minute))
		wantCode(t, err, "SANDBOX_NOT_FOUND")
		_, err = w.Get(w.t.Context(), other, c.ID())
		wantCode(t, err, "SANDBOX_NOT_FOUND")
		list, err := w.List(w.t.Context(), other, sandbox.Filter{})
		w.must(err)
		if len(list) != 0 {
			t.Errorf("list = %v", list)
		}
		c.Close()
		w.wantStopped(c.ID(), api.StopSessionClosed)
		wantCode(t, w.Kill(w.t.Context(), other, c.ID()), "SANDBOX_NOT_FOUND")
	})
}

func TestHundredAtOnceQueue(t *testing.T) {
	run(t, nil, func(w *world) {
		w.launcher.Delay = 2 * time.Second
		clients := make(chan *sandbox.Client, 100)
		for range 100 {
			go func() { clients <- w.create(0) }()
		}
		for range 100 {
			(<-clients).Close()
		}
		synctest.Wait()
		if peak := w.launcher.Peak(); peak != 4 {
			t.Errorf("%d launches at once, want 4", peak)
		}
		if w.launcher.Running() != 0 || w.observer.created["ok"] != 100 {
			t.Errorf("running %d, created %v", w.launcher.Running(), w.observer.created)
		}
	})
}

func TestStartTimeoutAndVanishedCreator(t *testing.T) {
	run(t, nil, func(w *world) {
		w.launcher.Delay = time.Hour
		spec := sandbox.Spec{Region: "ord", MemoryMiB: 1280}
		_, err := w.Create(w.t.Context(), org, spec)
		wantCode(t, err, "START_TIMEOUT")
		ctx, cancel := context.WithTimeout(w.t.Context(), time.Second)
		defer cancel()
		_, err = w.Create(ctx, org, spec)
		if err == nil {
			t.Error("created for a client that left")
		}
		live, err := w.store.LiveSandboxes(w.t.Context())
		w.must(err)
		if len(live) != 0 || w.observer.live != 0 {
			t.Errorf("left: %v, %d", live, w.observer.live)
		}
	})
}

func TestFailedLaunchIsRecorded(t *testing.T) {
	run(t, nil, func(w *world) {
		boom := errors.New("boom")
		var id string
		w.launcher.Fail = func(s sandbox.ShimSpec) error { id = s.ID; return boom }
		if _, err := w.Create(w.t.Context(), org, sandbox.Spec{Region: "ord"}); !errors.Is(err, boom) {
			t.Errorf("error = %v", err)
		}
		w.wantStopped(id, api.StopFailed)
	})
}

func TestAdmission(t *testing.T) {
	free := int64(1 << 30)
	run(t, func(o *sandbox.Options) {
		o.MaxSandboxes, o.MaxPerOrg, o.MinFreeMemory = 2, 1, 512<<20
		o.FreeMemory = func() (int64, error) { return free, nil }
	}, func(w *world) {
		spec := sandbox.Spec{Region: "ord"}
		a := w.create(0)
		_, err := w.Create(w.t.Context(), org, spec)
		wantCode(t, err, "SANDBOX_LIMIT_REACHED")
		b, err := w.Create(w.t.Context(), "org_2", spec)
		w.must(err)
		_, err = w.Create(w.t.Context(), "org_3", spec)
		wantCode(t, err, "CAPACITY_EXHAUSTED")
		a.Close()
		w.wantStopped(a.ID(), api.StopSessionClosed)
		free = 100 << 20
		_, err = w.Create(w.t.Context(), org, spec)
		wantCode(t, err, "HOST_MEMORY_LOW")
		free = 1 << 30
		w.create(0).Close()
		b.Close()
	})
}

func TestRestartKeepsSandboxes(t *testing.T) {
	run(t, nil, func(w *world) {
		session, duration := w.create(0), w.create(10*time.Minute)
		go func() {
			<-session.Context().Done()
			wantEnding(t, session, "restart", 1012)
		}()
		duration.Close()
		w.restart()
		w.wantRunning(session.ID())
		w.wantRunning(duration.ID())

		time.Sleep(59 * time.Second)
		heir, err := w.Connect(w.t.Context(), org, session.ID()) // takes the session over
		w.must(err)
		time.Sleep(8 * time.Minute)
		w.wantRunning(session.ID())
		w.wantRunning(duration.ID())
		time.Sleep(time.Minute + time.Second)
		w.wantStopped(duration.ID(), api.StopTimeout)
		heir.Close()
		w.wantStopped(session.ID(), api.StopSessionClosed)
	})
}

func TestOrphanedSessionEnds(t *testing.T) {
	run(t, nil, func(w *world) {
		c := w.create(0)
		go func() { <-c.Context().Done(); c.Close() }()
		w.restart()
		time.Sleep(59 * time.Second)
		w.wantRunning(c.ID())
		time.Sleep(2 * time.Second)
		w.wantStopped(c.ID(), api.StopSessionClosed)
	})
}

func TestRecoverAfterLosses(t *testing.T) {
	run(t, nil, func(w *world) {
		lost, overdue := w.create(time.Hour), w.create(time.Minute)
		lost.Close()
		overdue.Close()
		w.must(w.Shutdown(w.t.Context()))
		w.launcher.Shim(lost.ID()).Vanish()
		half := store.Sandbox{ID: sandbox.NewID("ord"), Org: org, Status: store.Creating, Created: time.Now()}
		w.must(w.store.CreateSandbox(w.t.Context(), half))
		dying := store.Sandbox{ID: sandbox.NewID("ord"), Org: org, Status: store.Stopping, Reason: api.StopKilled, Created: time.Now()}
		w.must(w.store.CreateSandbox(w.t.Context(), dying))
		stray := sandbox.NewID("ord")
		w.launcher.AddLeftover(stray)

		time.Sleep(2 * time.Minute)
		w.Manager = sandbox.NewManager(w.options)
		w.must(w.Recover(w.t.Context()))
		w.wantStopped(lost.ID(), api.StopCrashed)
		w.wantStopped(overdue.ID(), api.StopTimeout)
		w.wantStopped(half.ID, api.StopFailed)
		w.wantStopped(dying.ID, api.StopKilled)
		for _, id := range []string{lost.ID(), half.ID, dying.ID, stray} {
			if !w.launcher.Cleaned(id) {
				t.Errorf("%s was not cleaned up", id)
			}
		}
	})
}

func TestShutdownRefusesAndAborts(t *testing.T) {
	run(t, nil, func(w *world) {
		w.launcher.Delay = time.Minute
		failed := make(chan error, 1)
		go func() {
			_, err := w.Create(w.t.Context(), org, sandbox.Spec{Region: "ord"})
			failed <- err
		}()
		time.Sleep(time.Second)
		w.must(w.Shutdown(w.t.Context()))
		wantCode(t, <-failed, "SERVER_STOPPING")
		_, err := w.Create(w.t.Context(), org, sandbox.Spec{Region: "ord"})
		wantCode(t, err, "SERVER_STOPPING")
	})
}

func TestStopAll(t *testing.T) {
	run(t, nil, func(w *world) {
		a, b := w.create(0), w.create(time.Hour)
		w.must(w.StopAll(w.t.Context()))
		w.wantStopped(a.ID(), api.StopShutdown)
		w.wantStopped(b.ID(), api.StopShutdown)
		wantEnding(t, a, api.StopShutdown, 1001)
		wantEnding(t, b, api.StopShutdown, 1001)
	})
}

func TestListAndPurge(t *testing.T) {
	run(t, nil, func(w *world) {
		labelled, err := w.Create(w.t.Context(), org, sandbox.Spec{Region: "ord", MemoryMiB: 768, Labels: map[string]string{"a": "b"}, StopAt: time.Now().Add(time.Minute)})
		w.must(err)
		other := w.create(0)
		ids := func(f sandbox.Filter) (out []string) {
			list, err := w.List(w.t.Context(), org, f)
			w.must(err)
			for _, sb := range list {
				out = append(out, sb.ID)
			}
			return out
		}
		if diff := cmp.Diff([]string{labelled.ID()}, ids(sandbox.Filter{Labels: map[string]string{"a": "b"}})); diff != "" {
			t.Error(diff)
		}
		labelled.Close()
		time.Sleep(time.Minute)
		w.wantStopped(labelled.ID(), api.StopTimeout)
		if diff := cmp.Diff([]string{other.ID(), labelled.ID()}, ids(sandbox.Filter{})); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]string{labelled.ID()}, ids(sandbox.Filter{Status: api.StatusStopped})); diff != "" {
			t.Error(diff)
		}
		sb, err := w.Get(w.t.Context(), org, labelled.ID())
		w.must(err)
		if sb.Status != api.StatusStopped || sb.StoppedAt == nil || sb.StopReason != api.StopTimeout || sb.Timeout != "duration" || sb.MemoryMiB != 768 {
			t.Errorf("got %+v", sb)
		}
		time.Sleep(time.Hour)
		if diff := cmp.Diff([]string{other.ID()}, ids(sandbox.Filter{})); diff != "" {
			t.Error(diff)
		}
		time.Sleep(24 * time.Hour)
		w.must(w.Purge(w.t.Context()))
		_, err = w.Get(w.t.Context(), org, labelled.ID())
		wantCode(t, err, "SANDBOX_NOT_FOUND")
		other.Close()
	})
}

// endedShims is a launcher that finds only shims that ended in order.
type endedShims struct{ sandbox.Launcher }

func (endedShims) Attach(context.Context, string) (sandbox.Shim, error) {
	return nil, errs.New(errs.NotFound, sandbox.CodeShimEnded, "%s", api.StopOOM)
}

func TestRecoverKnowsWhyAShimEnded(t *testing.T) {
	run(t, nil, func(w *world) {
		c := w.create(time.Hour)
		c.Close()
		w.must(w.Shutdown(w.t.Context()))
		w.launcher.Shim(c.ID()).Vanish()
		w.options.Launcher = endedShims{w.launcher}
		w.Manager = sandbox.NewManager(w.options)
		w.must(w.Recover(w.t.Context()))
		w.wantStopped(c.ID(), api.StopOOM)
	})
}

// stuckShims is a launcher whose shims run and don't answer.
type stuckShims struct{ sandbox.Launcher }

func (stuckShims) Attach(ctx context.Context, _ string) (sandbox.Shim, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestRecoverDoesNotWaitForAStuckShim(t *testing.T) {
	run(t, nil, func(w *world) {
		c := w.create(time.Hour)
		c.Close()
		w.must(w.Shutdown(w.t.Context()))
		w.options.Launcher = stuckShims{w.launcher}
		w.Manager = sandbox.NewManager(w.options)
		began := time.Now()
		w.must(w.Recover(w.t.Context()))
		if took := time.Since(began); took > time.Minute {
			t.Errorf("the server waited %s", took)
		}
		if !w.launcher.Cleaned(c.ID()) {
			t.Error("the stuck shim was not cleaned up")
		}
	})
}

// TestRecoverThatIsInterrupted: a server that is stopped while it starts takes
// no sandbox with it.
func TestRecoverThatIsInterrupted(t *testing.T) {
	run(t, nil, func(w *world) {
		c := w.create(time.Hour)
		c.Close()
		w.must(w.Shutdown(w.t.Context()))
		w.options.Launcher = stuckShims{w.launcher}
		w.Manager = sandbox.NewManager(w.options)
		ctx, cancel := context.WithTimeout(w.t.Context(), time.Second)
		defer cancel()
		if err := w.Recover(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("recover: %v", err)
		}
		if w.launcher.Cleaned(c.ID()) {
			t.Error("a sandbox that nobody looked at was freed")
		}
		w.options.Launcher = w.launcher
		w.restart()
		if row, err := w.store.Sandbox(w.t.Context(), c.ID()); err != nil || row.Status != store.Running {
			t.Errorf("sandbox is %s (%s) %v", row.Status, row.Reason, err)
		}
	})
}

func TestConnectionsAreBounded(t *testing.T) {
	run(t, nil, func(w *world) {
		first := w.create(time.Hour)
		defer first.Close()
		var clients []*sandbox.Client
		for {
			c, err := w.Connect(w.t.Context(), org, first.ID())
			if err != nil {
				if !errors.Is(err, errs.Exhausted) {
					t.Errorf("connect: %v", err)
				}
				break
			}
			if clients = append(clients, c); len(clients) > 1000 {
				t.Fatal("no limit")
			}
		}
		clients[0].Close()
		if c, err := w.Connect(w.t.Context(), org, first.ID()); err != nil {
			t.Errorf("after one has left: %v", err)
		} else {
			clients[0] = c
		}
		for _, c := range clients {
			c.Close()
		}
	})
}
