package sandbox_test

import (
	"context"
	"errors"
	"slices"

	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/errs"
	"github.com/atollhq/atoll/internal/gateway/secret"
	"github.com/atollhq/atoll/internal/machine"
	"github.com/atollhq/atoll/internal/sandbox"
	"github.com/atollhq/atoll/internal/sandbox/sandboxtest"
	"github.com/atollhq/atoll/internal/store"
)

func (w *world) fork(id string, spec sandbox.ForkSpec) []api.Sandbox {
	w.t.Helper()
	children, err := w.Fork(w.t.Context(), org, id, spec)
	w.must(err)
	if len(children) != spec.Count {
		w.t.Fatalf("%d children, want %d", len(children), spec.Count)
	}
	return children
}

// wantOnly checks that nothing lives or is counted but the given sandboxes.
func (w *world) wantOnly(ids ...string) {
	w.t.Helper()
	synctest.Wait()
	live, err := w.store.LiveSandboxes(w.t.Context())
	w.must(err)
	got := map[string]bool{}
	for _, row := range live {
		got[row.ID] = true
	}
	want := map[string]bool{}
	for _, id := range ids {
		want[id] = true
	}
	if diff := cmp.Diff(want, got); diff != "" || w.launcher.Running() != len(ids) || w.observer.live != len(ids) {
		w.t.Errorf("%d shims, %d counted; live: %s", w.launcher.Running(), w.observer.live, diff)
	}
}

