//go:build e2e

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/atollhq/atoll/client"
)

func echo(ctx context.Context, s *client.Sandbox) error {
	out, err := s.Output(ctx, "echo", client.SpawnOptions{Args: []string{"hello"}})
	if err != nil {
		return err
	}
	if string(out.Stdout) != "hello\n" {
		return fmt.Errorf("echo said %q", out.Stdout)
	}
	return nil
}

const warmUp = 3 * time.Second

// callsFigure measures one round trip, and a process beside runsc exec.
func callsFigure(ctx context.Context, b *bench) error {
	s, err := b.client.Sandboxes.Create(ctx, client.CreateOptions{})
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	// In its first seconds a machine has not calibrated its clocks, and each
	// look at one is a system call.
	time.Sleep(warmUp)
	trips, err := times(b.runs*10, func() error { _, _, err := s.Env.Get(ctx, "HOME"); return err })
	if err != nil {
		return err
	}
	b.add("env.get round trip", spread(trips), "", "")
	return spawnFigure(ctx, b, s)
}

func spawnFigure(ctx context.Context, b *bench, s *client.Sandbox) error {
	bare, err := newBare(b)
	if err != nil {
		return err
	}
	defer bare.remove()
	id, stop, err := bare.hold(ctx)
	if err != nil {
		return err
	}
	defer stop()
	var ours, theirs []time.Duration
	for range b.runs {
		began := time.Now()
		if _, err := s.Run(ctx, "true", client.SpawnOptions{}); err != nil {
			return err
		}
		ours = append(ours, time.Since(began))
		t, err := bare.exec(ctx, id)
		if err != nil {
			return err
		}
		theirs = append(theirs, t)
	}
	b.add("spawn true", spread(ours), "bare runsc exec: "+spread(theirs), ratio(ours, theirs))
	return nil
}

func times(n int, do func() error) ([]time.Duration, error) {
	out := make([]time.Duration, 0, n)
	for range n {
		began := time.Now()
		if err := do(); err != nil {
			return nil, err
		}
		out = append(out, time.Since(began))
	}
	return out, nil
}
