package lifecycle

import (
	"context"
	"errors"
	"fmt"
)

// Undo is a last-in-first-out list of named steps that take back what was
// done so far. The zero value is empty and ready; it is for one goroutine.
type Undo struct {
	steps []step
}

type step struct {
	name string
	fn   func(ctx context.Context) error
}

// Add puts a step on top. The name completes the sentence "failed to …".
func (u *Undo) Add(name string, fn func(ctx context.Context) error) {
	u.steps = append(u.steps, step{name, fn})
}

// Run takes everything back, newest first, goes on after a failed step and
// returns all failures. The list is empty afterwards.
func (u *Undo) Run(ctx context.Context) error {
	var failures []error
	for len(u.steps) > 0 {
		last := u.steps[len(u.steps)-1]
		u.steps = u.steps[:len(u.steps)-1]
		if err := last.fn(ctx); err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", last.name, err))
		}
	}
	return errors.Join(failures...)
}

// Forget empties the list without running it: what was made stays.
func (u *Undo) Forget() { u.steps = nil }
