// Package process is what drivers share whose machine is a process of the
// host: how its end becomes known, its last words, and the sockets that lead
// into it.
package process

import (
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/atollhq/atoll/internal/machine"
)

// Patience is how long the kernel gets to end a killed process and to reap
// everything.
const Patience = 20 * time.Second

// Process is a machine's, which may not have been started, or be that of an
// earlier program. Whoever waits for it calls Finish. Its methods may be called
// concurrently, but for Started.
type Process struct {
	process *os.Process // nil before Started

	once   sync.Once
	exited chan machine.Exit // buffered, one value, then closed
	done   chan struct{}
}

// New returns a process that was not started yet.
func New() *Process {
	return &Process{exited: make(chan machine.Exit, 1), done: make(chan struct{})}
}

// Started is called once, before anybody else knows of the machine.
func (p *Process) Started(process *os.Process) { p.process = process }

// PID is 0 before Started.
func (p *Process) PID() int {
	if p.process == nil {
		return 0
	}
	return p.process.Pid
}

// Finish says that the process is gone, or never was, and why. The first call
// counts.
func (p *Process) Finish(e machine.Exit) {
	p.once.Do(func() {
		p.exited <- e
		close(p.exited)
		close(p.done)
	})
}

// Exited is what machine.Machine asks for.
func (p *Process) Exited() <-chan machine.Exit { return p.exited }

// Done is closed by Finish.
func (p *Process) Done() <-chan struct{} { return p.done }

// Over reports whether the process is gone.
func (p *Process) Over() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Signal sends a signal if the process was started.
func (p *Process) Signal(s unix.Signal) {
	if p.process != nil {
		_ = p.process.Signal(s) // it may be gone
	}
}

// Kill ends the process, if it was started, and waits for its end.
func (p *Process) Kill() error {
	if p.process == nil {
		return nil
	}
	_ = p.process.Kill()
	select {
	case <-p.done:
		return nil
	case <-time.After(Patience):
		return fmt.Errorf("kill machine: process %d does not end", p.process.Pid)
	}
}

// SocketPair returns a stream socket's end for this process and the one to pass
// on.
func SocketPair() (our, their *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket: %w", err)
	}
	_ = unix.SetNonblock(fds[0], true)
	return os.NewFile(uintptr(fds[0]), "host"), os.NewFile(uintptr(fds[1]), "machine"), nil
}

// ConnPair is SocketPair with this process's end as a connection.
func ConnPair() (our net.Conn, their *os.File, err error) {
	file, their, err := SocketPair()
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = file.Close() }()
	if our, err = net.FileConn(file); err != nil {
		_ = their.Close()
		return nil, nil, fmt.Errorf("make socket: %w", err)
	}
	return our, their, nil
}
