// Package shim is the process that owns one sandbox: its machine, its gateway
// and its secrets. It outlives the daemon, which finds it again by its
// Unix socket; the machine does not outlive the shim.
//
// A shim starts everything in named steps and undoes them in reverse. It ends
// when its machine does, when it is told to stop, or on SIGTERM; then it
// writes the reason into its state file, tells its watchers, and frees all
// that it made. What a killed shim leaves behind, Cleanup of package launch
// frees.
//
// A spare is a sandbox that was started before anybody asked for it. It
// reaches nothing until a request, configure, gives it environment, network
// and secrets; by then nothing but the agent has run in it.
//
// A sandbox can stand still: paused, its machine is kept in memory and the
// link with all streams stays; suspended, the machine is on disk and gone, and
// resuming makes another one, with a session of its own. The shim stays in
// either case, and with it secrets, authority and lists, which are on no disk.
// Operations on the machine run one at a time, and end when the sandbox does.
package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/gateway/names"
	"github.com/atollhq/atoll/internal/gateway/policy"
	"github.com/atollhq/atoll/internal/gateway/secret"
	"github.com/atollhq/atoll/internal/layout"
	"github.com/atollhq/atoll/internal/link"
	"github.com/atollhq/atoll/internal/machine"
	"github.com/atollhq/atoll/internal/shim/wire"
)

const (
	defaultStartTimeout = 60 * time.Second
	stopTimeout         = 5 * time.Second  // polite end of a machine
	freeTimeout         = 30 * time.Second // of everything it held
	drainTimeout        = 2 * time.Second  // for watchers to read the exit
)

// Gateway is the network end that the shim attaches a machine to.
type Gateway interface {
	Attach(machine.NIC) error
	// Detach gives up the card and cuts all connections; another card can be
	// attached.
	Detach()
	// Names is what the guest's virtual addresses stand for; ContinueNames has
	// them stand for the same as another gateway's.
	Names() names.State
	ContinueNames(names.State) error
	// SetPolicy replaces what may be reached, nil for no list, and cuts the
	// connections that no longer may.
	SetPolicy(allow, ceiling *policy.List)
	// SetSecrets replaces the secrets, nil for none.
	SetSecrets(*secret.Set)
	// CAPEM is the certificate of the authority that opened TLS connections
	// are signed with.
	CAPEM() string
	Close() error
}

// Audit is the record of the sandbox's network. It is opened once the sandbox
// is somebody's, and closed when the gateway is, so that it is whole before
// anybody hears of the end.
type Audit interface {
	Open() error
	Close() error
}

// Parts are what a shim is made of; cmd/atoll-shim wires them.
type Parts struct {
	Driver  machine.Driver
	Gateway Gateway
	Network machine.Network
	Log     *slog.Logger

	Audit Audit // nil keeps none

	// Room makes room in this process's limits for a copy of the guest's
	// memory, before a fork; nil where none is needed. The copy stays as long
	// as a child lives.
	Room func() error
}

// Shim runs one sandbox.
type Shim struct {
	spec   wire.Spec
	parts  Parts
	layout layout.Sandbox
	log    *slog.Logger

	own own

	// image is held open from before the first machine to after the last: what
	// continues from a saved one needs the very file, whatever has its name.
	image *os.File

	operations context.Context // ends when no operation may run any more
	interrupt  context.CancelFunc
	ended      sync.Once     // of operations
	turn       chan struct{} // holds an element while an operation runs
	iceTimeout time.Duration

	mu         sync.Mutex // guards the following
	status     wire.Status
	first      machine.Machine // that was started; set by start
	life       *life
	changed    chan struct{}     // closed when life changes
	generation uint32            // the highest so far; changes only within operations
	saved      *machine.Snapshot // what a suspended sandbox continues from
	saves      int               // numbers their directories
	forks      int               // open ones
	used       time.Duration     // CPU time, as far as it was measured
	usedBefore time.Duration     // by earlier lives

	broken   chan wire.Exit // the machine could not be restored; capacity 1
	stop     chan string    // reasons; capacity 1, further ones are dropped
	finished chan struct{}  // closed when the machine is gone and freed
	exit     wire.Exit      // valid when finished is closed
}

// New prepares a shim.
func New(spec wire.Spec, parts Parts) *Shim {
	s := &Shim{
		spec: spec, parts: parts, layout: layout.Sandbox{Dir: spec.Dir}, log: parts.Log,
		stop: make(chan string, 1), finished: make(chan struct{}),
		turn: make(chan struct{}, 1), changed: make(chan struct{}), broken: make(chan wire.Exit, 1), generation: firstGeneration,
		iceTimeout: iceTimeout,
	}
	s.operations, s.interrupt = context.WithCancel(context.Background())
	s.status = wire.Status{
		PID: os.Getpid(), Started: time.Now().UTC(), Power: wire.PowerRunning,
		Machine: machine.State{Driver: parts.Driver.Info().Name, ID: spec.ID, Dir: s.layout.Machine()},
	}
	return s
}

