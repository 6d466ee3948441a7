package machinetest

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/atollhq/atoll/internal/machine"
)

func pause(t *testing.T, m machine.Machine) {
	t.Helper()
	for range 2 {
		if err := m.(machine.Pauser).Pause(deadline(t)); err != nil {
			t.Fatalf("pause: %v", err)
		}
	}
}

func resume(t *testing.T, m machine.Machine) {
	t.Helper()
	for range 2 {
		if err := m.(machine.Pauser).Resume(deadline(t)); err != nil {
			t.Fatalf("resume: %v", err)
		}
	}
}

// save saves a machine into a directory of its own.
func save(t *testing.T, d machine.Driver, m machine.Machine, leave bool) machine.Snapshot {
	t.Helper()
	o := machine.SaveOptions{Dir: t.TempDir(), Leave: leave}
	snapshot, err := m.(machine.Saver).Save(deadline(t), o)
	if err != nil {
		t.Fatalf("save: %v", err)
	}
	if snapshot.Close != nil {
		t.Cleanup(func() {
			if err := snapshot.Close(); err != nil {
				t.Errorf("close snapshot: %v", err)
			}
		})
	}
	if snapshot.Driver != d.Info().Name || snapshot.Dir != o.Dir || snapshot.Bytes < 0 || snapshot.StoodStill < 0 {
		t.Errorf("snapshot %+v", snapshot)
	}
	return snapshot
}

// carried is a snapshot as another process gets it.
func carried(t *testing.T, snapshot machine.Snapshot) machine.Snapshot {
	t.Helper()
	raw, err := json.Marshal(snapshot)
	if err != nil {
		t.Fatal(err)
	}
	var got machine.Snapshot
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatal(err)
	}
	return got
}

// restore makes a machine of a snapshot.
func (s *suite) restore(t *testing.T, d machine.Driver, from machine.Snapshot) machine.Machine {
	t.Helper()
	spec := s.spec(t)
	m, err := d.(machine.Restorer).Restore(deadline(t), spec, carried(t, from))
	if err != nil {
		t.Fatalf("restore: %v", err)
	}
	s.destroyAtEnd(t, m, spec)
	return m
}

func (s *suite) pausedStandsStill(t *testing.T) {
	m := s.start(t, s.New(t), s.spec(t))
	c := converse(t, m)
	resume(t, m) // it runs already
	for range 2 {
		pause(t, m)
		c.standsStill(t, func() { resume(t, m) })
		c.answers(t)
	}
}

func (s *suite) cancelledPause(t *testing.T) {
	m := s.start(t, s.New(t), s.spec(t))
	c := converse(t, m)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.(machine.Pauser).Pause(ctx); err == nil {
		c.standsStill(t, func() { resume(t, m) })
	} else if !errors.Is(err, context.Canceled) {
		t.Errorf("pause: %v; want %v", err, context.Canceled)
	}
	c.answers(t)
}

func (s *suite) stopPaused(t *testing.T) {
	m := s.start(t, s.New(t), s.spec(t))
	converse(t, m)
	pause(t, m)
	if err := m.Stop(deadline(t)); err != nil {
		t.Fatalf("stop: %v", err)
	}
	if e := exit(t, m); e.Reason != machine.ExitStopped {
		t.Errorf("exit: %+v; want %q", e, machine.ExitStopped)
	}
	if err := m.(machine.Pauser).Pause(deadline(t)); err == nil {
		t.Error("a machine that has ended was paused")
	}
}

func (s *suite) destroyPaused(t *testing.T) {
	spec := s.spec(t)
	m := s.start(t, s.New(t), spec)
	converse(t, m)
	pause(t, m)
	if err := m.Destroy(deadline(t)); err != nil {
		t.Fatalf("destroy: %v", err)
	}
	exit(t, m)
	s.checkGone(t, spec)
}

