package agent

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/atollhq/atoll/internal/link"
)

// fakeFreezer notes on the host what it is told.
type fakeFreezer struct {
	shim   *shim
	frozen bool
	err    error
}

func (f *fakeFreezer) Birth(func(int) error) error { return errors.New("nothing is born here") }

func (f *fakeFreezer) Freeze() error {
	f.frozen = true
	_ = f.shim.host.note("freeze")
	return f.err
}

// Thaw notes who the machine is said to be at that moment.
func (f *fakeFreezer) Thaw() error {
	if f.frozen {
		f.frozen = false
		return f.shim.host.note("thaw %s", f.shim.self().SandboxID)
	}
	return nil
}

func (s *shim) freeze(frozen bool) link.Ready {
	s.t.Helper()
	return s.tell(func(w io.Writer) error { return link.SendFreeze(w, link.Freeze{Frozen: frozen}) })
}

// wantTold checks what the kernel was told since it was told before.
func (s *shim) wantTold(before, want string) {
	s.t.Helper()
	if got := strings.TrimPrefix(s.host.told(), before+", "); got != want {
		s.t.Errorf("the kernel was told %q, want %q", got, want)
	}
}

func TestFreeze(t *testing.T) {
	s := startWith(t, Options{Freezer: &fakeFreezer{}})
	if ready := s.freeze(true); ready.Error == "" {
		t.Error("a machine without configuration was frozen")
	}
	s.wantReady(s.configure(parentConfig(s)))
	before := s.host.told()
	for range 2 {
		s.wantReady(s.freeze(true))
		s.wantReady(s.freeze(false))
	}
	s.wantReady(s.freeze(false))
	s.wantTold(before, "freeze, thaw sbx_parent, freeze, thaw sbx_parent")
}

func TestFreezeFails(t *testing.T) {
	s := startWith(t, Options{Freezer: &fakeFreezer{err: errors.New("too warm")}})
	s.wantReady(s.configure(parentConfig(s)))
	before := s.host.told()
	if ready := s.freeze(true); !strings.Contains(ready.Error, "too warm") {
		t.Errorf("got %+v", ready)
	}
	s.wantTold(before, "freeze, thaw sbx_parent") // what it had frozen
}

// TestNothingToFreeze: gVisor's agent is not told to, but would not mind.
func TestNothingToFreeze(t *testing.T) {
	s := start(t)
	s.wantReady(s.configure(parentConfig(s)))
	s.wantReady(s.freeze(true))
	s.wantReady(s.freeze(false))
}

// TestPausedAndFrozen: a machine that was forked while it stood still.
func TestPausedAndFrozen(t *testing.T) {
	s := startWith(t, Options{Freezer: &fakeFreezer{}})
	s.wantReady(s.configure(parentConfig(s)))
	s.wantReady(s.freeze(true))
	before := s.host.told()
	s.wantReady(s.resume(link.Resume{Generation: 1, Entropy: []byte{3}}))
	s.wantTold(before, "entropy 03, thaw sbx_parent")
}

// TestChildThawsLast: its processes go on when it is somebody, and nothing but
// that lets them.
func TestChildThawsLast(t *testing.T) {
	l := make(lives, 1)
	freezer := &fakeFreezer{}
	s := startWith(t, Options{Next: l.next, Freezer: freezer})
	s.wantReady(s.configure(parentConfig(s)))
	s.wantReady(s.freeze(true))
	_ = s.session.Close()
	s.restore(l, 2)
	before := s.host.told()
	for _, frozen := range []bool{true, false} {
		if ready := s.freeze(frozen); ready.Error == "" {
			t.Error("a machine that isn't resumed was frozen or thawed")
		}
	}
	id := childIdentity()
	id.MachineID = "none"
	if ready := s.resume(link.Resume{Generation: 2, Entropy: []byte{3}, Identity: id}); ready.Error == "" {
		t.Error("a bad identity is accepted")
	}
	s.wantTold(before, "entropy 03")
	s.wantReady(s.resume(link.Resume{Generation: 2, Entropy: []byte{4}, CutNetwork: true, Identity: childIdentity()}))
	s.wantTold(before, "entropy 03, entropy 04, cut, hostname child, thaw sbx_child")
	if got := s.file("etc/machine-id"); got != machineID2+"\n" {
		t.Errorf("machine id %q", got)
	}
}

// TestForgottenByItsShim: processes go on after a while, but not in a machine
// whose session has ended: it may be another one by now.
func TestForgottenByItsShim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		freezer := &fakeFreezer{shim: &shim{t: t, root: t.TempDir(), host: &fakeHost{}}}
		freezer.shim.write(identityFile, "{}", 0o644)
		a := &Agent{opts: Options{Freezer: freezer}, log: slog.New(slog.DiscardHandler)}
		s := &session{agent: a, ready: make(chan struct{})}
		close(s.ready)
		frozenAfter := func(wait time.Duration) bool {
			time.Sleep(wait)
			a.once.Lock()
			defer a.once.Unlock()
			return freezer.frozen
		}
		freeze := func() {
			a.once.Lock()
			defer a.once.Unlock()
			if err := s.freeze(link.Freeze{Frozen: true}); err != nil {
				t.Error(err)
			}
		}
		freeze()
		if !frozenAfter(mostFrozen / 2) {
			t.Error("processes went on too early")
		}
		freeze() // begins anew
		if !frozenAfter(mostFrozen - time.Second) {
			t.Error("processes went on too early")
		}
		if frozenAfter(2 * time.Second) {
			t.Error("processes are stopped for good")
		}
		freeze()
		a.sessionEnded()
		if !frozenAfter(100 * mostFrozen) {
			t.Error("processes went on in a machine that does not know who it is")
		}
	})
}

func TestSessionEndsWhileFrozen(t *testing.T) {
	a := &Agent{life: t.Context(), log: slog.New(slog.DiscardHandler)}
	near, far := net.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- a.session(far) }()
	session, err := link.Open(t.Context(), near, 1)
	if err != nil {
		t.Fatal(err)
	}
	a.once.Lock()
	a.thawLater()
	a.once.Unlock()
	_ = session.Close()
	<-ended
	a.once.Lock()
	defer a.once.Unlock()
	if a.late != nil {
		t.Error("processes go on by themselves in what may be another machine")
	}
}
