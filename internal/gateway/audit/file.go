package audit

import (
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"time"
)

const (
	flushEvery = 100 * time.Millisecond // until a record is in the file
	maxWaiting = 1024                   // records of one sort that wait for the disk
)

// FileConfig describes a File.
type FileConfig struct {
	Path    string
	Older   string // what Path is renamed to when it is full
	Max     int64  // bytes in each of the two
	Sandbox string // id
	Log     *slog.Logger
}

// File is a Log in a file, one record per line. It keeps nothing before Open
// and after Close.
//
// The guest decides how much there is to record, so much is bounded: the
// file's size, records waiting for the disk, their rate (separately for what
// was allowed and what was refused, so that a flood of the one hides nothing
// of the other), and their text. Repetitions become one record with a count.
// What had to be dropped is counted and recorded.
//
// Add only takes a mutex; one goroutine writes. A disk that takes nothing is
// logged once and counts as dropping.
type File struct {
	cfg  FileConfig
	out  rotating      // the goroutine's own, as is complained
	wake chan struct{} // something was added; holds one
	stop chan struct{}
	done chan struct{}

	complained bool // of the disk

	mu      sync.Mutex // guards the following
	opened  bool       // once
	open    bool
	queue   []queued
	repeats repeats
	budgets budgets
}

// NewFile makes a File that is not open yet.
func NewFile(cfg FileConfig) *File {
	return &File{
		cfg: cfg, out: rotating{path: cfg.Path, older: cfg.Older, max: cfg.Max},
		wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
		budgets: newBudgets(time.Now()),
	}
}

// Open begins to keep records. It may be called once.
func (f *File) Open() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.opened {
		return errors.New("open network audit: it was opened before")
	}
	if err := f.out.open(); err != nil {
		return err
	}
	f.opened, f.open = true, true
	go f.run()
	return nil
}

// Close writes out what there is and closes the file. It is idempotent, and
// does nothing to a File that was not opened.
func (f *File) Close() error {
	f.mu.Lock()
	was := f.open
	f.open = false
	f.mu.Unlock()
	if !was {
		return nil
	}
	close(f.stop)
	<-f.done
	return f.out.close()
}

// Add implements Log.
func (f *File) Add(r Record) {
	now := time.Now()
	r.Sandbox = f.cfg.Sandbox
	r = bounded(r, now)
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.open {
		return
	}
	if !f.repeats.merge(r) && f.enqueue(r, 0, now) {
		f.repeats.remember(r, now)
	}
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// queued is a record on its way to the file.
type queued struct {
	line   []byte
	events int
	of     *budget
}

func encode(r Record, of *budget) queued {
	line, _ := json.Marshal(r) // a Record always encodes
	return queued{append(line, '\n'), r.events(), of}
}

// enqueue must be called with mu held.
func (f *File) enqueue(r Record, leave float64, now time.Time) bool {
	q := encode(r, f.budgets.of(r))
	if q.of.waiting >= maxWaiting || !q.of.take(len(q.line), leave, now) {
		q.of.lost += q.events
		return false
	}
	q.of.waiting++
	f.queue = append(f.queue, q)
	return true
}

// run writes until stop is closed. It sleeps while there is nothing to do.
func (f *File) run() {
	defer close(f.done)
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	ticking := true
	for {
		select {
		case <-f.wake:
			if !ticking {
				tick.Reset(flushEvery)
				ticking = true
			}
		case <-tick.C:
			if ticking = f.flush(false); !ticking {
				tick.Stop()
			}
		case <-f.stop:
			f.flush(true)
			return
		}
	}
}

// flush writes what is due, and reports whether more will be.
func (f *File) flush(last bool) (more bool) {
	for _, q := range f.collect(time.Now(), last) {
		if err := f.out.write(q.line); err != nil {
			f.lose(q, err)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.queue) > 0 || len(f.repeats) > 0 || f.budgets.lost()
}

func (f *File) collect(now time.Time, last bool) []queued {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.repeats.due(now, last) {
		f.enqueue(r, reserve, now)
	}
	batch := f.queue
	f.queue = nil
	f.budgets.taken()
	for _, r := range f.budgets.report(now, last) {
		r.Sandbox = f.cfg.Sandbox
		batch = append(batch, encode(r, f.budgets.of(r)))
	}
	return batch
}

// lose counts a record that the disk did not take.
func (f *File) lose(q queued, err error) {
	f.mu.Lock()
	q.of.lost += q.events
	f.mu.Unlock()
	if !f.complained {
		f.complained = true
		f.cfg.Log.Error("write network audit", "error", err)
	}
}
