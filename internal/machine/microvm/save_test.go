package microvm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/atollhq/atoll/internal/machine"
)

// A machine that was to go on and did not say so may run: whoever pauses it or
// saves it then does not take it for one that stands still.
func TestMachineThatMayRunIsPausedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var heard []string
		slow := ""
		beSlow := func(command string) {
			mu.Lock()
			defer mu.Unlock()
			slow = command
		}
		isSlow := func(command string) bool {
			mu.Lock()
			defer mu.Unlock()
			heard = append(heard, command)
			return command == slow
		}
		m := withQEMU(t, func(command string) string {
			if isSlow(command) {
				time.Sleep(10 * time.Second)
			}
			return `{"return": {}}`
		})
		step := func(name string, do func(context.Context) error, want error) {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			if err := do(ctx); !errors.Is(err, want) {
				t.Errorf("%s: %v; want %v", name, err, want)
			}
			time.Sleep(time.Minute) // QEMU has done by then what it was asked to
		}
		step("pause", m.Pause, nil)
		step("pause again", m.Pause, nil)
		beSlow("cont")
		step("slow resume", m.Resume, context.DeadlineExceeded)
		beSlow("")
		step("pause of what may run", m.Pause, nil)
		step("resume", m.Resume, nil)
		step("resume again", m.Resume, nil)
		beSlow("stop")
		step("slow pause", m.Pause, context.DeadlineExceeded)
		beSlow("")
		step("resume of what was taken back", m.Resume, nil)
		mu.Lock()
		defer mu.Unlock()
		want := []string{"stop", "cont", "stop", "cont", "stop", "cont"}
		if diff := cmp.Diff(want, heard); diff != "" {
			t.Errorf("QEMU heard (-want +got):\n%s", diff)
		}
	})
}

// A machine that may write to a file that isn't counted as its disk's is not
// saved without that file.
func TestDiskThatMayBeElsewhereIsNotSaved(t *testing.T) {
	for name, c := range map[string]struct {
		answer string
		takes  time.Duration
		lost   bool
	}{
		"refused":     {`{"error": {"desc": "no"}}`, 0, false},
		"no answer":   {`{"return": {}}`, time.Minute, true},
		"too late no": {`{"error": {"desc": "no"}}`, time.Minute, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := withQEMU(t, func(command string) string {
					if command == "blockdev-snapshot" {
						time.Sleep(c.takes)
						return c.answer
					}
					return `{"return": {}}`
				})
				m.disks = []string{baseDisk}
				failure := m.addTop(t.Context(), "disk1.qcow2")
				if failure == nil {
					t.Fatal("the file is there")
				}
				time.Sleep(time.Hour)
				_, err := m.Save(t.Context(), machine.SaveOptions{Dir: "/nonexistent"})
				if lost := errors.Is(err, failure); err == nil || lost != c.lost {
					t.Errorf("save: %v", err)
				}
			})
		})
	}
}

// What QEMU does to its file afterwards changes nothing of what was saved.
func TestKeptStateIsNotQEMUs(t *testing.T) {
	from, to := filepath.Join(t.TempDir(), "state"), filepath.Join(t.TempDir(), "state")
	write(t, from, "the state")
	qemus, err := os.OpenFile(from, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = qemus.Close() }()
	if err := keepState(to, from); err != nil {
		t.Fatal(err)
	}
	if _, err := qemus.WriteAt([]byte("another"), 0); err != nil {
		t.Fatal(err)
	}
	if got := read(t, filepath.Dir(to), "state"); got != "the state" {
		t.Errorf("it became %q", got)
	}
}

// A state that no machine has is not kept, and takes no disk any more.
func TestStateIsBounded(t *testing.T) {
	from, to := filepath.Join(t.TempDir(), "state"), filepath.Join(t.TempDir(), "state")
	write(t, from, "")
	if err := os.Truncate(from, maxState); err != nil {
		t.Fatal(err)
	}
	if err := keepState(to, from); err != nil {
		t.Error(err)
	}
	if err := os.Truncate(from, maxState+1); err != nil {
		t.Fatal(err)
	}
	if err := keepState(to, from); err == nil {
		t.Errorf("%d bytes were kept", maxState+1)
	}
	if info, err := os.Stat(from); err != nil || info.Size() != 0 {
		t.Errorf("left: %v (%v)", info, err)
	}
}
