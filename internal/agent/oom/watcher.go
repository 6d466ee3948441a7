package oom

import (
	"context"
	"log/slog"
	"time"
)

const (
	minReserve = 32 << 20 // bytes that stay free at least
	reservePct = 3        // or this share of the limit, if that is more
	// victimPct is the share of the limit from which on a process is worth
	// ending; memory that no process holds (files in a tmpfs) is not freed
	// by ending small ones one by one.
	victimPct = 2

	// fillRate is how fast a guest can take memory, in bytes per second: it
	// decides when to look again. Memory has to be zeroed before it is used,
	// so little more is possible.
	fillRate    = 3 << 30
	minInterval = 10 * time.Millisecond
	maxInterval = 500 * time.Millisecond
	lowPct      = 25                    // free share of the limit below which
	lowInterval = 20 * time.Millisecond // it looks this often at least

	// grace is how long a victim may take to give its memory back before
	// another one is chosen.
	grace = time.Second
)

// Usage is what a system says about its memory, in bytes.
type Usage struct {
	Total     int64
	Available int64 // can be had without pushing anything out
}

// Process is one process and the memory that it holds.
type Process struct {
	PID int
	RSS int64 // bytes
}

// System is what a Watcher looks at.
type System interface {
	Usage() (Usage, error)
	// Largest returns the process that holds the most memory, other than the
	// one that asks; the zero Process when there is none.
	Largest() (Process, error)
}

// Watcher ends processes.
type Watcher struct {
	limit  int64
	system System
	kill   func(Process)
	log    *slog.Logger

	killed time.Time // when the last victim was ended
}

// New returns a watcher for a machine with this many bytes of memory. The
// kill function ends a process at once.
func New(limit int64, system System, kill func(Process), log *slog.Logger) *Watcher {
	return &Watcher{limit: limit, system: system, kill: kill, log: log}
}

// Run watches until ctx ends. It gives up when the system doesn't tell its
// usage.
func (w *Watcher) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		next, err := w.look()
		if err != nil {
			w.log.Warn("memory is not watched", "error", err)
			return
		}
		timer.Reset(next)
	}
}

// look checks once and says when to look again.
func (w *Watcher) look() (time.Duration, error) {
	usage, err := w.system.Usage()
	if err != nil {
		return 0, err
	}
	free := w.free(usage)
	if free > w.reserve() {
		return w.interval(free), nil
	}
	if time.Since(w.killed) < grace {
		return minInterval, nil
	}
	victim, err := w.system.Largest()
	if err != nil {
		return 0, err
	}
	if victim.RSS < w.limit*victimPct/100 {
		return lowInterval, nil
	}
	w.killed = time.Now()
	w.log.Info("out of memory: a process is ended", "pid", victim.PID, "rss", victim.RSS, "free", free)
	w.kill(victim)
	return minInterval, nil
}

// free is what is left below the limit, which may be less than the system
// believes to have.
func (w *Watcher) free(u Usage) int64 {
	used := u.Total - u.Available
	return min(u.Available, w.limit-used)
}

func (w *Watcher) reserve() int64 { return max(minReserve, w.limit*reservePct/100) }

// interval is how long the free memory lasts in the worst case.
func (w *Watcher) interval(free int64) time.Duration {
	lasts := time.Duration(float64(free-w.reserve()) / fillRate * float64(time.Second))
	if free < w.limit*lowPct/100 {
		lasts = min(lasts, lowInterval)
	}
	return min(max(lasts, minInterval), maxInterval)
}
