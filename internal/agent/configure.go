package agent

import (
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/atollhq/atoll/internal/agent/trust"
	"github.com/atollhq/atoll/internal/link"
)

// The methods in this file are called with the agent's lock held.

func (a *Agent) configure(cfg link.Config) error {
	if a.configured {
		return errors.New("the machine has its configuration already")
	}
	received := time.Now()
	a.stir(cfg.Entropy)
	if err := a.boot(cfg.Boot); err != nil {
		return err
	}
	cfg.TimeUnixNs = later(cfg.TimeUnixNs, time.Since(received))
	env, err := personalise(a.opts.Root, a.opts.Host, cfg, a.log)
	if err != nil {
		return err
	}
	a.self = self{SandboxID: cfg.SandboxID, Generation: cfg.Generation}
	if err := a.introduce(cfg.MachineID); err != nil {
		return err
	}
	a.cfg, a.given = cfg, maps.Clone(cfg.Env)
	a.parts = newServices(a.life, cfg, a.opts.Freezer, env, a.log)
	a.configured = true
	return nil
}

// later is a time that was told some time ago; zero stays unknown.
func later(unixNs int64, ago time.Duration) int64 {
	if unixNs == 0 {
		return 0
	}
	return unixNs + ago.Nanoseconds()
}

func (a *Agent) boot(b *link.Boot) error {
	switch {
	case b == nil:
		return nil
	case a.opts.Boot == nil:
		return errors.New("this machine's system is not the agent's to start")
	}
	if err := a.opts.Boot(*b); err != nil {
		return fmt.Errorf("start system: %w", err)
	}
	return nil
}

var errNotConfigured = errors.New("the machine has no configuration yet")

// update adds what was not known when the machine was configured. The roots
// come first: a process that sees the environment finds them.
func (a *Agent) update(u link.Update) error {
	if !a.configured {
		return errNotConfigured
	}
	if u.ExtraRoots != "" {
		if err := a.trust(u.ExtraRoots); err != nil {
			return err
		}
	}
	return a.give(u.Env)
}

// trust makes certificates trusted, in place of earlier ones.
func (a *Agent) trust(roots string) error {
	vars, err := trust.Store{Root: a.opts.Root, Log: a.log}.Set(roots)
	if err != nil {
		return err
	}
	a.parts.procs.Env().AddMissing(vars)
	return nil
}

// give sets variables for processes that start from now on.
func (a *Agent) give(vars map[string]string) error {
	env := a.parts.procs.Env()
	for name, value := range vars {
		if err := env.Set(name, value); err != nil {
			return err
		}
		if a.given == nil {
			a.given = map[string]string{}
		}
		a.given[name] = value
	}
	return nil
}
