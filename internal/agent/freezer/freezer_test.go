package freezer

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tree is a directory that looks like the kernel's, whose part the test plays.
type tree struct {
	t   *testing.T
	dir string
	log strings.Builder
	*Freezer
}

func newTree(t *testing.T) *tree {
	t.Helper()
	r := &tree{t: t, dir: t.TempDir(), Freezer: &Freezer{}}
	root, err := os.Open(r.dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.start(root, slog.New(slog.NewTextHandler(&r.log, nil))); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = errors.Join(r.root.Close(), r.group.Close()) })
	r.own = filepath.Join(t.TempDir(), "own")
	r.write(r.own, "0::/\n")
	r.write(filepath.Join(r.dir, "cgroup.procs"), "")
	r.fill(groupName, true)
	return r
}

func (r *tree) write(path, text string) {
	r.t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// fill makes the kernel's files in a group, which is or isn't frozen when it
// is to be.
func (r *tree) fill(name string, obeys bool) {
	r.t.Helper()
	if err := os.MkdirAll(filepath.Join(r.dir, name), 0o700); err != nil {
		r.t.Fatal(err)
	}
	r.write(filepath.Join(r.dir, name, "cgroup.freeze"), "0\n")
	r.obey(name, obeys)
}

func (r *tree) obey(name string, obeys bool) {
	r.t.Helper()
	frozen := 0
	if obeys {
		frozen = 1
	}
	path := filepath.Join(r.dir, name, "cgroup.events")
	r.write(path+".new", fmt.Sprintf("populated 1\nfrozen %d\n", frozen))
	if err := os.Rename(path+".new", path); err != nil { // in one step, as it may be read
		r.t.Fatal(err)
	}
}

// wantTold checks what each group was told last.
func (r *tree) wantTold(want map[string]string) {
	r.t.Helper()
	for name, want := range want {
		got, err := os.ReadFile(filepath.Join(r.dir, name, "cgroup.freeze"))
		if err != nil || strings.TrimSpace(string(got)) != want {
			r.t.Errorf("%s was told %q (%v), want %s", name, got, err, want)
		}
	}
}

func (r *tree) must(do func() error) {
	r.t.Helper()
	if err := do(); err != nil {
		r.t.Fatal(err)
	}
}

// TestAllGroups: the guest's as well, but for what it has frozen itself.
func TestAllGroups(t *testing.T) {
	r := newTree(t)
	r.fill("docker", true)
	r.fill("held", false)
	r.write(filepath.Join(r.dir, "held/cgroup.freeze"), "1\n")
	r.must(r.Thaw) // nothing is frozen
	for _, later := range []string{"later", "even-later"} {
		r.must(r.Freeze)
		r.wantTold(map[string]string{groupName: "1", "docker": "1", "held": "1"})
		r.fill(later, true)
		r.must(r.Freeze)
		r.wantTold(map[string]string{later: "1"})
		r.must(r.Thaw)
		r.must(r.Thaw)
		r.wantTold(map[string]string{groupName: "0", "docker": "0", "held": "1", later: "0"})
	}
	if r.log.Len() > 0 {
		t.Errorf("logged: %s", r.log.String())
	}
}

func TestAwaitsWhatStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTree(t)
		r.obey(groupName, false)
		began := time.Now()
		time.AfterFunc(patience/2, func() {
			r.fill("made-meanwhile", true)
			r.obey(groupName, true)
		})
		r.must(r.Freeze)
		if took := time.Since(began); took < patience/2 || took >= patience {
			t.Errorf("it took %s", took)
		}
		r.wantTold(map[string]string{groupName: "1", "made-meanwhile": "1"})
		r.must(r.Thaw)
		r.wantTold(map[string]string{groupName: "0", "made-meanwhile": "0"})
	})
}

// TestWhatDoesNotStop is waited for so long, and no longer.
func TestWhatDoesNotStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTree(t)
		r.fill("busy", false)
		r.obey(groupName, false)
		began := time.Now()
		r.must(r.Freeze)
		if took := time.Since(began); took < patience || took > patience+time.Second {
			t.Errorf("it took %s", took)
		}
		r.wantTold(map[string]string{groupName: "1", "busy": "1"})
		if !strings.Contains(r.log.String(), "group=busy") {
			t.Errorf("logged: %s", r.log.String())
		}
		r.must(r.Thaw)
	})
}

