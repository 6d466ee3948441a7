package sandbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/errs"
	"github.com/atollhq/atoll/internal/layout"
	"github.com/atollhq/atoll/internal/lifecycle"
	"github.com/atollhq/atoll/internal/machine"
	"github.com/atollhq/atoll/internal/store"
)

// Store is what the manager keeps in the database.
type Store interface {
	CreateSandbox(ctx context.Context, sb store.Sandbox) error
	SetRunning(ctx context.Context, ids ...string) error
	SetStopAt(ctx context.Context, id string, at time.Time) error
	SetStill(ctx context.Context, id, power string, since time.Time, remaining time.Duration) error
	SetRemaining(ctx context.Context, id string, remaining time.Duration) error
	SetAwake(ctx context.Context, id string, stopAt time.Time) error
	SetIdle(ctx context.Context, id string, after time.Duration, toDisk bool) error
	SetStopping(ctx context.Context, id, reason string, now time.Time) error
	SetStopped(ctx context.Context, id string) error
	Sandbox(ctx context.Context, id string) (store.Sandbox, error)
	LiveSandboxes(ctx context.Context) ([]store.Sandbox, error)
	Sandboxes(ctx context.Context, f store.SandboxFilter) ([]store.Sandbox, error)
	PurgeSandboxes(ctx context.Context, before time.Time) (int64, error)
}

// Observer is told what happens, for metrics and the audit log. It must not
// block.
type Observer interface {
	SandboxCreated(outcome string, took time.Duration) // "ok" or an error class
	SandboxStopped(id, org, reason string)
	SandboxesLive(n int) // including those that are starting or stopping

	// PowerChanged says that a machine stands still or runs again, in the words
	// of api.Power…, and how long that took.
	PowerChanged(id, org, power string, took time.Duration)
}

// Options of a Manager. All fields are needed unless they say otherwise.
type Options struct {
	Store    Store
	Launcher Launcher
	Observer Observer
	Log      *slog.Logger

	// Template holds what all sandboxes have in common; id, host name, memory
	// and what is personal are filled in.
	Template ShimSpec

	Features map[string]machine.Features // of isolations by their names

	Ceilings Ceilings    // what no sandbox's allow-list exceeds; the zero value limits nothing
	Data     layout.Data // where the audit files are

	Spare SpareSpec // what is kept started ahead; the zero value keeps nothing

	MaxSandboxes  int                   // live at once
	MaxPerOrg     int                   // live at once; 0 is unlimited
	Starts        int                   // starting at once
	MinFreeMemory int64                 // bytes; 0 switches the check off
	FreeMemory    func() (int64, error) // bytes available on the host

	StartTimeout time.Duration // from the call of Create, waiting included
	StopTimeout  time.Duration // of one shim
	MaxExtend    time.Duration
	MaxPaused    time.Duration // until one that stands still is stopped; 0 is never
	SessionGrace time.Duration
	Retention    time.Duration // of stopped sandboxes in the store
}

// Defaults of Options.
const (
	DefaultStartTimeout = 120 * time.Second
	DefaultStopTimeout  = 60 * time.Second
)

// Manager runs sandboxes. Its methods may be called concurrently.
type Manager struct {
	Options
	starts *semaphore.Weighted
	saves  chan struct{} // holds one for each pause to disk under way
	spares spares

	ctx    context.Context // ends when the manager shuts down
	cancel context.CancelFunc
	work   sync.WaitGroup // creations, supervisors and clients

	mu      sync.Mutex // guards what follows
	closing bool
	boxes   map[string]*box
	claimed map[string]bool // ids of spares that are becoming sandboxes and have no row yet
	perOrg  map[string]int  // live or starting
	total   int
}

// NewManager returns a manager that runs nothing yet. Call Recover before the
// first request, and Shutdown at the end.
func NewManager(o Options) *Manager {
	ctx, cancel := context.WithCancel(context.Background())
	return &Manager{
		Options: o,
		starts:  semaphore.NewWeighted(int64(o.Starts)),
		saves:   make(chan struct{}, maxSaves),
		ctx:     ctx,
		cancel:  cancel,
		boxes:   map[string]*box{},
		claimed: map[string]bool{},
		perOrg:  map[string]int{},
	}
}

