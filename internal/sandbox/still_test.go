package sandbox_test

import (
	"errors"
	"testing"
	"time"

	"github.com/atollhq/atoll/api"
)

// A guest whose agent doesn't answer when it is resumed runs, and so does its
// lifetime.
func TestLifetimeOfAGuestThatKeepsSilent(t *testing.T) {
	for name, resume := range map[string]func(w *world, id string){
		"the shim says so": func(w *world, id string) {
			w.launcher.FailPower = func(id, _ string) error {
				w.launcher.FailPower = nil
				w.must(w.launcher.Shim(id).Resume(w.t.Context()))
				return errors.New("no answer from the agent")
			}
			wantCode(w.t, w.Resume(w.t.Context(), org, id), "RESUME_FAILED")
		},
		"when nobody waits any more": func(w *world, id string) {
			w.must(w.launcher.Shim(id).Resume(w.t.Context()))
			time.Sleep(2 * time.Minute)
		},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, nil, func(w *world) {
				c := w.create(10 * time.Minute)
				c.Close()
				for _, toDisk := range []bool{false, true} {
					w.pause(c.ID(), toDisk)
					resume(w, c.ID())
					w.wantPower(c.ID(), api.PowerRunning)
					if sb := w.info(c.ID()); sb.StopAt == nil {
						t.Errorf("it has no end: %+v", sb)
					}
				}
				time.Sleep(10 * time.Minute)
				w.wantStopped(c.ID(), api.StopTimeout)
			})
		})
	}
}
