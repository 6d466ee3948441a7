// Package fake is a driver whose machines are goroutines of the test: the
// link is a pipe to a function that plays the agent. It passes the same
// conformance suite as the real drivers.
package fake

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"github.com/atollhq/atoll/internal/machine"
)

// Name is the driver's name.
const Name = "fake"

// Agent plays the guest on its end of the link until the link is closed or
// ctx, which ends with the machine, does. Returning ends the machine.
type Agent func(ctx context.Context, conn net.Conn)

// Driver makes fake machines. It is safe for concurrent use.
type Driver struct {
	agent Agent

	mu      sync.Mutex
	running map[string]*fakeMachine
}

// New returns a driver whose machines run agent.
func New(agent Agent) *Driver {
	return &Driver{agent: agent, running: map[string]*fakeMachine{}}
}

// Info describes the driver.
func (d *Driver) Info() machine.Info { return machine.Info{Name: Name} }

// Start runs the agent.
func (d *Driver) Start(ctx context.Context, s machine.Spec) (machine.Machine, error) {
	if err := ctx.Err(); err != nil {
		return nil, errors.Join(fmt.Errorf("start fake machine: %w", err), os.RemoveAll(s.Dir))
	}
	if err := startable(s); err != nil {
		return nil, errors.Join(err, os.RemoveAll(s.Dir))
	}
	host, guest := net.Pipe()
	life, end := context.WithCancel(context.Background())
	m := &fakeMachine{
		driver: d, id: s.ID, dir: s.Dir, link: host, guest: guest, end: end,
		exited: make(chan machine.Exit, 1), done: make(chan struct{}),
	}
	d.mu.Lock()
	d.running[s.ID] = m
	d.mu.Unlock()
	go m.run(life, d.agent)
	return m, nil
}

func startable(s machine.Spec) error {
	if s.AttachNIC == nil {
		return errors.New("start fake machine: no network card callback")
	}
	for _, path := range []string{s.Image.File, s.Agent} {
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("start fake machine: %w", err)
		}
	}
	host, guest, err := os.Pipe()
	if err != nil {
		return err
	}
	_ = guest.Close()
	if err := s.AttachNIC(machine.NIC{Kind: machine.NICStream, File: host, MTU: s.Network.MTU}); err != nil {
		return errors.Join(fmt.Errorf("attach network card: %w", err), host.Close())
	}
	return nil
}

// Reattach finds a machine by its id.
func (d *Driver) Reattach(_ context.Context, st machine.State) (machine.Machine, error) {
	d.mu.Lock()
	m, ok := d.running[st.ID]
	d.mu.Unlock()
	if ok {
		return &reattached{fakeMachine: m}, nil
	}
	gone := &fakeMachine{driver: d, id: st.ID, dir: st.Dir, end: func() {}, exited: make(chan machine.Exit, 1), done: make(chan struct{})}
	gone.finish(machine.Exit{Reason: machine.ExitCrashed})
	return &reattached{fakeMachine: gone}, nil
}

// Crash ends a machine as if it had died by itself.
func (d *Driver) Crash(id string, e machine.Exit) {
	d.mu.Lock()
	m := d.running[id]
	d.mu.Unlock()
	if m != nil {
		m.finish(e)
	}
}

type fakeMachine struct {
	driver      *Driver
	id, dir     string
	link, guest net.Conn
	end         context.CancelFunc
	once        sync.Once
	exited      chan machine.Exit // one value, then closed
	done        chan struct{}     // closed when it has ended
}

func (m *fakeMachine) run(ctx context.Context, agent Agent) {
	agent(ctx, m.guest)
	m.finish(machine.Exit{Reason: machine.ExitCrashed, Detail: "the agent returned"})
}

func (m *fakeMachine) finish(e machine.Exit) {
	m.once.Do(func() {
		m.end()
		if m.guest != nil {
			_ = m.guest.Close()
		}
		m.driver.mu.Lock()
		delete(m.driver.running, m.id)
		m.driver.mu.Unlock()
		m.exited <- e
		close(m.exited)
		close(m.done)
	})
}

func (m *fakeMachine) State() machine.State {
	return machine.State{Driver: Name, ID: m.id, Dir: m.dir}
}

func (m *fakeMachine) Link() net.Conn { return m.link }

func (m *fakeMachine) Exited() <-chan machine.Exit { return m.exited }

func (m *fakeMachine) Stop(context.Context) error {
	m.finish(machine.Exit{Reason: machine.ExitStopped})
	return nil
}

func (m *fakeMachine) Destroy(ctx context.Context) error {
	return errors.Join(m.Stop(ctx), os.RemoveAll(m.dir))
}

// reattached is a machine found again: it has no link.
type reattached struct{ *fakeMachine }

func (reattached) Link() net.Conn { return nil }

var _ machine.Driver = (*Driver)(nil)
