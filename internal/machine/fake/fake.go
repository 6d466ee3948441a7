// Package fake is a driver whose machines are goroutines of the test: the
// link is a pipe to a function that plays the agent. It passes the same
// conformance suite as the real drivers.
//
// A machine that is paused neither hears nor says anything on its link. What a
// machine is can't be saved, because it is in the function; so a restored
// machine runs a function of its own, and a saved machine is an empty file.
package fake

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

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

	// Restored plays the guests of restored machines: what New was given, if
	// nothing else is set before the first one.
	Restored Agent

	mu      sync.Mutex
	running map[string]*fakeMachine
}

// New returns a driver whose machines run agent.
func New(agent Agent) *Driver {
	return &Driver{agent: agent, Restored: agent, running: map[string]*fakeMachine{}}
}

// Info describes the driver.
func (d *Driver) Info() machine.Info {
	return machine.Info{Name: Name, Features: machine.Features{Pause: true, Save: true}}
}

// Start runs the agent.
func (d *Driver) Start(ctx context.Context, s machine.Spec) (machine.Machine, error) {
	return d.start(ctx, s, d.agent)
}

// Restore runs the agent of restored machines.
func (d *Driver) Restore(ctx context.Context, s machine.Spec, from machine.Snapshot) (machine.Machine, error) {
	err := restorable(from)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(s.Dir))
	}
	return d.start(ctx, s, d.Restored)
}

func restorable(from machine.Snapshot) error {
	if from.Driver != Name {
		return fmt.Errorf("restore fake machine: snapshot belongs to driver %q", from.Driver)
	}
	if _, err := os.Stat(filepath.Join(from.Dir, savedFile)); err != nil {
		return fmt.Errorf("restore fake machine: %w", err)
	}
	return nil
}

func (d *Driver) start(ctx context.Context, s machine.Spec, agent Agent) (machine.Machine, error) {
	if err := ctx.Err(); err != nil {
		return nil, errors.Join(fmt.Errorf("start fake machine: %w", err), os.RemoveAll(s.Dir))
	}
	if err := startable(s); err != nil {
		return nil, errors.Join(err, os.RemoveAll(s.Dir))
	}
	host, guest := net.Pipe()
	life, end := context.WithCancel(context.Background())
	m := &fakeMachine{
		driver: d, id: s.ID, dir: s.Dir, link: host, guest: newGated(guest), end: end,
		exited: make(chan machine.Exit, 1), done: make(chan struct{}),
	}
	d.mu.Lock()
	d.running[s.ID] = m
	d.mu.Unlock()
	go m.run(life, agent)
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
	driver  *Driver
	id, dir string
	link    net.Conn
	guest   *gated // nil in a machine that is gone
	end     context.CancelFunc
	once    sync.Once
	exited  chan machine.Exit // one value, then closed
	done    chan struct{}     // closed when it has ended
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

// Pause holds the guest's end of the link.
func (m *fakeMachine) Pause(ctx context.Context) error { return m.setPower(ctx, m.guest.pause) }

// Resume lets it go.
func (m *fakeMachine) Resume(ctx context.Context) error { return m.setPower(ctx, m.guest.resume) }

func (m *fakeMachine) setPower(ctx context.Context, set func()) error {
	if err := m.alive(ctx); err != nil {
		return err
	}
	set()
	return nil
}

func (m *fakeMachine) alive(ctx context.Context) error {
	select {
	case <-m.done:
		return fmt.Errorf("fake machine %s: %w", m.id, os.ErrProcessDone)
	default:
		return ctx.Err()
	}
}

// savedFile is what there is of a saved machine.
const savedFile = "saved"

// Save makes a file.
func (m *fakeMachine) Save(ctx context.Context, o machine.SaveOptions) (machine.Snapshot, error) {
	begin := time.Now()
	if err := m.alive(ctx); err != nil {
		return machine.Snapshot{}, err
	}
	if err := os.WriteFile(filepath.Join(o.Dir, savedFile), []byte(savedFile), 0o600); err != nil {
		return machine.Snapshot{}, fmt.Errorf("save fake machine: %w", err)
	}
	if !o.Leave {
		m.finish(machine.Exit{Reason: machine.ExitSaved})
	}
	return machine.Snapshot{Driver: Name, Dir: o.Dir, Bytes: int64(len(savedFile)), StoodStill: time.Since(begin)}, nil
}

// reattached is a machine found again: it has no link.
type reattached struct{ *fakeMachine }

func (reattached) Link() net.Conn { return nil }

var (
	_ machine.Driver   = (*Driver)(nil)
	_ machine.Restorer = (*Driver)(nil)
	_ machine.Pauser   = (*fakeMachine)(nil)
	_ machine.Saver    = (*fakeMachine)(nil)
)