// Run starts the sandbox, reports on started (one wire.Started line) and
// serves until the machine has ended and everything is freed. Cancelling ctx
// stops the machine. The error is why it could not start.
func (s *Shim) Run(ctx context.Context, started io.WriteCloser) error {
	listener, err := s.prepare()
	if err == nil {
		err = s.start(ctx)
	}
	if err != nil {
		s.free()
		if listener != nil {
			_ = listener.Close()
		}
		return errors.Join(err, wire.Write(started, wire.Started{Error: err.Error(), TemplateFailed: s.templateFailed(ctx, err)}), started.Close())
	}
	server := s.serve(listener)
	if err := errors.Join(wire.Write(started, wire.Started{TemplateFailed: s.templateFailed(ctx, nil)}), started.Close()); err != nil {
		s.log.Warn("report start", "error", err)
	}
	s.exit = s.await(ctx)
	s.free()
	s.record(s.exit)
	close(s.finished)
	server.shutdown()
	return nil
}

// templateFailed reports whether the template is to blame for how the start
// went: the machine booted instead, or it did not and nobody answered in it.
func (s *Shim) templateFailed(ctx context.Context, failure error) bool {
	if s.spec.Template == nil || ctx.Err() != nil {
		return false
	}
	m, ok := s.first.(machine.Templated)
	return ok && m.FromTemplate() == (failure != nil)
}

// prepare makes what must exist before the machine does.
func (s *Shim) prepare() (net.Listener, error) {
	if err := os.MkdirAll(s.layout.Machine(), 0o700); err != nil {
		return nil, fmt.Errorf("make machine directory: %w", err)
	}
	if err := s.writeStatus(); err != nil {
		return nil, err
	}
	if err := s.holdImage(); err != nil {
		return nil, err
	}
	listener, err := net.Listen("unix", s.layout.Socket())
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return listener, nil
}

// holdImage opens the image, of a fork the parent's.
func (s *Shim) holdImage() (err error) {
	path := s.spec.Image
	if from := s.spec.Origin; from != nil && from.Image != "" {
		path = from.Image
	}
	if s.image, err = os.Open(path); err != nil {
		return fmt.Errorf("open image: %w", err)
	}
	return nil
}

// imagePath names the image for other processes.
func (s *Shim) imagePath() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), s.image.Fd())
}

