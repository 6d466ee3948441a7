package microvm

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// withQEMU is a machine whose QEMU gives the answers of a function, without
// the line's end.
func withQEMU(t *testing.T, answer func(command string) string) *vm {
	ours, theirs := net.Pipe()
	m := ended()
	m.monitor = openMonitor(ours, m.event)
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		commands := bufio.NewReader(theirs)
		for {
			line, err := commands.ReadSlice('\n')
			if err != nil {
				return
			}
			_, _ = io.WriteString(theirs, answer(executed(t, line))+"\n") // to nobody, perhaps
		}
	}()
	t.Cleanup(func() {
		_ = theirs.Close()
		<-answered
		m.monitor.close()
	})
	return m
}

// A QEMU that goes on with a job for ever holds nobody for ever.
func TestFlatteningHasAnEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var heard []string
		m := withQEMU(t, func(command string) string {
			if !slices.Contains(heard, command) {
				heard = append(heard, command)
			}
			if command == "query-jobs" {
				return `{"return": [{"id": "flatten", "status": "running"}]}`
			}
			return `{"return": {}}`
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := m.stream(ctx, "disk1"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v; want %v", err, context.DeadlineExceeded)
		}
		if !slices.Contains(heard, "job-cancel") {
			t.Errorf("the job was not cancelled: %q", heard)
		}
	})
}

// The job of an attempt that was given up does not stand in the way of the
// next.
func TestFlatteningAfterOneThatWasGivenUp(t *testing.T) {
	left := true
	m := withQEMU(t, func(command string) string {
		switch {
		case command == "job-dismiss":
			left = false
		case command == "block-stream" && left:
			return `{"error": {"desc": "Job ID 'flatten' already in use"}}`
		case command == "query-jobs":
			return `{"return": [{"id": "other", "status": "running"}, {"id": "flatten", "status": "concluded"}]}`
		}
		return `{"return": {}}`
	})
	if err := m.stream(t.Context(), "disk1"); err != nil {
		t.Error(err)
	}
}
