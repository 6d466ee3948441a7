package shim

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/atollhq/atoll/internal/agent"
	"github.com/atollhq/atoll/internal/link"
	"github.com/atollhq/atoll/internal/machine"
	"github.com/atollhq/atoll/internal/machine/fake"
)

// guest is the real agent, which outlives its machines as a saved one does.
type guest struct {
	t      *testing.T
	root   string
	lives  chan net.Conn // what it has after its first machine
	ended  chan struct{} // closed when the agent has returned; nil before it runs
	cancel context.CancelFunc
}

func newGuest(t *testing.T, root string) *guest {
	g := &guest{t: t, root: root, lives: make(chan net.Conn)}
	t.Cleanup(func() {
		if g.ended != nil {
			g.cancel()
			<-g.ended
		}
	})
	return g
}

// start plays the first machine.
func (g *guest) start(life context.Context, conn net.Conn) {
	ctx, cancel := context.WithCancel(context.Background())
	g.cancel, g.ended = cancel, make(chan struct{})
	go func() {
		defer close(g.ended)
		_ = agent.Run(ctx, conn, agent.Options{Version: "test", Root: g.root, Host: guestKernel{}, Next: g.next})
	}()
	<-life.Done()
}

// restore plays a machine that continues where the one before stood.
func (g *guest) restore(life context.Context, conn net.Conn) {
	select {
	case g.lives <- conn:
		<-life.Done()
	case <-life.Done():
	}
}

func (g *guest) next(ctx context.Context) (io.ReadWriteCloser, error) {
	select {
	case conn := <-g.lives:
		return conn, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// clone makes the guest a copy of one that was configured once. The session
// in which it was is over.
func (g *guest) clone(cfg link.Config) {
	g.t.Helper()
	near, far := net.Pipe()
	machine, end := context.WithCancel(g.t.Context())
	g.t.Cleanup(end)
	go g.start(machine, far)
	session, err := link.Open(g.t.Context(), near, cfg.Generation)
	if err != nil {
		g.t.Fatal(err)
	}
	parent := &life{link: session}
	if err := parent.tell(g.t.Context(), func(w io.Writer) error { return link.SendControl(w, cfg) }); err != nil {
		g.t.Fatal(err)
	}
	_ = session.Close()
}

// What each machine claims: CPU time, and the size of a copy.
const (
	perLife = 3 * time.Second
	perCopy = 5 << 20
)

// driver is the fake one, with failures.
type driver struct {
	*fake.Driver
	weak       bool // machines can neither be paused nor saved
	pauseFails error
	saveFails  error
	restores   error // makes restoring fail

	saving chan struct{} // if set, a save tells and then waits for its context
}

func (d *driver) Info() machine.Info {
	info := d.Driver.Info()
	if d.weak {
		info.Features = machine.Features{}
	}
	return info
}

func (d *driver) Start(ctx context.Context, s machine.Spec) (machine.Machine, error) {
	m, err := d.Driver.Start(ctx, s)
	return &flawed{fakeMachine: m, driver: d}, err
}

func (d *driver) Restore(ctx context.Context, s machine.Spec, from machine.Snapshot) (machine.Machine, error) {
	if d.restores != nil {
		return nil, errors.Join(d.restores, os.RemoveAll(s.Dir))
	}
	m, err := d.Driver.Restore(ctx, s, from)
	if err != nil {
		return nil, err
	}
	return &flawed{fakeMachine: m, driver: d}, nil
}

type fakeMachine = machine.Machine

// flawed is a machine of the driver with failures.
type flawed struct {
	fakeMachine
	driver *driver
}

func (m *flawed) Pause(ctx context.Context) error {
	if m.driver.pauseFails != nil {
		return m.driver.pauseFails
	}
	return m.fakeMachine.(machine.Pauser).Pause(ctx)
}

func (m *flawed) Resume(ctx context.Context) error { return m.fakeMachine.(machine.Pauser).Resume(ctx) }

func (m *flawed) Save(ctx context.Context, o machine.SaveOptions) (machine.Snapshot, error) {
	if m.driver.saving != nil {
		close(m.driver.saving)
		<-ctx.Done()
		return machine.Snapshot{}, ctx.Err()
	}
	if m.driver.saveFails != nil {
		return machine.Snapshot{}, m.driver.saveFails
	}
	return m.fakeMachine.(machine.Saver).Save(ctx, o)
}

func (m *flawed) Stats(context.Context) (machine.Stats, error) {
	return machine.Stats{CPUTime: perLife, CopyBytes: perCopy}, nil
}
