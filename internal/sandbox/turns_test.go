package sandbox_test

import (
	"sync"
	"testing"
	"time"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/sandbox"
)

// createAs creates a sandbox of an organisation.
func (w *world) createAs(org string) (id string) {
	w.t.Helper()
	c, err := w.Create(w.t.Context(), org, sandbox.Spec{Region: "ord", MemoryMiB: 1280, StopAt: time.Now().Add(4 * time.Hour)})
	w.must(err)
	c.Close()
	return c.ID()
}

// Guests whose agents don't answer when they continue keep nobody else from
// starting.
func TestSilentGuestsLeaveTurnsToOthers(t *testing.T) {
	const many = 6
	for name, beSilent := range map[string]func(w *world, ids []string) (waiting func()){
		"children": func(w *world, ids []string) func() {
			w.launcher.Fail = func(spec sandbox.ShimSpec) error {
				if spec.Origin != nil {
					time.Sleep(time.Hour)
				}
				return nil
			}
			return w.each(ids, func(id string) error {
				_, err := w.Fork(w.t.Context(), org, id, sandbox.ForkSpec{Count: many})
				return err
			})
		},
		"forks": func(w *world, ids []string) func() {
			w.slow("fork", time.Hour)
			return w.each(ids, func(id string) error {
				_, err := w.Fork(w.t.Context(), org, id, sandbox.ForkSpec{Count: 1})
				return err
			})
		},
		"resumes from disk": func(w *world, ids []string) func() {
			for _, id := range ids {
				w.pause(id, true)
			}
			w.slow("resume", time.Hour)
			return w.each(ids, func(id string) error { return w.Resume(w.t.Context(), org, id) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, nil, func(w *world) {
				var ids []string
				for range many {
					ids = append(ids, w.createAs(org))
				}
				wait := beSilent(w, ids)
				time.Sleep(time.Second)
				for range 3 {
					began := time.Now()
					w.createAs("another")
					if took := time.Since(began); took > 20*time.Second {
						t.Errorf("another organisation's sandbox starts after %s", took)
					}
					time.Sleep(10 * time.Second)
				}
				wait()
			})
		})
	}
}

// each does something to all sandboxes at once, which fails; wait returns when it
// has.
func (w *world) each(ids []string, do func(id string) error) (wait func()) {
	var all sync.WaitGroup
	for _, id := range ids {
		all.Go(func() {
			if err := do(id); err == nil {
				w.t.Error("it went well")
			}
		})
	}
	return all.Wait
}

// The children of one fork come one after the other where there are few turns.
func TestForkHasItsTurnsAlone(t *testing.T) {
	run(t, func(o *sandbox.Options) { o.Starts = 1 }, func(w *world) {
		children, err := w.Fork(w.t.Context(), org, w.createAs(org), sandbox.ForkSpec{Count: 3})
		w.must(err)
		for _, child := range children {
			w.wantPower(child.ID, api.PowerRunning)
		}
	})
}
