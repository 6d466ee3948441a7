// Package lifecycle holds the two small patterns by which Atoll starts and
// ends things: a Group of services that start in order and stop in reverse,
// and an Undo stack of named steps for whatever is made piece by piece.
package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Service is one part of a process. Start returns once the service works;
// whatever it leaves running is ended by Stop, which waits for it. Either may
// be nil.
type Service struct {
	Name  string
	Start func(ctx context.Context) error
	Stop  func(ctx context.Context) error
}

// Group runs services. The zero value with a Log is ready for use by one
// goroutine.
type Group struct {
	Log         *slog.Logger
	StopTimeout time.Duration // per service; 0 is 30 s

	undo Undo
}

const defaultStopTimeout = 30 * time.Second

// Start starts the services in order. When one fails, those before it are
// stopped again.
func (g *Group) Start(ctx context.Context, services ...Service) error {
	for _, s := range services {
		if s.Start != nil {
			if err := s.Start(ctx); err != nil {
				err = fmt.Errorf("start %s: %w", s.Name, err)
				return errors.Join(err, g.Stop(context.WithoutCancel(ctx)))
			}
		}
		g.Log.Debug("service started", "service", s.Name)
		if s.Stop != nil {
			g.undo.Add("stop "+s.Name, g.bounded(s.Stop))
		}
	}
	return nil
}

// Stop stops what was started, last first, and returns all failures.
func (g *Group) Stop(ctx context.Context) error { return g.undo.Run(ctx) }

func (g *Group) bounded(stop func(context.Context) error) func(context.Context) error {
	timeout := g.StopTimeout
	if timeout <= 0 {
		timeout = defaultStopTimeout
	}
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		return stop(ctx)
	}
}