// start runs the machine and personalises its agent.
func (s *Shim) start(ctx context.Context) error {
	timeout := s.spec.StartTimeout
	if timeout <= 0 {
		timeout = defaultStartTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := s.prepareNetwork(); err != nil {
		return err
	}
	l, err := s.firstLife(ctx)
	if err != nil {
		return err
	}
	s.setLife(l)
	return nil
}

// firstLife starts a machine, or continues another sandbox's.
func (s *Shim) firstLife(ctx context.Context) (*life, error) {
	if s.spec.Origin != nil {
		return s.startFork(ctx, *s.spec.Origin)
	}
	m, err := s.parts.Driver.Start(ctx, s.machineSpec())
	if err != nil {
		return nil, fmt.Errorf("start machine: %w", err)
	}
	s.first = m
	return s.enliven(ctx, m, firstGeneration, func(l *life) error {
		return l.tell(ctx, func(w io.Writer) error { return link.SendControl(w, s.agentConfig(m)) })
	})
}

func (s *Shim) machineSpec() machine.Spec {
	return machine.Spec{
		ID: s.spec.ID, Dir: s.layout.Machine(), Hostname: s.spec.Hostname,
		Image: machine.Image{File: s.imagePath(), Kernel: s.spec.Kernel, Modules: s.spec.Modules}, Agent: s.spec.Agent, Template: s.spec.Template,
		MemoryBytes: s.spec.MemoryBytes, CPUs: s.spec.CPUs, MaxPIDs: s.spec.MaxPIDs, DiskBytes: s.spec.DiskBytes,
		Network: s.parts.Network, AttachNIC: s.parts.Gateway.Attach,
	}
}

// The user that runs code in every image.
const (
	guestUser = "app"
	guestUID  = 1000
	guestHome = "/home/app"
)

func (s *Shim) agentConfig(m machine.Machine) link.Config {
	nameservers := make([]string, len(s.parts.Network.Nameservers))
	for i, ns := range s.parts.Network.Nameservers {
		nameservers[i] = ns.String()
	}
	maxMessage := s.spec.MaxMessage
	if maxMessage == 0 {
		maxMessage = api.MaxClientMessage
	}
	var boot *link.Boot
	if booter, ok := m.(machine.Booter); ok {
		b := booter.Boot()
		boot = &b
	}
	return link.Config{
		Generation: firstGeneration, SandboxID: s.spec.ID, MachineID: newMachineID(), Entropy: entropy(), Boot: boot,
		Hostname: s.spec.Hostname, Env: s.environment(), ExtraRoots: s.guestRoots(),
		Nameservers: nameservers, MemoryBytes: s.spec.MemoryBytes, TimeUnixNs: time.Now().UnixNano(),
		UserID: guestUID, GroupID: guestUID, User: guestUser, Home: guestHome, MaxMessage: maxMessage,
	}
}

// await returns when the sandbox has ended, by itself or on request. Its
// machine may be replaced by another meanwhile.
func (s *Shim) await(ctx context.Context) wire.Exit {
	for {
		l, changed := s.look()
		if exit, over := s.watch(ctx, l, changed); over {
			return exit
		}
	}
}

// watch returns when one life, which may be none, is over, and whether the
// sandbox is.
func (s *Shim) watch(ctx context.Context, l *life, changed <-chan struct{}) (exit wire.Exit, over bool) {
	var exited <-chan machine.Exit
	var lost <-chan struct{}
	if l != nil {
		exited, lost = l.machine.Exited(), l.link.Done()
	}
	select {
	case exit := <-exited:
		return s.exited(ctx, l, exit)
	case <-lost:
		return s.linkLost(ctx, l)
	case exit := <-s.broken:
		return exit, true
	case <-changed:
		return wire.Exit{}, false
	case reason := <-s.stop:
		return s.end(reason), true
	case <-ctx.Done():
		return s.end(api.StopShutdown), true
	}
}

// exited: a machine that was saved has ended on purpose, if that succeeds.
func (s *Shim) exited(ctx context.Context, l *life, exit machine.Exit) (wire.Exit, bool) {
	if exit.Reason != machine.ExitSaved {
		return exitOf(exit), true
	}
	return s.replaced(ctx, l, nil, func() wire.Exit { return exitOf(exit) })
}

// linkLost: an agent that closed its link cannot be reached again. If the
// machine is ending, its own reason is better.
func (s *Shim) linkLost(ctx context.Context, l *life) (wire.Exit, bool) {
	return s.replaced(ctx, l, l.machine.Exited(), func() wire.Exit {
		select {
		case exit := <-l.machine.Exited():
			return exitOf(exit)
		case reason := <-s.stop:
			return s.end(reason)
		case <-time.After(stopTimeout):
			s.end(api.StopCrashed)
			return wire.Exit{Reason: api.StopCrashed, Detail: "the agent closed its link"}
		}
	})
}

// replaced waits for the operation under way, which may be what ended a life
// on purpose. If it was none, otherwise says why the sandbox has ended.
func (s *Shim) replaced(ctx context.Context, l *life, exited <-chan machine.Exit, otherwise func() wire.Exit) (wire.Exit, bool) {
	select {
	case s.turn <- struct{}{}:
		<-s.turn
	case exit := <-exited:
		return s.exited(ctx, l, exit)
	case reason := <-s.stop:
		return s.end(reason), true
	case <-ctx.Done():
		return s.end(api.StopShutdown), true
	}
	if now, _ := s.look(); now != l {
		return wire.Exit{}, false
	}
	return otherwise(), true
}

func exitOf(e machine.Exit) wire.Exit {
	reason := api.StopCrashed
	switch e.Reason {
	case machine.ExitOOM:
		reason = api.StopOOM
	case machine.ExitStopped:
		reason = api.StopKilled
	}
	return wire.Exit{Reason: reason, Detail: e.Detail}
}

// end asks a running machine to end; one that stands still can't be asked.
func (s *Shim) end(reason string) wire.Exit {
	s.endOperations()
	l, power := s.current()
	if l == nil || power != wire.PowerRunning {
		return wire.Exit{Reason: reason}
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if err := l.machine.Stop(ctx); err != nil {
		s.log.Error("stop machine", "error", err)
	}
	return wire.Exit{Reason: reason}
}

// free undoes start, in reverse, as far as it got, and what operations left.
func (s *Shim) free() {
	s.endOperations()
	s.mu.Lock()
	l, v := s.life, s.saved
	s.saved = nil
	s.mu.Unlock()
	if l != nil {
		s.bury(l)
	}
	if v != nil {
		s.release(v)
	}
	if s.image != nil {
		_ = s.image.Close()
	}
	if err := s.parts.Gateway.Close(); err != nil {
		s.log.Error("close gateway", "error", err)
	}
	if s.parts.Audit != nil {
		if err := s.parts.Audit.Close(); err != nil {
			s.log.Error("close network audit", "error", err)
		}
	}
}

func (s *Shim) snapshot() wire.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

func (s *Shim) record(exit wire.Exit) {
	s.mu.Lock()
	s.status.Exit = &exit
	s.mu.Unlock()
	if err := s.writeStatus(); err != nil && !errors.Is(err, os.ErrNotExist) {
		s.log.Error("record exit", "error", err)
	}
}

// writeStatus replaces the state file whole.
func (s *Shim) writeStatus() error {
	raw, err := json.Marshal(s.snapshot())
	if err != nil {
		return fmt.Errorf("encode state: %w", err)
	}
	temporary := s.layout.State() + ".new"
	if err := os.WriteFile(temporary, raw, 0o600); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	if err := os.Rename(temporary, s.layout.State()); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	return nil
}
