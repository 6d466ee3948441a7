package proc

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/agent/rpc"
	"golang.org/x/sys/unix"
)

// Confidence that a process ended because memory ran out, as processWait
// reports it.
const (
	oomHigh = "high-confidence" // it was the one that was ended
	oomLow  = "low-confidence"  // one that it started was
)

// Process is one started process. Its methods may be called concurrently.
type Process struct {
	m      *Manager
	conn   *rpc.Conn // that started it
	pid    int
	result api.SpawnResult
	oom    atomic.Pointer[string]
	gate   chan struct{} // closed when output may be sent
	opened sync.Once

	done   chan struct{} // closed when it has ended
	status unix.WaitStatus
	ended  time.Time

	mu     sync.Mutex // guards what follows
	onExit []func()
	timer  *time.Timer // opens the gate; nil without output
}

// PID is the process's number.
func (p *Process) PID() int { return p.pid }

// Result is what spawn answers: the number and the output streams.
func (p *Process) Result() api.SpawnResult { return p.result }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// OnExit runs fn in a goroutine after the process's end, at once if that has
// passed.
func (p *Process) OnExit(fn func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.done:
		go fn()
	default:
		p.onExit = append(p.onExit, fn)
	}
}

// Wait returns the status once the process has ended.
func (p *Process) Wait(ctx context.Context) (api.ProcessStatus, error) {
	select {
	case <-p.done:
		return p.Status(), nil
	case <-ctx.Done():
		return api.ProcessStatus{}, ctx.Err()
	}
}

// Status says how the process ended. It is valid once Done is closed.
func (p *Process) Status() api.ProcessStatus {
	st := api.ProcessStatus{OOM: p.oom.Load()}
	if p.status.Signaled() {
		sig := p.status.Signal()
		name := nameOf(sig)
		st.Signal = &name
		st.Code = 128 + int(sig)
		return st
	}
	st.Code = p.status.ExitStatus()
	st.Success = st.Code == 0
	return st
}

// Signal sends a signal, by name ("SIGTERM") or number, to the process and
// everything in its group. A process that has ended already is the error that
// Find has for an unknown one.
func (p *Process) Signal(name string) error {
	sig, err := parseSignal(name)
	if err != nil {
		return err
	}
	return p.m.reaper.locked(func() error {
		select {
		case <-p.done:
			return errGone(p.pid)
		default:
		}
		err := unix.Kill(-p.pid, sig)
		if err == unix.ESRCH {
			err = unix.Kill(p.pid, sig)
		}
		if err != nil {
			return rpc.FromOS("kill", err)
		}
		return nil
	})
}

// exited is called by the reaper, with its lock held.
func (p *Process) exited(ws unix.WaitStatus) {
	p.status = ws
	p.ended = time.Now()
	p.mu.Lock()
	close(p.done)
	fns := p.onExit
	p.onExit = nil
	p.mu.Unlock()
	for _, fn := range fns {
		go fn()
	}
}

// openGate lets the output through to the client.
func (p *Process) openGate() {
	p.opened.Do(func() { close(p.gate) })
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timer != nil {
		p.timer.Stop()
	}
}

// errGone is the error which the SDKs take for "the process has ended".
func errGone(pid int) error {
	return rpc.NewError("TypeError", "ENOENT", "There is no running process with the number %d", pid)
}