func (s *suite) crashPaused(t *testing.T) {
	d := s.New(t)
	m := s.start(t, d, s.spec(t))
	converse(t, m)
	pause(t, m)
	s.Crash(t, d, m)
	if e := exit(t, m); e.Reason != machine.ExitCrashed {
		t.Errorf("exit: %+v; want %q", e, machine.ExitCrashed)
	}
}

func (s *suite) reattachPaused(t *testing.T) {
	spec := s.spec(t)
	d := s.New(t)
	m := s.start(t, d, spec)
	converse(t, m)
	pause(t, m)
	again, err := d.Reattach(deadline(t), m.State())
	if err != nil {
		t.Fatalf("reattach: %v", err)
	}
	if err := again.Destroy(deadline(t)); err != nil {
		t.Fatalf("destroy: %v", err)
	}
	exit(t, m)
	s.checkGone(t, spec)
}

func (s *suite) saveAndGoOn(t *testing.T) {
	d := s.New(t)
	m := s.start(t, d, s.spec(t))
	c := converse(t, m)
	for range 2 {
		save(t, d, m, true)
		c.answers(t)
	}
}

func (s *suite) saveAndEnd(t *testing.T) {
	d := s.New(t)
	m := s.start(t, d, s.spec(t))
	converse(t, m)
	snapshot := save(t, d, m, false)
	select {
	case e := <-m.Exited():
		if e.Reason != machine.ExitSaved {
			t.Errorf("exit: %+v; want %q", e, machine.ExitSaved)
		}
	default:
		t.Fatal("saved to end, and still there")
	}
	if err := m.Destroy(deadline(t)); err != nil {
		t.Fatalf("destroy: %v", err)
	}
	continued(t, s.restore(t, s.New(t), snapshot), 2)
}

// A machine that can't be saved goes on, and can be saved later.
func (s *suite) saveFails(t *testing.T) {
	d := s.New(t)
	m := s.start(t, d, s.spec(t))
	c := converse(t, m)
	noDir := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(noDir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dirs := []string{noDir}
	if s.Full != nil {
		dirs = append(dirs, s.Full(t))
	}
	for _, dir := range dirs {
		for _, leave := range []bool{true, false} {
			if _, err := m.(machine.Saver).Save(deadline(t), machine.SaveOptions{Dir: dir, Leave: leave}); err == nil {
				t.Fatalf("saved into %s", dir)
			}
			c.answers(t)
		}
	}
	continued(t, s.restore(t, d, save(t, d, m, true)), 2)
}

func (s *suite) cancelledSave(t *testing.T) {
	d := s.New(t)
	m := s.start(t, d, s.spec(t))
	c := converse(t, m)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, leave := range []bool{true, false} {
		_, err := m.(machine.Saver).Save(ctx, machine.SaveOptions{Dir: t.TempDir(), Leave: leave})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("save: %v; want %v", err, context.Canceled)
		}
		c.answers(t)
	}
}

// Two machines continue from one snapshot, and neither changes it or disturbs
// the one that was saved.
func (s *suite) restoreTwice(t *testing.T) {
	d := s.New(t)
	parent := s.start(t, d, s.spec(t))
	c := converse(t, parent)
	snapshot := save(t, d, parent, true)
	before := digests(t, snapshot.Dir)
	children := make([]machine.Machine, 2)
	var all sync.WaitGroup
	for i := range children {
		spec := s.spec(t)
		all.Go(func() {
			m, err := d.(machine.Restorer).Restore(deadline(t), spec, carried(t, snapshot))
			if err != nil {
				t.Errorf("restore: %v", err)
				return
			}
			s.destroyAtEnd(t, m, spec)
			children[i] = m
		})
	}
	all.Wait()
	if t.Failed() {
		return
	}
	for _, child := range children {
		cc := continued(t, child, 2)
		if settler, ok := child.(machine.Settler); ok {
			if err := settler.Settle(); err != nil {
				t.Errorf("settle: %v", err)
			}
		}
		cc.answers(t)
	}
	c.answers(t)
	if diff := cmp.Diff(before, digests(t, snapshot.Dir)); diff != "" {
		t.Errorf("the snapshot changed (-before +after):\n%s", diff)
	}
}