// Create starts a sandbox and returns its primary client. It waits for its
// turn when many start at once. When it fails, nothing is left but a stopped
// row. The spec's secrets are dropped.
func (m *Manager) Create(ctx context.Context, org string, spec Spec) (*Client, error) {
	began := time.Now()
	defer spec.Secrets.Drop()
	c, err := m.create(ctx, org, spec)
	m.Observer.SandboxCreated(outcome(err), time.Since(began))
	return c, err
}

func (m *Manager) create(ctx context.Context, org string, spec Spec) (_ *Client, err error) {
	if err := m.Ceilings.check(org, spec.AllowNet, spec.Secrets); err != nil {
		return nil, err
	}
	if err := m.checkIdle(m.Template.Driver, spec.Idle); err != nil {
		return nil, err
	}
	if err := m.admit(org, 1); err != nil {
		return nil, err
	}
	var undo lifecycle.Undo
	undo.Add("release", func(context.Context) error { m.release(org); return nil })
	ctx, cancel := context.WithTimeout(ctx, m.StartTimeout)
	defer cancel()
	defer context.AfterFunc(m.ctx, cancel)()
	defer func() {
		if err != nil {
			err = m.giveUp(ctx, &undo, err)
		}
	}()

	row, shim, err := m.start(ctx, &undo, org, spec)
	if err != nil {
		return nil, err
	}
	if err := m.Store.SetRunning(ctx, row.ID); err != nil {
		return nil, err
	}
	return m.run(row, shim)
}

// start records a sandbox and gives it a machine: a spare if there is one.
func (m *Manager) start(ctx context.Context, undo *lifecycle.Undo, org string, spec Spec) (store.Sandbox, Shim, error) {
	defer m.refillSoon()
	if s := m.takeSpare(ctx, org, spec); s != nil {
		defer m.unclaim(s.id)
		undo.Add("stop the spare", func(ctx context.Context) error { return s.shim.Stop(ctx, api.StopFailed) })
		row, err := m.insert(ctx, undo, s.id, org, spec)
		return row, s.shim, err
	}
	if err := m.starts.Acquire(ctx, 1); err != nil {
		return store.Sandbox{}, nil, fmt.Errorf("wait for a turn to start: %w", err)
	}
	defer m.starts.Release(1)
	if err := m.checkMemory(0); err != nil {
		return store.Sandbox{}, nil, err
	}
	row, err := m.insert(ctx, undo, NewID(spec.Region), org, spec)
	if err != nil {
		return row, nil, err
	}
	shim, err := m.launch(ctx, undo, row, spec)
	return row, shim, err
}

func (m *Manager) insert(ctx context.Context, undo *lifecycle.Undo, id, org string, spec Spec) (store.Sandbox, error) {
	row := store.Sandbox{
		ID:         id,
		Org:        org,
		Region:     spec.Region,
		Labels:     spec.Labels,
		MemoryMiB:  spec.MemoryMiB,
		Isolation:  m.Template.Driver,
		CPUs:       m.Template.CPUs,
		DiskBytes:  m.Template.DiskBytes,
		Image:      m.Template.Image.File,
		Created:    time.Now().UTC(),
		Status:     store.Creating,
		StopAt:     spec.StopAt,
		IdlePause:  spec.Idle.After,
		IdleToDisk: spec.Idle.ToDisk,
	}
	return row, m.record(ctx, undo, row)
}

// record stores the row of a sandbox that is about to start.
func (m *Manager) record(ctx context.Context, undo *lifecycle.Undo, row store.Sandbox) error {
	if err := m.Store.CreateSandbox(ctx, row); err != nil {
		return err
	}
	undo.Add("record the failed start", func(ctx context.Context) error {
		return m.recordStop(ctx, row.ID, api.StopFailed)
	})
	return nil
}

