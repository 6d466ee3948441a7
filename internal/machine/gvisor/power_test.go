package gvisor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/atollhq/atoll/internal/machine"
)

// A guest of which runsc says that it can't be stopped may stand still all the
// same: it is told to go on.
func TestFailedPauseIsTakenBack(t *testing.T) {
	for name, pause := range map[string]func(*testing.T, *gvisorMachine) error{
		"pause": func(t *testing.T, m *gvisorMachine) error { return m.Pause(t.Context()) },
		"save": func(t *testing.T, m *gvisorMachine) error {
			_, err := m.Save(t.Context(), machine.SaveOptions{Dir: t.TempDir()})
			return err
		},
	} {
		dir := t.TempDir()
		said, runsc := filepath.Join(dir, "said"), filepath.Join(dir, "runsc")
		script := "#!/bin/sh\nfor word; do case $word in pause|resume|checkpoint) echo $word >> " + said + ";; esac; done\n" +
			"case \" $* \" in *\" pause \"*) exit 1;; esac\n"
		if err := os.WriteFile(runsc, []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
		m := newMachine(New(runsc, nil), "sbx", dir)
		if err := pause(t, m); err == nil || !strings.Contains(err.Error(), "runsc pause") {
			t.Errorf("%s: %v", name, err)
		}
		raw, err := os.ReadFile(said)
		if got := strings.Fields(string(raw)); err != nil || len(got) != 2 || got[0] != "pause" || got[1] != "resume" {
			t.Errorf("%s: runsc was asked to %v (%v)", name, got, err)
		}
		if m.paused.Load() {
			t.Errorf("%s: it counts as paused", name)
		}
	}
}
