package image

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"
)

// step is one named part of a build.
type step struct {
	name string
	run  func(context.Context) error
}

// progress tells a person what happens. Tools write to it side by side.
type progress struct {
	mu sync.Mutex // guards w
	w  io.Writer
}

func newProgress(w io.Writer) *progress { return &progress{w: w} }

func (p *progress) line(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.w, format+"\n", args...) // whom nobody hears need not stop
}

// steps runs the steps in order up to the first that fails.
func (p *progress) steps(ctx context.Context, steps []step) error {
	for i, s := range steps {
		p.line("[%d/%d] %s", i+1, len(steps), s.name)
		started := time.Now()
		if err := s.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		p.line("[%d/%d] done in %s", i+1, len(steps), elapsed(started))
	}
	return nil
}

func elapsed(since time.Time) time.Duration {
	return time.Since(since).Round(100 * time.Millisecond)
}
