// Package machinetest is the conformance suite of the driver contract. Every
// driver runs it: the fake one in unit tests, the real ones in the end-to-end
// tests, with the real agent inside.
package machinetest

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/atollhq/atoll/internal/link"
	"github.com/atollhq/atoll/internal/machine"
)

// patience bounds every wait of the suite.
const patience = 2 * time.Minute

// Harness is what a driver brings to the suite.
type Harness struct {
	// New returns a driver, as a freshly started process would have it.
	New func(t *testing.T) machine.Driver
	// Spec returns a complete spec but for ID, Dir and AttachNIC.
	Spec func(t *testing.T) machine.Spec
	// Crash makes a running machine die by itself.
	Crash func(t *testing.T, d machine.Driver, m machine.Machine)
	// Full returns a directory in which no file can be filled. Nil skips what
	// needs one.
	Full func(t *testing.T) string
	// Leaks lists what is left on the host of the machine with this id, beyond
	// its directory. Nil when there is nothing to look at.
	Leaks func(id string) []string
}

type suite struct {
	Harness
	next int
}

// Run runs the suite.
func Run(t *testing.T, h Harness) {
	s := &suite{Harness: h}
	has := h.New(t).Info().Features
	always := machine.Features{}
	pause, save := machine.Features{Pause: true}, machine.Features{Save: true}
	for _, c := range []struct {
		name  string
		needs machine.Features
		run   func(*testing.T)
	}{
		{"AgentAnswers", always, s.agentAnswers},
		{"CardBeforeGuest", always, s.cardBeforeGuest},
		{"CardRefused", always, s.cardRefused},
		{"BadSpec", always, s.badSpec},
		{"CancelledStart", always, s.cancelledStart},
		{"StopIsIdempotent", always, s.stopIsIdempotent},
		{"DestroyRunning", always, s.destroyRunning},
		{"CrashIsReported", always, s.crashIsReported},
		{"ReattachDestroys", always, s.reattachDestroys},
		{"ReattachGone", always, s.reattachGone},
		{"SeveralAtOnce", always, s.severalAtOnce},
		{"PausedStandsStill", pause, s.pausedStandsStill},
		{"CancelledPause", pause, s.cancelledPause},
		{"StopPaused", pause, s.stopPaused},
		{"DestroyPaused", pause, s.destroyPaused},
		{"CrashPaused", pause, s.crashPaused},
		{"ReattachPaused", pause, s.reattachPaused},
		{"SaveAndGoOn", save, s.saveAndGoOn},
		{"SaveAndEnd", save, s.saveAndEnd},
		{"SaveFails", save, s.saveFails},
		{"CancelledSave", save, s.cancelledSave},
		{"RestoreTwice", save, s.restoreTwice},
		{"RestoreOfRestored", save, s.restoreOfRestored},
		{"RestoreFails", save, s.restoreFails},
		{"SavePaused", both(pause, save), s.savePaused},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.needs.Pause && !has.Pause || c.needs.Save && !has.Save {
				t.Skipf("the driver lacks a feature: it has %+v, the case needs %+v", has, c.needs)
			}
			c.run(t)
		})
	}
}

func both(a, b machine.Features) machine.Features {
	return machine.Features{Pause: a.Pause || b.Pause, Save: a.Save || b.Save}
}

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// spec completes the harness's spec for one machine, whose network card goes
// nowhere.
func (s *suite) spec(t *testing.T) machine.Spec {
	t.Helper()
	s.next++
	spec := s.Spec(t)
	spec.ID = "conformance-" + filepath.Base(t.TempDir()) + "-" + time.Now().Format("150405.000000")
	spec.Dir = filepath.Join(t.TempDir(), "machine")
	if err := os.Mkdir(spec.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	spec.AttachNIC = func(nic machine.NIC) error {
		t.Cleanup(func() { _ = nic.File.Close() })
		return nil
	}
	return spec
}

func (s *suite) start(t *testing.T, d machine.Driver, spec machine.Spec) machine.Machine {
	t.Helper()
	m, err := d.Start(deadline(t), spec)
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	s.destroyAtEnd(t, m, spec)
	return m
}

func (s *suite) destroyAtEnd(t *testing.T, m machine.Machine, spec machine.Spec) {
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := m.Destroy(ctx); err != nil {
			t.Errorf("destroy: %v", err)
		}
		s.checkGone(t, spec)
	})
}