// A restored machine is a machine like any other: it can be saved and its
// state restored again.
func (s *suite) restoreOfRestored(t *testing.T) {
	d := s.New(t)
	m := s.start(t, d, s.spec(t))
	converse(t, m)
	for generation := uint32(2); generation < 4; generation++ {
		m = s.restore(t, d, save(t, d, m, false))
		continued(t, m, generation)
	}
}

func (s *suite) restoreFails(t *testing.T) {
	d := s.New(t)
	m := s.start(t, d, s.spec(t))
	converse(t, m)
	good := save(t, d, m, true)
	foreign, empty := good, good
	foreign.Driver = "none"
	empty.Dir, empty.Memory = t.TempDir(), ""
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	refusal := errors.New("no card today")
	for _, c := range []struct {
		name string
		ctx  context.Context
		from machine.Snapshot
		card error
	}{
		{"snapshot of another driver", deadline(t), foreign, nil},
		{"nothing in the directory", deadline(t), empty, nil},
		{"cancelled", cancelled, good, nil},
		{"card refused", deadline(t), good, refusal},
	} {
		spec := s.spec(t)
		if c.card != nil {
			spec.AttachNIC = func(machine.NIC) error { return c.card }
		}
		child, err := d.(machine.Restorer).Restore(c.ctx, spec, c.from)
		if err == nil {
			_ = child.Destroy(deadline(t))
			t.Errorf("%s: restored", c.name)
		}
		if c.card != nil && !errors.Is(err, c.card) {
			t.Errorf("%s: %v", c.name, err)
		}
		s.checkGone(t, spec)
	}
}

func (s *suite) savePaused(t *testing.T) {
	d := s.New(t)
	m := s.start(t, d, s.spec(t))
	c := converse(t, m)
	pause(t, m)
	snapshot := save(t, d, m, true)
	c.standsStill(t, func() { resume(t, m) })
	c.answers(t)
	continued(t, s.restore(t, d, snapshot), 2)
	pause(t, m)
	save(t, d, m, false)
	if e := exit(t, m); e.Reason != machine.ExitSaved {
		t.Errorf("exit: %+v; want %q", e, machine.ExitSaved)
	}
}

// Processes are stopped while the machine runs, and it is then as before,
// whether they were or not.
func (s *suite) freezeBeforeSave(t *testing.T) {
	d := s.New(t)
	m := s.start(t, d, s.spec(t))
	c := converse(t, m)
	refusal := errors.New("no ice today")
	for _, paused := range []bool{false, true} {
		if paused {
			pause(t, m)
		}
		for _, refused := range []error{nil, refusal} {
			calls := 0
			freeze := func(context.Context) error {
				calls++
				c.answers(t)
				return refused
			}
			_, err := m.(machine.Saver).Save(deadline(t), machine.SaveOptions{Dir: t.TempDir(), Leave: true, Freeze: freeze})
			switch {
			case !s.Freezes:
				if calls != 0 || err != nil {
					t.Errorf("save: %v after %d calls; it has nothing to freeze", err, calls)
				}
			case calls != 1 || !errors.Is(err, refused):
				t.Errorf("save: %v after %d calls; want %v", err, calls, refused)
			}
			if paused {
				c.standsStill(t, func() { resume(t, m) })
				pause(t, m)
			} else {
				c.answers(t)
			}
		}
	}
}

// digests are of a directory's files.
func digests(t *testing.T, dir string) map[string][sha256.Size]byte {
	t.Helper()
	all := map[string][sha256.Size]byte{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		h := sha256.New()
		if _, err := io.Copy(h, f); err != nil {
			return err
		}
		all[path] = [sha256.Size]byte(h.Sum(nil))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