func (m *Manager) launch(ctx context.Context, undo *lifecycle.Undo, row store.Sandbox, spec Spec) (Shim, error) {
	s := m.shimSpec(row.ID, row.MemoryMiB)
	s.Personal = m.personal(row.Org, spec)
	return m.launchShim(ctx, undo, s)
}

func (m *Manager) launchShim(ctx context.Context, undo *lifecycle.Undo, s ShimSpec) (Shim, error) {
	shim, err := m.Launcher.Launch(ctx, s)
	if err != nil {
		return nil, fmt.Errorf("launch shim: %w", err)
	}
	undo.Add("stop the shim", func(ctx context.Context) error { return shim.Stop(ctx, api.StopFailed) })
	return shim, nil
}

func (m *Manager) shimSpec(id string, memoryMiB int) ShimSpec {
	s := m.Template
	s.ID, s.Hostname = id, hostname(id)
	s.MemoryBytes = int64(memoryMiB) << 20
	return s
}

func (m *Manager) personal(org string, spec Spec) Personal {
	return Personal{Env: spec.Env, AllowNet: spec.AllowNet, Ceiling: m.Ceilings.entriesOf(org), Secrets: spec.Secrets}
}

// run hands a started sandbox to its supervisor and returns its primary
// client.
func (m *Manager) run(row store.Sandbox, shim Shim) (*Client, error) {
	row.Status = store.Running
	b := newBox(m, row, shim, PowerRunning)
	c, err := b.connect()
	if err != nil {
		b.die()
		return nil, err
	}
	if !m.add(b) {
		c.forget()
		b.die()
		return nil, errShuttingDown()
	}
	return c, nil
}

// giveUp takes a failed creation back and says why it failed.
func (m *Manager) giveUp(ctx context.Context, undo *lifecycle.Undo, err error) error {
	late := errors.Is(ctx.Err(), context.DeadlineExceeded)
	cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.StopTimeout)
	defer cancel()
	if uerr := undo.Run(cleanup); uerr != nil {
		m.Log.Error("take back a failed creation", "error", uerr)
	}
	switch {
	case m.ctx.Err() != nil:
		return errShuttingDown()
	case late:
		return errs.Wrap(err, errs.Timeout, "START_TIMEOUT", "the sandbox did not start within %s: the server is busy, try again", m.StartTimeout)
	}
	return err
}

// recordStop takes a row to its end in both steps.
func (m *Manager) recordStop(ctx context.Context, id, reason string) error {
	if err := m.Store.SetStopping(ctx, id, reason, time.Now().UTC()); err != nil && !errors.Is(err, errs.NotFound) {
		return err
	}
	return m.Store.SetStopped(ctx, id)
}

// Shutdown lets all sandboxes go, running, and disconnects their clients. It
// waits for everything that the manager started.
func (m *Manager) Shutdown(ctx context.Context) error {
	m.mu.Lock()
	m.closing = true
	m.mu.Unlock()
	m.cancel()
	m.dropSpares()
	return wait(ctx, &m.work, "let sandboxes go")
}

// StopAll stops every sandbox, to be called before Shutdown by an operator
// who wants none to go on.
func (m *Manager) StopAll(ctx context.Context) error {
	m.mu.Lock()
	m.closing = true
	boxes := make([]*box, 0, len(m.boxes))
	for _, b := range m.boxes {
		boxes = append(boxes, b)
	}
	m.mu.Unlock()
	for _, b := range boxes {
		b.request(api.StopShutdown)
	}
	for _, b := range boxes {
		select {
		case <-b.done:
		case <-ctx.Done():
			return fmt.Errorf("stop sandboxes: %w", ctx.Err())
		}
	}
	return nil
}

func wait(ctx context.Context, wg *sync.WaitGroup, what string) error {
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", what, ctx.Err())
	}
}

func errShuttingDown() error {
	return errs.New(errs.Unavailable, "SERVER_STOPPING", "the server is stopping: try again in a moment")
}

func outcome(err error) string {
	if err == nil {
		return "ok"
	}
	if errors.Is(err, context.Canceled) {
		return "client left"
	}
	return string(errs.Public(err).Class)
}
