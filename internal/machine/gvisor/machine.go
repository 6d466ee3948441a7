package gvisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/atollhq/atoll/internal/cgroup"
	"github.com/atollhq/atoll/internal/machine"
	"github.com/atollhq/atoll/internal/machine/process"
)

const (
	stopPatience = 2 * time.Second // between the polite and the hard end
	tailBytes    = 4 << 10         // of runsc's and the agent's stderr, kept for diagnosis
)

// gvisorMachine is one sandbox. The process is waited for by one goroutine,
// wait, which alone writes exit and closes done.
type gvisorMachine struct {
	driver *Driver
	id     string
	dir    string
	group  *cgroup.Group

	*process.Process

	link net.Conn
	bell net.Conn // tells a restored agent so
	tail *process.Tail

	mu     sync.Mutex
	ending machine.ExitReason // the end that was asked for first; empty if none was

	power  sync.Mutex  // held by Pause, Resume and Save
	paused atomic.Bool // written with power held

	destroyMu sync.Mutex
	destroyed bool
}

func newMachine(d *Driver, id, dir string) *gvisorMachine {
	return &gvisorMachine{
		driver: d, id: id, dir: dir, group: cgroup.Open(id), tail: process.NewTail(tailBytes),
		Process: process.New(),
	}
}

// start runs runsc with a command that makes a machine.
func (m *gvisorMachine) start(ctx context.Context, s machine.Spec, args []string) error {
	for _, dir := range []string{emptyRoot(s.Dir), diskDir(s.Dir), stateDir(s.Dir)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make machine directory: %w", err)
		}
	}
	if err := m.group.Create(m.limits(s)); err != nil {
		return err
	}
	started := make(chan error, 1)
	go m.run(s, args, started)
	select {
	case err := <-started:
		return err
	case <-ctx.Done():
		// The launcher finishes on its own; what it started, Destroy ends.
		if err := <-started; err != nil {
			return err
		}
		return fmt.Errorf("start runsc: %w", ctx.Err())
	}
}

// run owns the thread that starts runsc: it joins the machine's network
// namespace, and runsc's death signal is tied to it. It therefore lives until
// runsc has exited, and is never given back to the scheduler.
func (m *gvisorMachine) run(s machine.Spec, args []string, started chan<- error) {
	runtime.LockOSThread()
	cmd, err := m.launch(s, args)
	if err != nil {
		m.Finish(machine.Exit{Reason: machine.ExitCrashed, Detail: err.Error()})
		started <- err
		return
	}
	m.Started(cmd.Process)
	started <- nil
	err = cmd.Wait()
	m.Finish(m.exitOf(err))
}

func (m *gvisorMachine) launch(s machine.Spec, args []string) (*exec.Cmd, error) {
	tap, err := enterNamespace(s.Network)
	if err != nil {
		return nil, err
	}
	if err := s.AttachNIC(machine.NIC{Kind: machine.NICTap, File: tap, MTU: s.Network.MTU, NoChecksums: true}); err != nil {
		return nil, errors.Join(fmt.Errorf("attach network card: %w", err), tap.Close())
	}
	if err := writeSpec(s, m.group); err != nil {
		return nil, err
	}
	link, guestLink, err := process.ConnPair()
	if err != nil {
		return nil, err
	}
	defer func() { _ = guestLink.Close() }()
	bell, guestBell, err := process.ConnPair()
	if err != nil {
		return nil, errors.Join(err, link.Close())
	}
	defer func() { _ = guestBell.Close() }()
	cmd := m.driver.command(context.Background(), args)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = guestLink, guestBell, m.tail // guestLinkFD, guestBellFD
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start runsc: %w", err), link.Close(), bell.Close())
	}
	m.link, m.bell = link, bell
	return cmd, nil
}

// command is a runsc that dies with the thread that starts it.
func (d *Driver) command(ctx context.Context, args []string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, d.runsc, args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setsid: true}
	cmd.WaitDelay = time.Second
	return cmd
}

func writeSpec(s machine.Spec, group *cgroup.Group) error {
	raw, err := json.Marshal(ociSpec(s, group))
	if err != nil {
		return fmt.Errorf("encode runtime spec: %w", err)
	}
	if err := os.WriteFile(filepath.Join(s.Dir, "config.json"), raw, 0o600); err != nil {
		return fmt.Errorf("write runtime spec: %w", err)
	}
	return nil
}

// exitOf tells why runsc ended.
func (m *gvisorMachine) exitOf(err error) machine.Exit {
	detail := "runsc exited"
	if err != nil {
		detail = err.Error()
	}
	if tail := m.tail.String(); tail != "" {
		detail += ": " + tail
	}
	m.mu.Lock()
	asked := m.ending
	m.mu.Unlock()
	switch {
	case asked == machine.ExitSaved: // it ran until it was saved, whatever the kernel had ended in it
		return machine.Exit{Reason: asked, Detail: detail}
	case m.group.OOMKills() > 0:
		return machine.Exit{Reason: machine.ExitOOM, Detail: detail}
	case asked != "":
		return machine.Exit{Reason: asked, Detail: detail}
	default:
		return machine.Exit{Reason: machine.ExitCrashed, Detail: detail}
	}
}

// askedToEnd notes why the machine is about to end.
func (m *gvisorMachine) askedToEnd(reason machine.ExitReason) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ending == "" {
		m.ending = reason
	}
}

// State is what Reattach needs.
func (m *gvisorMachine) State() machine.State {
	return machine.State{Driver: Name, ID: m.id, Dir: m.dir}
}

// Link is the byte stream to the agent.
func (m *gvisorMachine) Link() net.Conn { return m.link }

// Stop asks the agent's process to end, then kills. One that stands still
// can't be asked.
func (m *gvisorMachine) Stop(ctx context.Context) error {
	m.askedToEnd(machine.ExitStopped)
	if !m.paused.Load() && m.PID() != 0 {
		m.Signal(unix.SIGTERM) // runsc passes it on to the agent
		timer := time.NewTimer(stopPatience)
		defer timer.Stop()
		select {
		case <-m.Done():
			return nil
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	return m.kill()
}

// kill ends every process of the machine and waits for runsc.
func (m *gvisorMachine) kill() error {
	m.askedToEnd(machine.ExitStopped)
	return m.Kill()
}

// Destroy ends the machine and frees everything.
func (m *gvisorMachine) Destroy(ctx context.Context) error {
	m.destroyMu.Lock()
	defer m.destroyMu.Unlock()
	if m.destroyed {
		return nil
	}
	err := errors.Join(m.kill(), m.group.Remove(ctx))
	if m.bell != nil {
		_ = m.bell.Close()
	}
	if err == nil {
		err = os.RemoveAll(m.dir)
	}
	m.destroyed = err == nil
	return err
}

// Stats measures the machine's control group.
func (m *gvisorMachine) Stats(context.Context) (machine.Stats, error) {
	memory, err := m.group.MemoryBytes()
	if err != nil {
		return machine.Stats{}, fmt.Errorf("read memory use: %w", err)
	}
	return machine.Stats{
		MemoryBytes: memory, CPUTime: m.group.CPUTime(), Processes: m.group.Threads(),
		CopyBytes: m.group.SharedBytes() + m.group.PrivateBytes(), // the guest's, and the sentry's own
	}, nil
}

var (
	_ machine.Machine     = (*gvisorMachine)(nil)
	_ machine.Settler     = (*gvisorMachine)(nil)
	_ machine.StatsReader = (*gvisorMachine)(nil)
)