func (s *suite) checkGone(t *testing.T, spec machine.Spec) {
	t.Helper()
	if _, err := os.Stat(spec.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the machine's directory is still there (%v)", err)
	}
	if s.Leaks == nil {
		return
	}
	if left := s.Leaks(spec.ID); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// converse opens the link of a started machine and has the agent answer.
func converse(t *testing.T, m machine.Machine) *conversation {
	t.Helper()
	c := open(t, m, 1)
	config := link.Config{
		Generation: 1, Hostname: "conformance", MemoryBytes: 512 << 20, TimeUnixNs: time.Now().UnixNano(),
		UserID: 1000, GroupID: 1000, User: "app", Home: "/home/app", MaxMessage: 1 << 20,
	}
	if booter, ok := m.(machine.Booter); ok {
		boot := booter.Boot()
		config.Boot = &boot
	}
	c.ask(t, config)
	return c
}

func exit(t *testing.T, m machine.Machine) machine.Exit {
	t.Helper()
	select {
	case e := <-m.Exited():
		return e
	case <-time.After(patience):
		t.Fatal("the machine's end is not reported")
		return machine.Exit{}
	}
}

func (s *suite) agentAnswers(t *testing.T) {
	converse(t, s.start(t, s.New(t), s.spec(t)))
}

func (s *suite) cardBeforeGuest(t *testing.T) {
	spec := s.spec(t)
	var card machine.NIC
	spec.AttachNIC = func(nic machine.NIC) error {
		card = nic
		t.Cleanup(func() { _ = nic.File.Close() })
		return nil
	}
	s.start(t, s.New(t), spec)
	if card.File == nil || card.MTU != spec.Network.MTU || card.Kind == "" {
		t.Errorf("the card was %+v when the machine ran", card)
	}
}

func (s *suite) cardRefused(t *testing.T) {
	refusal := errors.New("no card today")
	spec := s.spec(t)
	spec.AttachNIC = func(machine.NIC) error { return refusal }
	s.startFails(t, deadline(t), spec, refusal)
}

func (s *suite) badSpec(t *testing.T) {
	spec := s.spec(t)
	spec.Image.File = filepath.Join(t.TempDir(), "missing.erofs")
	s.startFails(t, deadline(t), spec, os.ErrNotExist)
}

func (s *suite) cancelledStart(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.startFails(t, ctx, s.spec(t), context.Canceled)
}

func (s *suite) startFails(t *testing.T, ctx context.Context, spec machine.Spec, want error) {
	t.Helper()
	m, err := s.New(t).Start(ctx, spec)
	if err == nil {
		_ = m.Destroy(deadline(t))
		t.Fatal("start succeeded")
	}
	if !errors.Is(err, want) {
		t.Errorf("start: %v; want %v", err, want)
	}
	s.checkGone(t, spec)
}

func (s *suite) stopIsIdempotent(t *testing.T) {
	m := s.start(t, s.New(t), s.spec(t))
	converse(t, m)
	for range 2 {
		if err := m.Stop(deadline(t)); err != nil {
			t.Fatalf("stop: %v", err)
		}
	}
	if e := exit(t, m); e.Reason != machine.ExitStopped {
		t.Errorf("exit: %+v; want %q", e, machine.ExitStopped)
	}
	if e := exit(t, m); e != (machine.Exit{}) {
		t.Errorf("a second exit: %+v", e)
	}
}

func (s *suite) destroyRunning(t *testing.T) {
	spec := s.spec(t)
	m := s.start(t, s.New(t), spec)
	for range 2 {
		if err := m.Destroy(deadline(t)); err != nil {
			t.Fatalf("destroy: %v", err)
		}
	}
	s.checkGone(t, spec)
}

func (s *suite) crashIsReported(t *testing.T) {
	d := s.New(t)
	m := s.start(t, d, s.spec(t))
	converse(t, m)
	s.Crash(t, d, m)
	if e := exit(t, m); e.Reason != machine.ExitCrashed {
		t.Errorf("exit: %+v; want %q", e, machine.ExitCrashed)
	}
}

func (s *suite) reattachDestroys(t *testing.T) {
	spec := s.spec(t)
	d := s.New(t)
	m := s.start(t, d, spec)
	raw, err := json.Marshal(m.State())
	if err != nil {
		t.Fatal(err)
	}
	var state machine.State
	if err := json.Unmarshal(raw, &state); err != nil {
		t.Fatal(err)
	}
	again, err := d.Reattach(deadline(t), state)
	if err != nil {
		t.Fatalf("reattach: %v", err)
	}
	if again.Link() != nil {
		t.Error("a reattached machine has a link")
	}
	if err := again.Destroy(deadline(t)); err != nil {
		t.Fatalf("destroy: %v", err)
	}
	exit(t, m)
	s.checkGone(t, spec)
}

func (s *suite) reattachGone(t *testing.T) {
	d := s.New(t)
	st := machine.State{Driver: d.Info().Name, ID: "conformance-never-was", Dir: filepath.Join(t.TempDir(), "none")}
	m, err := d.Reattach(deadline(t), st)
	if err != nil {
		t.Fatalf("reattach: %v", err)
	}
	exit(t, m)
	if err := m.Destroy(deadline(t)); err != nil {
		t.Errorf("destroy: %v", err)
	}
}

func (s *suite) severalAtOnce(t *testing.T) {
	d := s.New(t)
	var machines []machine.Machine
	for range 3 {
		machines = append(machines, s.start(t, d, s.spec(t)))
	}
	for _, m := range machines {
		converse(t, m)
	}
}