func TestForkMakesSandboxesLikeTheParent(t *testing.T) {
	ceilings, err := sandbox.NewCeilings([]string{"*.test"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	run(t, func(o *sandbox.Options) { o.Ceilings = ceilings }, func(w *world) {
		secrets := map[string]secret.Spec{"KEY": {Hosts: []string{"a.test"}, Value: "hunter2"}}
		parent, err := w.Create(w.t.Context(), org, sandbox.Spec{
			Region: "ord", MemoryMiB: 1024, Labels: map[string]string{"a": "b"}, Env: map[string]string{"A": "1"},
			AllowNet: &[]string{"a.test"}, Secrets: sandbox.NewSecrets(secrets), StopAt: time.Now().Add(time.Hour),
			Idle: sandbox.IdlePolicy{After: time.Hour, ToDisk: true},
		})
		w.must(err)
		parent.Close()
		_, err = w.SetNetwork(w.t.Context(), org, parent.ID(), &[]string{"a.test", "b.test"})
		w.must(err)
		time.Sleep(10 * time.Minute)

		children := w.fork(parent.ID(), sandbox.ForkSpec{Count: 3})
		ids := map[string]bool{parent.ID(): true}
		for _, child := range children {
			ids[child.ID] = true
			want := api.Sandbox{
				ID: child.ID, CreatedAt: api.Date{Time: time.Now().UTC()}, Region: "ord", Status: api.StatusRunning, Labels: map[string]string{"a": "b"},
				MemoryMiB: 1024, Isolation: "fake", Timeout: "duration", StopAt: w.info(parent.ID()).StopAt,
				Power: api.PowerRunning, IdlePause: "1h", IdlePauseToDisk: true, ForkedFrom: parent.ID(),
			}
			if diff := cmp.Diff([]api.Sandbox{want, want}, []api.Sandbox{child, w.info(child.ID)}); diff != "" {
				t.Error(diff)
			}
			shim := w.launcher.Shim(child.ID)
			received, _ := shim.Received()
			wantReceived := sandboxtest.Received{
				Env: map[string]string{"A": "1"}, AllowNet: &[]string{"a.test", "b.test"}, Ceiling: []string{"*.test"}, Secrets: secrets,
			}
			if diff := cmp.Diff(wantReceived, received); diff != "" {
				t.Error(diff)
			}
			if shim.Spec.Origin == nil || shim.Spec.Origin.SandboxID != parent.ID() || shim.Spec.MemoryBytes != 1024<<20 {
				t.Errorf("spec: %+v", shim.Spec)
			}
			if left := shim.Spec.Secrets.Specs(); left != nil {
				t.Error("the daemon still has the secrets")
			}
		}
		if len(ids) != 4 {
			t.Errorf("ids: %v", ids)
		}
		if n := w.launcher.Shim(parent.ID()).OpenForks(); n != 0 {
			t.Errorf("%d forks are open", n)
		}
		w.wantPower(parent.ID(), api.PowerRunning)
		if w.observer.created["ok"] != 4 {
			t.Errorf("created: %v", w.observer.created)
		}
		time.Sleep(50 * time.Minute)
		for id := range ids {
			w.wantStopped(id, api.StopTimeout)
		}
	})
}

func TestForkWithItsOwnLabelsAndLifetime(t *testing.T) {
	run(t, nil, func(w *world) {
		parent := w.create(time.Hour)
		parent.Close()
		soon, session := time.Now().Add(time.Minute), time.Time{}
		child := w.fork(parent.ID(), sandbox.ForkSpec{Count: 1, Labels: map[string]string{"x": "y"}, Lifetime: &soon})[0]
		heir := w.fork(parent.ID(), sandbox.ForkSpec{Count: 1, Lifetime: &session})[0]
		grandchild := w.fork(child.ID, sandbox.ForkSpec{Count: 1})[0]
		if child.Labels["x"] != "y" || heir.Timeout != "session" || grandchild.ForkedFrom != child.ID || grandchild.Labels["x"] != "y" {
			t.Errorf("got %+v, %+v, %+v", child, heir, grandchild)
		}
		time.Sleep(61 * time.Second)
		w.wantStopped(child.ID, api.StopTimeout)
		w.wantStopped(grandchild.ID, api.StopTimeout)
		w.wantStopped(heir.ID, api.StopSessionClosed) // nobody came
		w.wantOnly(parent.ID())
	})
}

func TestChildrenOfASessionWaitForTheirClients(t *testing.T) {
	run(t, nil, func(w *world) {
		parent := w.create(0)
		children := w.fork(parent.ID(), sandbox.ForkSpec{Count: 2})
		time.Sleep(59 * time.Second)
		c, err := w.Connect(w.t.Context(), org, children[0].ID)
		w.must(err)
		time.Sleep(time.Hour)
		w.wantStopped(children[1].ID, api.StopSessionClosed)
		w.wantOnly(parent.ID(), children[0].ID)
		parent.Close() // is nothing to its children
		w.wantOnly(children[0].ID)
		c.Close()
		w.wantStopped(children[0].ID, api.StopSessionClosed)
	})
}

func TestForkOfWhatStandsStill(t *testing.T) {
	run(t, nil, func(w *world) {
		parent := w.create(time.Hour)
		parent.Close()
		w.pause(parent.ID(), false)
		time.Sleep(10 * time.Hour)
		child := w.fork(parent.ID(), sandbox.ForkSpec{Count: 1})[0]
		w.wantPower(parent.ID(), api.PowerPaused)
		w.wantPower(child.ID, api.PowerRunning)
		if want := time.Now().Add(time.Hour); child.StopAt == nil || !child.StopAt.Equal(want) {
			t.Errorf("the child ends %v, want %v", child.StopAt, want)
		}
		w.pause(parent.ID(), true)
		w.fork(parent.ID(), sandbox.ForkSpec{Count: 1})
		w.wantPower(parent.ID(), api.PowerRunning)
		w.wantCalls(parent.ID(), "pause", "fork", "pause to disk", "resume", "fork")
	})
}

func TestHalfFailedForkLeavesNothing(t *testing.T) {
	run(t, nil, func(w *world) {
		parent := w.create(time.Hour)
		parent.Close()
		for _, fail := range []error{errors.New("boom"), errs.New(errs.Unavailable, "NO_DISK", "the disk is full")} {
			var launches atomic.Int32
			w.launcher.Delay = time.Second
			w.launcher.Fail = func(sandbox.ShimSpec) error {
				if launches.Add(1) == 6 {
					return fail
				}
				return nil
			}
			_, err := w.Fork(w.t.Context(), org, parent.ID(), sandbox.ForkSpec{Count: 8})
			wantCode(t, err, map[bool]string{true: "FORK_FAILED", false: "NO_DISK"}[errs.Public(fail).Class == errs.Internal])
			if text := errs.Public(err).Message; !strings.HasPrefix(text, "fork ") || !strings.Contains(text, " of 8 did not start, and none was made") {
				t.Errorf("error: %s", text)
			}
			w.wantOnly(parent.ID())
		}
		if n := w.launcher.Shim(parent.ID()).OpenForks(); n != 0 {
			t.Errorf("%d forks are open", n)
		}
		w.launcher.Fail = nil
		w.fork(parent.ID(), sandbox.ForkSpec{Count: 8})
	})
}

// A fork continues its parent's machine, also after the settings changed.
func TestForkHasItsParentsSizes(t *testing.T) {
	machineOf := func(cpus int, disk int64, image string) func(*sandbox.Options) {
		return func(o *sandbox.Options) {
			o.Template.CPUs, o.Template.DiskBytes, o.Template.Image.File = cpus, disk, image
		}
	}
	run(t, machineOf(2, 10<<30, "/old"), func(w *world) {
		parent := w.create(time.Hour)
		parent.Close()
		machineOf(4, 20<<30, "/new")(&w.options)
		w.restart()
		child := w.fork(parent.ID(), sandbox.ForkSpec{Count: 1})[0]
		grandchild := w.fork(child.ID, sandbox.ForkSpec{Count: 1})[0]
		for _, id := range []string{child.ID, grandchild.ID} {
			if s := w.launcher.Shim(id).Spec; s.CPUs != 2 || s.DiskBytes != 10<<30 || s.Image.File != "/old" {
				t.Errorf("got %+v", s)
			}
		}
	})
}

// The ceiling of a fork is the one of now, its list the parent's.
func TestForkHasTheCeilingOfNow(t *testing.T) {
	ceiling := func(entry string) sandbox.Ceilings {
		c, err := sandbox.NewCeilings([]string{entry}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	run(t, func(o *sandbox.Options) { o.Ceilings = ceiling("*.test") }, func(w *world) {
		parent := w.create(time.Hour)
		parent.Close()
		w.options.Ceilings = ceiling("a.test")
		w.restart()
		child := w.fork(parent.ID(), sandbox.ForkSpec{Count: 1})[0]
		if got, _ := w.launcher.Shim(child.ID).Received(); !slices.Equal(got.Ceiling, []string{"a.test"}) || got.AllowNet != nil {
			t.Errorf("got %+v", got)
		}
	})
}

// failing is a store that can't record that sandboxes run.
type failing struct{ sandbox.Store }

func (f failing) SetRunning(ctx context.Context, ids ...string) error {
	if len(ids) > 1 {
		return errors.New("no")
	}
	return f.Store.SetRunning(ctx, ids...)
}

func TestUnrecordedForkLeavesNothing(t *testing.T) {
	run(t, func(o *sandbox.Options) { o.Store = failing{o.Store} }, func(w *world) {
		parent := w.create(time.Hour)
		parent.Close()
		if _, err := w.Fork(w.t.Context(), org, parent.ID(), sandbox.ForkSpec{Count: 2}); err == nil {
			t.Error("it was made")
		}
		w.wantOnly(parent.ID())
	})
}

func TestForkIsAdmittedWhole(t *testing.T) {
	free := int64(1 << 30)
	run(t, func(o *sandbox.Options) {
		o.MaxSandboxes, o.MaxPerOrg, o.MinFreeMemory = 6, 4, 512<<20
		o.FreeMemory = func() (int64, error) { return free, nil }
	}, func(w *world) {
		parent := w.create(time.Hour)
		parent.Close()
		for _, id := range []string{"org_2", "org_3"} {
			c, err := w.Create(w.t.Context(), id, sandbox.Spec{Region: "ord", StopAt: time.Now().Add(time.Minute)})
			w.must(err)
			c.Close()
		}
		_, err := w.Fork(w.t.Context(), org, parent.ID(), sandbox.ForkSpec{Count: 4})
		wantCode(t, err, "SANDBOX_LIMIT_REACHED")
		w.options.MaxPerOrg = 0
		w.restart()
		_, err = w.Fork(w.t.Context(), org, parent.ID(), sandbox.ForkSpec{Count: 4})
		wantCode(t, err, "CAPACITY_EXHAUSTED")
		free = 100 << 20
		_, err = w.Fork(w.t.Context(), org, parent.ID(), sandbox.ForkSpec{Count: 3})
		wantCode(t, err, "HOST_MEMORY_LOW")
		free = 1 << 30
		w.launcher.Shim(parent.ID()).Hold(100 << 20)
		if calls := w.launcher.Shim(parent.ID()).Calls(); len(calls) != 0 {
			t.Errorf("the parent was disturbed: %v", calls)
		}
		w.fork(parent.ID(), sandbox.ForkSpec{Count: 3})
		_, err = w.Fork(w.t.Context(), org, parent.ID(), sandbox.ForkSpec{Count: 1})
		wantCode(t, err, "CAPACITY_EXHAUSTED")
	})
}

// A fork copies the parent's memory: once for each child, or once for all.
func TestForkNeedsMemoryForItsCopies(t *testing.T) {
	const least = 512 << 20
	var free atomic.Int64
	for name, c := range map[string]struct {
		share  bool
		holds  int64
		copies int64 // that a fork of three makes
		size   int64 // of one
	}{
		"one each":  {false, 300 << 20, 3, 300 << 20},
		"one":       {true, 300 << 20, 1, 300 << 20},
		"unknown":   {true, 0, 1, 1280 << 20},
		"the limit": {false, 5 << 30, 3, 1280 << 20}, // of the sandbox
	} {
		run(t, func(o *sandbox.Options) {
			o.MinFreeMemory, o.FreeMemory = least, func() (int64, error) { return free.Load(), nil }
			o.Features["fake"] = machine.Features{Pause: true, Save: true, Share: c.share}
		}, func(w *world) {
			free.Store(least)
			parent := w.create(time.Hour)
			parent.Close()
			shim := w.launcher.Shim(parent.ID())
			shim.Hold(c.holds)
			need := least + c.copies*c.size
			free.Store(need - 1)
			_, err := w.Fork(w.t.Context(), org, parent.ID(), sandbox.ForkSpec{Count: 3})
			wantCode(t, err, "HOST_MEMORY_LOW")
			if calls := shim.Calls(); len(calls) != 0 {
				t.Errorf("%s: the parent was disturbed: %v", name, calls)
			}
			free.Store(need)
			w.fork(parent.ID(), sandbox.ForkSpec{Count: 3})

			// What others took since is seen by the child that finds it missing.
			w.launcher.FailPower = func(string, string) error {
				free.Store(least + c.size - 1)
				return nil
			}
			free.Store(need)
			_, err = w.Fork(w.t.Context(), org, parent.ID(), sandbox.ForkSpec{Count: 3})
			if c.share {
				w.must(err) // theirs is made
			} else {
				wantCode(t, err, "HOST_MEMORY_LOW")
			}
			if t.Failed() {
				t.Log("with", name)
			}
		})
	}
}

func TestKillOvertakesFork(t *testing.T) {
	run(t, nil, func(w *world) {
		parent := w.create(time.Hour)
		parent.Close()
		w.slow("fork", time.Minute)
		result := make(chan error, 1)
		fork := func() {
			_, err := w.Fork(w.t.Context(), org, parent.ID(), sandbox.ForkSpec{Count: 3})
			result <- err
		}
		go fork()
		time.Sleep(time.Second)
		w.must(w.Kill(w.t.Context(), org, parent.ID()))
		wantCode(t, <-result, "SANDBOX_STOPPED")
		w.wantStopped(parent.ID(), api.StopKilled)
		w.wantOnly()
	})
}

// A pause waits until the machine is written down; a fork waits for a pause.
func TestForkAndPauseTakeTurns(t *testing.T) {
	run(t, nil, func(w *world) {
		parent := w.create(time.Hour)
		defer parent.Close()
		w.slow("fork", time.Second)
		go func() {
			time.Sleep(500 * time.Millisecond)
			w.pause(parent.ID(), false)
		}()
		w.fork(parent.ID(), sandbox.ForkSpec{Count: 1})
		w.wantPower(parent.ID(), api.PowerPaused)
		w.wantCalls(parent.ID(), "fork", "pause")
	})
}

func TestShutdownOvertakesFork(t *testing.T) {
	run(t, nil, func(w *world) {
		parent := w.create(time.Hour)
		parent.Close()
		w.launcher.Delay = time.Minute
		result := make(chan error, 1)
		go func() {
			_, err := w.Fork(w.t.Context(), org, parent.ID(), sandbox.ForkSpec{Count: 3})
			result <- err
		}()
		time.Sleep(time.Second)
		w.restart()
		wantCode(t, <-result, "SERVER_STOPPING")
		w.wantOnly(parent.ID())
	})
}

// A server that dies while it forks leaves no child, and no shim of one.
func TestRecoverEndsHalfMadeForks(t *testing.T) {
	run(t, nil, func(w *world) {
		parent := w.create(time.Hour)
		parent.Close()
		child := w.fork(parent.ID(), sandbox.ForkSpec{Count: 1})[0]
		w.must(w.Shutdown(w.t.Context()))
		row, err := w.store.Sandbox(w.t.Context(), child.ID)
		w.must(err)
		row.ID, row.Status = sandbox.NewID("ord"), store.Creating
		w.must(w.store.CreateSandbox(w.t.Context(), row))
		_, err = w.launcher.Launch(w.t.Context(), sandbox.ShimSpec{ID: row.ID})
		w.must(err)
		w.Manager = sandbox.NewManager(w.options)
		w.must(w.Recover(w.t.Context()))
		w.wantStopped(row.ID, api.StopFailed)
		w.wantOnly(parent.ID(), child.ID)
		if got := w.info(child.ID); got.ForkedFrom != parent.ID() {
			t.Errorf("got %+v", got)
		}
	})
}

func TestNewForkSpec(t *testing.T) {
	now := time.UnixMilli(1_700_000_000_000)
	limits := sandbox.Limits{Forks: 16, Labels: 1, MaxLifetime: time.Hour}
	count := func(n int) *int { return &n }
	past := now.Add(-time.Second).UnixMilli()
	for code, requests := range map[string][]api.ForkRequest{
		"FORK_COUNT_OUT_OF_RANGE": {{Count: count(0)}, {Count: count(-1)}, {Count: count(17)}},
		"INVALID_LABELS":          {{Labels: map[string]string{"": ""}}, {Labels: map[string]string{"a": "", "b": ""}}},
		"INVALID_TIMEOUT":         {{Timeout: "2h"}, {Timeout: "61m"}, {Timeout: "0s"}, {StopAtMS: &past}, {StopAtMS: &past, Timeout: "1m"}},
	} {
		for _, r := range requests {
			_, err := sandbox.NewForkSpec(r, limits, now)
			wantCode(t, err, code)
		}
	}
	end, session := now.Add(time.Minute), time.Time{}
	for text, want := range map[string]sandbox.ForkSpec{
		"":        {Count: 1},
		"1m":      {Count: 1, Lifetime: &end},
		"session": {Count: 1, Lifetime: &session},
	} {
		got, err := sandbox.NewForkSpec(api.ForkRequest{Timeout: text}, limits, now)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%q: %v %s", text, err, diff)
		}
	}
	got, err := sandbox.NewForkSpec(api.ForkRequest{Count: count(16), Labels: map[string]string{}}, limits, now)
	if err != nil || got.Count != 16 || got.Labels == nil {
		t.Errorf("got %+v %v", got, err)
	}

}

// Writing machines down waits for the turns that starts wait for.
func TestForksTakeTurns(t *testing.T) {
	run(t, func(o *sandbox.Options) { o.Starts = 2 }, func(w *world) {
		var now, most atomic.Int64
		w.launcher.FailPower = func(_, method string) error {
			if method != "fork" {
				return nil
			}
			if n := now.Add(1); n > most.Load() {
				most.Store(n)
			}
			time.Sleep(time.Second)
			now.Add(-1)
			return nil
		}
		var parents []*sandbox.Client
		for range 5 {
			parents = append(parents, w.create(time.Hour))
		}
		failures := make(chan error, len(parents))
		for _, p := range parents {
			go func() {
				_, err := w.Fork(w.t.Context(), org, p.ID(), sandbox.ForkSpec{Count: 1})
				failures <- err
			}()
		}
		for _, p := range parents {
			w.must(<-failures)
			defer p.Close()
		}
		if most.Load() != 2 {
			t.Errorf("%d forks at once, want 2", most.Load())
		}
	})
}