// TestWhatIsRemoved meanwhile needs no ice.
func TestWhatIsRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTree(t)
		r.fill("short", false)
		if err := os.Mkdir(filepath.Join(r.dir, "empty"), 0o700); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(patience/2, func() { _ = os.RemoveAll(filepath.Join(r.dir, "short")) })
		r.must(r.Freeze)
		r.must(r.Thaw)
		if r.log.Len() > 0 {
			t.Errorf("logged: %s", r.log.String())
		}
	})
}

func TestTooManyGroups(t *testing.T) {
	r := newTree(t)
	for n := range maxEntries {
		if err := os.Mkdir(filepath.Join(r.dir, fmt.Sprint(n)), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Freeze(); err == nil {
		t.Error("some were left out in silence")
	}
	r.must(r.Thaw)
	r.wantTold(map[string]string{groupName: "0"})
}

// TestAgentLeavesTheGuestsGroups before it freezes them.
func TestAgentLeavesTheGuestsGroups(t *testing.T) {
	r := newTree(t)
	r.must(r.Freeze)
	r.must(r.Thaw)
	procs := filepath.Join(r.dir, "cgroup.procs")
	if got, _ := os.ReadFile(procs); len(got) > 0 {
		t.Errorf("it moved although it was there: %q", got)
	}
	r.write(r.own, "1:name=mine:/\n0::/init\n")
	r.must(r.Freeze)
	if got, _ := os.ReadFile(procs); string(got) != "0" {
		t.Errorf("it wrote %q", got)
	}
}

func TestNoBirthWhileFrozen(t *testing.T) {
	r := newTree(t)
	r.must(r.Freeze)
	if r.births.TryRLock() {
		t.Error("a process could be born frozen")
	}
	born := make(chan error, 1)
	go func() { born <- r.Birth(func(int) error { return nil }) }()
	r.must(r.Thaw)
	if err := <-born; err != nil {
		t.Error(err)
	}
}

// births records in which groups processes were to be born.
type births struct {
	groups  []string
	refused []error // of the first ones
}

func (b *births) start(group int) error {
	name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", group))
	if err != nil {
		return err
	}
	b.groups = append(b.groups, filepath.Base(name))
	if len(b.refused) == 0 {
		return nil
	}
	err, b.refused = b.refused[0], b.refused[1:]
	return err
}

// TestGroupOfNoUse is replaced, and the guest's own of that name are not used.
func TestGroupOfNoUse(t *testing.T) {
	for _, reason := range []error{unix.EBUSY, unix.EOPNOTSUPP} {
		r := newTree(t)
		r.fill(groupName+"-2", true)
		b := births{refused: []error{reason}}
		r.must(func() error { return r.Birth(b.start) })
		r.must(func() error { return r.Birth(b.start) })
		if got := strings.Join(b.groups, " "); got != "sandbox sandbox-3 sandbox-3" {
			t.Errorf("%v: born in %s", reason, got)
		}
	}
}

func TestGroupThatIsGone(t *testing.T) {
	r := newTree(t)
	if err := os.RemoveAll(filepath.Join(r.dir, groupName)); err != nil {
		t.Fatal(err)
	}
	b := births{refused: []error{unix.ENODEV}}
	r.must(func() error { return r.Birth(b.start) })
	if got := strings.Join(b.groups, " "); got != "sandbox (deleted) sandbox" {
		t.Errorf("born in %s", got)
	}
	b.refused = []error{unix.EBUSY, unix.EBUSY}
	if err := r.Birth(b.start); !errors.Is(err, unix.EBUSY) || len(b.groups) != 4 {
		t.Errorf("%v, after %d attempts", err, len(b.groups))
	}
}

// TestRefusedBirth: that a program can't be started is not the group's fault.
func TestRefusedBirth(t *testing.T) {
	r := newTree(t)
	b := births{refused: []error{unix.ENOENT}}
	if err := r.Birth(b.start); !errors.Is(err, unix.ENOENT) || len(b.groups) != 1 {
		t.Errorf("%v, after %d attempts", err, len(b.groups))
	}
}

func TestAllNamesTaken(t *testing.T) {
	r := newTree(t)
	for n := range maxNames {
		r.fill(fmt.Sprintf("%s-%d", groupName, n+1), true)
	}
	b := births{refused: []error{unix.EBUSY}}
	if err := r.Birth(b.start); err == nil {
		t.Error("it found another name")
	}
}
