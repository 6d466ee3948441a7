package microvm

import (
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/atollhq/atoll/internal/machine"
)

// held is a template whose memory was last asked for a while ago.
func held(ago time.Duration) *resident {
	r := &resident{ready: make(chan struct{}), used: time.Now().Add(-ago), made: time.Now().Add(-ago)}
	r.snapshot.Close = func() error { return nil }
	close(r.ready)
	return r
}

// Whoever asks for sizes without end doesn't make the host hold templates
// without end, although machines may be about to open them.
func TestHeldTemplatesAreBounded(t *testing.T) {
	for name, c := range map[string]struct {
		ago         time.Duration
		given, kept int
	}{
		"few":                   {time.Hour, maxResident, maxResident},
		"not used for long":     {time.Hour, maxResident + 3, maxResident},
		"in use":                {time.Second, maxResident + 3, maxResident + 3},
		"in use, of many sizes": {time.Second, mostResident + 3, mostResident},
	} {
		kept := &Templates{resident: map[string]*resident{}, log: slog.New(slog.DiscardHandler)}
		for i := range c.given {
			kept.resident[fmt.Sprint(i)] = held(c.ago + time.Duration(i)*time.Millisecond)
		}
		kept.evict()
		if len(kept.resident) != c.kept {
			t.Errorf("%s: %d of %d are held", name, len(kept.resident), c.given)
		}
		if kept.resident["0"] == nil {
			t.Errorf("%s: the one used last is gone", name)
		}
	}
}

// A template that guests have filled is made anew, but not as often as they
// like: each copy is held for a while.
func TestFilledTemplatesAreRenewedRarely(t *testing.T) {
	memory, err := newMemory(4 * chunk)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = memory.Close() }()
	if _, err := memory.WriteAt(make([]byte, 3*chunk), 0); err != nil {
		t.Fatal(err)
	}
	for _, ago := range []time.Duration{0, keepResident - time.Second, keepResident + time.Second} {
		r := held(ago)
		r.snapshot = machine.Snapshot{Memory: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), memory.Fd())}
		if got, want := r.grown(4*chunk), ago > keepResident; got != want {
			t.Errorf("%v after it was made: %v", ago, got)
		}
	}
}
