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
}

// Shim runs one sandbox.
type Shim struct {
	spec   wire.Spec
	parts  Parts
	layout layout.Sandbox
	log    *slog.Logger

	own own

	machine machine.Machine // set by start, before serving
	link    *link.Session
	control net.Conn

	mu     sync.Mutex
	status wire.Status

	stop     chan string   // reasons; capacity 1, further ones are dropped
	finished chan struct{} // closed when the machine is gone and freed
	exit     wire.Exit     // valid when finished is closed
}

// New prepares a shim.
func New(spec wire.Spec, parts Parts) *Shim {
	s := &Shim{
		spec: spec, parts: parts, layout: layout.Sandbox{Dir: spec.Dir}, log: parts.Log,
		stop: make(chan string, 1), finished: make(chan struct{}),
	}
	s.status = wire.Status{
		PID: os.Getpid(), Started: time.Now().UTC(),
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
	if s.spec.Template == nil || s.machine == nil || ctx.Err() != nil {
		return false
	}
	m, ok := s.machine.(machine.Templated)
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
	listener, err := net.Listen("unix", s.layout.Socket())
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return listener, nil
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
	m, err := s.parts.Driver.Start(ctx, s.machineSpec())
	if err != nil {
		return fmt.Errorf("start machine: %w", err)
	}
	s.machine = m
	if s.link, err = link.Open(ctx, m.Link(), 1); err != nil {
		return s.startFailure(ctx, err)
	}
	if err := s.personalise(ctx); err != nil {
		return err
	}
	if settler, ok := m.(machine.Settler); ok {
		if err := settler.Settle(); err != nil {
			s.log.Warn("settle machine", "error", err)
		}
	}
	return nil
}

func (s *Shim) machineSpec() machine.Spec {
	return machine.Spec{
		ID: s.spec.ID, Dir: s.layout.Machine(), Hostname: s.spec.Hostname,
		Image: machine.Image{File: s.spec.Image, Kernel: s.spec.Kernel, Modules: s.spec.Modules}, Agent: s.spec.Agent, Template: s.spec.Template,
		MemoryBytes: s.spec.MemoryBytes, CPUs: s.spec.CPUs, MaxPIDs: s.spec.MaxPIDs, DiskBytes: s.spec.DiskBytes,
		Network: s.parts.Network, AttachNIC: s.parts.Gateway.Attach,
	}
}

// personalise sends the agent its configuration and waits for its answer,
// for the machine's end, or for ctx.
func (s *Shim) personalise(ctx context.Context) error {
	control, err := s.link.Dial(ctx, link.KindControl, struct{}{})
	if err != nil {
		return s.startFailure(ctx, err)
	}
	s.control = control
	err = s.tell(ctx, func() error { return link.SendControl(control, s.agentConfig()) })
	if _, refused := errors.AsType[refusal](err); refused {
		return fmt.Errorf("personalise machine: %w", err)
	}
	if err != nil {
		return s.startFailure(ctx, err)
	}
	return nil
}

// startFailure prefers the machine's own account of its end over the broken
// stream that it caused.
func (s *Shim) startFailure(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("personalise machine: no answer from the agent: %w", ctx.Err())
	}
	select {
	case exit := <-s.machine.Exited():
		return fmt.Errorf("personalise machine: it ended (%s): %s", exit.Reason, exit.Detail)
	case <-time.After(time.Second):
		return fmt.Errorf("personalise machine: %w", err)
	}
}

// The user that runs code in every image.
const (
	guestUser = "app"
	guestUID  = 1000
	guestHome = "/home/app"
)

func (s *Shim) agentConfig() link.Config {
	nameservers := make([]string, len(s.parts.Network.Nameservers))
	for i, ns := range s.parts.Network.Nameservers {
		nameservers[i] = ns.String()
	}
	maxMessage := s.spec.MaxMessage
	if maxMessage == 0 {
		maxMessage = api.MaxClientMessage
	}
	var boot *link.Boot
	if booter, ok := s.machine.(machine.Booter); ok {
		b := booter.Boot()
		boot = &b
	}
	return link.Config{
		Boot:       boot,
		Generation: 1, Hostname: s.spec.Hostname, Env: s.environment(), ExtraRoots: s.guestRoots(),
		Nameservers: nameservers, MemoryBytes: s.spec.MemoryBytes, TimeUnixNs: time.Now().UnixNano(),
		UserID: guestUID, GroupID: guestUID, User: guestUser, Home: guestHome, MaxMessage: maxMessage,
	}
}

// await returns when the machine has ended, by itself or on request.
func (s *Shim) await(ctx context.Context) wire.Exit {
	select {
	case exit := <-s.machine.Exited():
		return exitOf(exit)
	case reason := <-s.stop:
		return s.end(reason)
	case <-s.link.Done():
		return s.linkLost()
	case <-ctx.Done():
		return s.end(api.StopShutdown)
	}
}

// linkLost: an agent that closed its link cannot be reached again. If the
// machine is ending, its own reason is better.
func (s *Shim) linkLost() wire.Exit {
	select {
	case exit := <-s.machine.Exited():
		return exitOf(exit)
	case reason := <-s.stop:
		return s.end(reason)
	case <-time.After(stopTimeout):
		s.end(api.StopCrashed)
		return wire.Exit{Reason: api.StopCrashed, Detail: "the agent closed its link"}
	}
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

func (s *Shim) end(reason string) wire.Exit {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if err := s.machine.Stop(ctx); err != nil {
		s.log.Error("stop machine", "error", err)
	}
	return wire.Exit{Reason: reason}
}

// free undoes start, in reverse, as far as it got.
func (s *Shim) free() {
	ctx, cancel := context.WithTimeout(context.Background(), freeTimeout)
	defer cancel()
	if s.control != nil {
		_ = s.control.Close()
	}
	if s.link != nil {
		_ = s.link.Close()
	}
	if s.machine != nil {
		if err := s.machine.Destroy(ctx); err != nil {
			s.log.Error("destroy machine", "error", err)
		}
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
