package sandbox_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/errs"
	"github.com/atollhq/atoll/internal/gateway/secret"
	"github.com/atollhq/atoll/internal/sandbox"
	"github.com/atollhq/atoll/internal/sandbox/sandboxtest"
)

// launchTime is how long a launch takes in these tests.
const launchTime = time.Second

// withSpares runs a test whose manager keeps that many spares, all made.
func withSpares(t *testing.T, count int, test func(w *world)) {
	run(t, func(o *sandbox.Options) {
		o.Spare = sandbox.SpareSpec{Count: count, Region: "ord", MemoryMiB: 1280}
	}, func(w *world) {
		w.launcher.Delay = launchTime
		w.Refill()
		time.Sleep(launchTime)
		synctest.Wait()
		if n := w.launcher.Running(); n != count {
			w.t.Fatalf("%d spares run, want %d", n, count)
		}
		test(w)
		w.must(w.StopAll(w.t.Context()))
		w.must(w.Shutdown(w.t.Context()))
		if n := w.launcher.Running(); n != 0 {
			w.t.Errorf("%d machines run after the shutdown", n)
		}
	})
}

func TestSpareIsTakenAtOnceAndReplaced(t *testing.T) {
	withSpares(t, 1, func(w *world) {
		began := time.Now()
		c := w.create(time.Hour)
		defer c.Close()
		if took := time.Since(began); took != 0 {
			w.t.Errorf("the creation took %v", took)
		}
		w.wantRunning(c.ID())
		time.Sleep(2 * launchTime)
		synctest.Wait()
		if n := w.launcher.Running(); n != 2 {
			w.t.Errorf("%d machines run, want the sandbox and a new spare", n)
		}
	})
}

func TestCreationWaitsForTheSpareThatIsAhead(t *testing.T) {
	withSpares(t, 1, func(w *world) {
		w.create(time.Hour).Close()
		time.Sleep(launchTime / 2) // the next spare is under way
		began := time.Now()
		w.create(time.Hour).Close()
		if took := time.Since(began); took >= launchTime {
			w.t.Errorf("the creation took %v, longer than what was left of the spare's start", took)
		}
	})
}

func TestUnusualSandboxIsStartedForItself(t *testing.T) {
	withSpares(t, 1, func(w *world) {
		for name, spec := range map[string]sandbox.Spec{
			"memory": {Region: "ord", MemoryMiB: 2048},
			"region": {Region: "ams", MemoryMiB: 1280},
		} {
			began := time.Now()
			spec.StopAt = time.Now().Add(time.Hour)
			c, err := w.Create(w.t.Context(), org, spec)
			w.must(err)
			c.Close()
			if took := time.Since(began); took != launchTime {
				w.t.Errorf("%s: took %v, want a whole start", name, took)
			}
			if got := w.launcher.Shim(c.ID()).Spec; got.MemoryBytes != int64(spec.MemoryMiB)<<20 || got.Spare {
				w.t.Errorf("%s: launched %+v", name, got)
			}
		}
	})
}

// personalSpec is a request for everything that comes to a spare late.
func personalSpec() sandbox.Spec {
	return sandbox.Spec{
		Region: "ord", MemoryMiB: 1280, StopAt: time.Now().Add(time.Hour),
		Env: map[string]string{"A": "b"}, AllowNet: &[]string{"api.example.com"},
		Secrets: sandbox.NewSecrets(map[string]secret.Spec{"K": {Hosts: []string{"api.example.com"}, Value: "hunter2"}}),
	}
}

func wantPersonal(t *testing.T, got sandboxtest.Received) {
	t.Helper()
	want := sandboxtest.Received{
		Env: map[string]string{"A": "b"}, AllowNet: &[]string{"api.example.com"},
		Secrets: map[string]secret.Spec{"K": {Hosts: []string{"api.example.com"}, Value: "hunter2"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestSpareBecomesAnybodys(t *testing.T) {
	withSpares(t, 1, func(w *world) {
		began, spec := time.Now(), personalSpec()
		c, err := w.Create(w.t.Context(), org, spec)
		w.must(err)
		defer c.Close()
		if took := time.Since(began); took != 0 {
			w.t.Errorf("the creation took %v", took)
		}
		got, late := w.launcher.Shim(c.ID()).Received()
		if !late {
			w.t.Error("it was no spare")
		}
		wantPersonal(w.t, got)
		if spec.Secrets.Specs() != nil {
			w.t.Error("the daemon still holds the secrets")
		}
	})
}

func TestSpareThatCannotBeConfiguredIsReplaced(t *testing.T) {
	withSpares(t, 1, func(w *world) {
		ids, err := w.launcher.Leftovers(w.t.Context())
		w.must(err)
		w.launcher.FailConfigure = func(string) error { return errors.New("not today") }
		c, err := w.Create(w.t.Context(), org, personalSpec())
		w.must(err)
		defer c.Close()
		got, late := w.launcher.Shim(c.ID()).Received()
		if late || c.ID() == ids[0] {
			w.t.Error("a spare that failed became a sandbox")
		}
		wantPersonal(w.t, got)
		synctest.Wait()
		if w.launcher.Shim(ids[0]) != nil {
			w.t.Error("the spare that failed still runs")
		}
		if _, err := w.store.Sandbox(w.t.Context(), ids[0]); !errors.Is(err, errs.NotFound) {
			w.t.Errorf("the spare that failed has a row: %v", err)
		}
	})
}

func TestClientThatLeavesUsesUpOneSpare(t *testing.T) {
	withSpares(t, 3, func(w *world) {
		ctx, leave := context.WithCancel(w.t.Context())
		w.launcher.FailConfigure = func(string) error { leave(); return ctx.Err() }
		if _, err := w.Create(ctx, org, personalSpec()); err == nil {
			w.t.Error("created for a client that left")
		}
		w.launcher.FailConfigure = nil
		if n := w.launcher.Running(); n < 2 {
			w.t.Errorf("%d spares are left", n)
		}
	})
}

func TestDeadSpareIsNotGivenOut(t *testing.T) {
	withSpares(t, 1, func(w *world) {
		ids, err := w.launcher.Leftovers(w.t.Context())
		w.must(err)
		w.launcher.Shim(ids[0]).Crash(api.StopCrashed)
		c := w.create(time.Hour)
		defer c.Close()
		if c.ID() == ids[0] {
			w.t.Error("a dead spare became a sandbox")
		}
		w.wantRunning(c.ID())
	})
}

func TestFailingSparesDontHoldUpCreations(t *testing.T) {
	run(t, func(o *sandbox.Options) {
		o.Spare = sandbox.SpareSpec{Count: 1, Region: "ord", MemoryMiB: 1280}
	}, func(w *world) {
		failures := 1
		w.launcher.Delay = launchTime
		w.launcher.Fail = func(sandbox.ShimSpec) error {
			if failures--; failures >= 0 {
				return errors.New("no machine today")
			}
			return nil
		}
		w.Refill()
		time.Sleep(launchTime / 2)
		c := w.create(time.Hour)
		c.Close()
		w.wantRunning(c.ID())
	})
}
