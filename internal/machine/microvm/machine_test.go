package microvm

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/atollhq/atoll/internal/machine"
	"github.com/atollhq/atoll/internal/machine/process"
)

// ended returns a machine of which nothing is left.
func ended() *vm {
	return newMachine(New(Config{}), "never-was", "/nonexistent")
}

func shutdown(guest bool, reason string) (e event) {
	e.Name, e.Data.Guest, e.Data.Reason = "SHUTDOWN", guest, reason
	return e
}

func TestReasonOfTheEnd(t *testing.T) {
	killed := errors.New("signal: killed")
	for name, c := range map[string]struct {
		before func(*vm)
		reason machine.ExitReason
		detail string // its beginning
	}{
		"nobody asked":     {func(*vm) {}, machine.ExitCrashed, "qemu exited: signal: killed"},
		"stopped":          {func(m *vm) { m.stopping = true }, machine.ExitStopped, "qemu exited"},
		"saved":            {func(m *vm) { m.gone, m.stopping = true, true }, machine.ExitSaved, ""},
		"rebooted":         {func(m *vm) { m.event(shutdown(true, "guest-reset")) }, machine.ExitCrashed, "the guest rebooted"},
		"switched off":     {func(m *vm) { m.event(shutdown(true, "guest-shutdown")) }, machine.ExitCrashed, "the guest switched itself off"},
		"panic by event":   {func(m *vm) { m.event(shutdown(true, "guest-panic")) }, machine.ExitCrashed, "the guest's kernel panicked"},
		"not the guest":    {func(m *vm) { m.event(shutdown(false, "host-signal")) }, machine.ExitCrashed, "qemu exited"},
		"another event":    {func(m *vm) { m.event(event{Name: "STOP"}) }, machine.ExitCrashed, "qemu exited"},
		"stopped, at last": {func(m *vm) { m.stopping = true; m.event(shutdown(true, "guest-shutdown")) }, machine.ExitStopped, "the guest switched"},
		"panic on the console": {func(m *vm) {
			m.event(shutdown(true, "guest-reset"))
			_, _ = m.console.Write([]byte("[ 1.0] Kernel panic - not syncing: sysrq triggered crash\r\n"))
		}, machine.ExitCrashed, "the guest's kernel panicked: [ 1.0] Kernel panic - not syncing: sysrq triggered crash"},
		"qemu complains": {func(m *vm) { _, _ = m.stderr.Write([]byte("qemu: no way\n")) }, machine.ExitCrashed, "qemu exited: signal: killed: qemu: no way"},
	} {
		m := ended()
		c.before(m)
		if e := m.exitOf(killed); e.Reason != c.reason || !strings.HasPrefix(e.Detail, c.detail) {
			t.Errorf("%s: %+v; want %s, %q", name, e, c.reason, c.detail)
		}
	}
}

// A machine that was found again has ended, and can be destroyed twice.
func TestReattached(t *testing.T) {
	d := New(Config{})
	m, err := d.Reattach(t.Context(), machine.State{Driver: Name, ID: "never-was", Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if m.Link() != nil {
		t.Error("it has a link")
	}
	if e := <-m.Exited(); e.Reason != machine.ExitCrashed {
		t.Errorf("%+v", e)
	}
	for name, err := range map[string]error{
		"pause": m.(machine.Pauser).Pause(t.Context()), "resume": m.(machine.Pauser).Resume(t.Context()),
	} {
		if !errors.Is(err, errGone) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := m.(machine.Saver).Save(t.Context(), machine.SaveOptions{Dir: t.TempDir()}); !errors.Is(err, errGone) {
		t.Errorf("save: %v", err)
	}
	if err := m.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := d.Reattach(t.Context(), machine.State{Driver: "gvisor"}); err == nil {
		t.Error("took another driver's machine")
	}
}

func TestDrainEndsWithTheConsole(t *testing.T) {
	tail, drained := process.NewTail(tailBytes), make(chan struct{})
	r, w := io.Pipe()
	go drain(r, tail, drained)
	_, _ = io.WriteString(w, strings.Repeat("flood ", tailBytes))
	_, _ = io.WriteString(w, "last words")
	_ = w.Close()
	<-drained
	if got := tail.String(); !strings.HasSuffix(got, "flood last words") {
		t.Errorf("it ends with %q", got[max(0, len(got)-32):])
	}
}
