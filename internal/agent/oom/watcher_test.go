package oom

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	mib = 1 << 20
	gib = 1 << 30
)

// fakeSystem is memory that a test fills.
type fakeSystem struct {
	usage     Usage
	processes map[int]int64
	err       error
	looks     int
}

func (f *fakeSystem) Usage() (Usage, error) { f.looks++; return f.usage, f.err }

func (f *fakeSystem) Largest() (Process, error) {
	var p Process
	for pid, rss := range f.processes {
		if rss > p.RSS {
			p = Process{pid, rss}
		}
	}
	return p, nil
}

// run watches for a while of fake time and returns whom it ended.
func run(t *testing.T, f *fakeSystem, limit int64, d time.Duration, free bool) (killed []int) {
	synctest.Test(t, func(t *testing.T) {
		w := New(limit, f, func(p Process) {
			killed = append(killed, p.PID)
			if free {
				f.usage.Available += p.RSS
				delete(f.processes, p.PID)
			}
		}, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		w.Run(ctx)
	})
	return killed
}

func TestWatcher(t *testing.T) {
	for _, tt := range []struct {
		name  string
		usage Usage
		limit int64
		want  string
	}{
		{"plenty", Usage{gib, gib / 2}, gib, "[]"},
		{"system full", Usage{gib, 20 * mib}, gib, "[7]"},
		{"limit below the system's", Usage{64 * gib, 63 * gib}, gib, "[7]"},
		{"limit below, plenty left", Usage{64 * gib, 64*gib - 500*mib}, gib, "[]"},
		{"limit above", Usage{gib, 10 * mib}, 8 * gib, "[7]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := &fakeSystem{usage: tt.usage, processes: map[int]int64{7: 600 * mib, 8: 100 * mib}}
			if got := fmt.Sprint(run(t, f, tt.limit, 5*time.Second, true)); got != tt.want {
				t.Errorf("ended %s, want %s", got, tt.want)
			}
		})
	}
}

func TestVictimHasTimeToDie(t *testing.T) {
	f := &fakeSystem{usage: Usage{gib, 0}, processes: map[int]int64{7: 600 * mib}}
	if got := run(t, f, gib, 2500*time.Millisecond, false); len(got) != 3 {
		t.Errorf("ended %v", got)
	}
}

func TestSmallProcessesAreSpared(t *testing.T) {
	f := &fakeSystem{usage: Usage{gib, 0}, processes: map[int]int64{7: mib}}
	if got := run(t, f, gib, time.Second, true); len(got) != 0 {
		t.Errorf("ended %v", got)
	}
}

func TestIdleIsCheap(t *testing.T) {
	f := &fakeSystem{usage: Usage{4 * gib, 3 * gib}}
	run(t, f, 4*gib, 60*time.Second, true)
	if f.looks > 130 {
		t.Errorf("looked %d times in a minute", f.looks)
	}
	f = &fakeSystem{usage: Usage{gib, gib / 5}}
	run(t, f, gib, time.Second, true)
	if f.looks < 45 {
		t.Errorf("looked only %d times in a second while memory is low", f.looks)
	}
}

func TestUnreadable(t *testing.T) {
	if got := run(t, &fakeSystem{err: errors.New("no")}, gib, time.Hour, true); len(got) != 0 {
		t.Errorf("ended %v", got)
	}
}

func TestProcFS(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("meminfo", "MemTotal:        1000 kB\nMemFree:  1 kB\nMemAvailable:    400 kB\n")
	write("5/statm", "100 20 3 4 5 6 7\n")
	write("6/statm", "100 30 3 4 5 6 7\n")
	write("8/statm", "odd\n")
	write(fmt.Sprint(os.Getpid())+"/statm", "100 99 3\n")
	p, err := OpenProcFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Close() }()
	if u, err := p.Usage(); err != nil || u != (Usage{1000 << 10, 400 << 10}) {
		t.Errorf("got %+v, %v", u, err)
	}
	if got, err := p.Largest(); err != nil || got.PID != 6 || got.RSS != 30*int64(os.Getpagesize()) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestOwnProc(t *testing.T) {
	p, err := OpenProcFS("/proc")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Close() }()
	if u, err := p.Usage(); err != nil || u.Total < u.Available || u.Available <= 0 {
		t.Errorf("got %+v, %v", u, err)
	}
}

func FuzzMeminfo(f *testing.F) {
	f.Add([]byte("MemTotal: 1 kB\nMemAvailable: 2 kB"))
	f.Fuzz(func(t *testing.T, table []byte) {
		if n, ok := kilobytes(table, "MemTotal:"); ok && n < 0 {
			t.Errorf("negative: %d", n)
		}
	})
}

func BenchmarkUsage(b *testing.B) {
	p, err := OpenProcFS("/proc")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = p.Close() }()
	for b.Loop() {
		if _, err := p.Usage(); err != nil {
			b.Fatal(err)
		}
	}
}
