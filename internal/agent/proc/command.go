package proc

import (
	"context"
	"os"
	"syscall"

	"github.com/atollhq/atoll/api"
	"golang.org/x/sys/unix"
)

// Command is a program that the agent runs for itself, as root. Clients don't
// know of it.
type Command struct {
	Path   string
	Env    []string
	Output *os.File // standard output and error; stays the caller's to close
}

// Run runs a program and returns how it ended. When ctx ends first, the
// program and its group are killed.
func (m *Manager) Run(ctx context.Context, c Command) (api.ProcessStatus, error) {
	null, err := m.devNull()
	if err != nil {
		return api.ProcessStatus{}, err
	}
	attr := &syscall.ProcAttr{
		Dir: "/", Env: c.Env, Files: []uintptr{null.Fd(), c.Output.Fd(), c.Output.Fd()},
		Sys: &syscall.SysProcAttr{Setsid: true},
	}
	p := &Process{m: m, done: make(chan struct{})}
	fork := func() (int, error) { return syscall.ForkExec(c.Path, []string{c.Path}, attr) }
	var pid int
	err = m.birth(attr.Sys, func() (err error) {
		pid, err = m.reaper.start(fork, func(_ int, ws unix.WaitStatus) { p.exited(ws) })
		return err
	})
	if err != nil {
		return api.ProcessStatus{}, err
	}
	select {
	case <-p.done:
		return p.Status(), nil
	case <-ctx.Done():
	}
	err = m.reaper.locked(func() error { // its number is still its own
		select {
		case <-p.done:
			return nil
		default:
			return unix.Kill(-pid, unix.SIGKILL)
		}
	})
	if err == nil {
		<-p.done
		err = ctx.Err()
	}
	return p.Status(), err
}
