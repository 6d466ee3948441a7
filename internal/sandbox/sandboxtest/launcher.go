// Package sandboxtest holds an in-memory launcher, whose sandboxes are
// goroutines that answer JSON-RPC, for tests of everything above the shim.
//
// A Launcher outlives the manager that uses it, as shims outlive the daemon.
package sandboxtest

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/errs"
	"github.com/atollhq/atoll/internal/gateway/secret"
	"github.com/atollhq/atoll/internal/link"
	"github.com/atollhq/atoll/internal/sandbox"
)

// Launcher is a fake sandbox.Launcher. Set its fields before use.
type Launcher struct {
	Delay  time.Duration                         // how long a launch takes
	Fail   func(spec sandbox.ShimSpec) error     // makes launches fail; may be nil
	Agent  func(conn net.Conn, h link.RPCHeader) // serves one stream and closes it; nil is Echo
	StopBy time.Duration                         // how long a stop takes

	FailConfigure func(id string) error         // makes spares fail; may be nil
	FailPower     func(id, method string) error // makes "pause", "resume" and "fork" fail, or take time; may be nil

	mu        sync.Mutex
	shims     map[string]*Shim
	leftovers map[string]bool // directories of dead shims
	cleaned   []string
	starting  int
	peak      int // most launches at once
}

var _ sandbox.Launcher = (*Launcher)(nil)

// Launch implements sandbox.Launcher.
func (l *Launcher) Launch(ctx context.Context, spec sandbox.ShimSpec) (sandbox.Shim, error) {
	l.count(1)
	defer l.count(-1)
	select {
	case <-time.After(l.Delay):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if l.Fail != nil {
		if err := l.Fail(spec); err != nil {
			return nil, err
		}
	}
	s := &Shim{Spec: spec, launcher: l, power: sandbox.PowerRunning, personal: accept(spec.Personal), exited: make(chan sandbox.ShimExit, 1), conns: map[net.Conn]struct{}{}}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.shims == nil {
		l.shims, l.leftovers = map[string]*Shim{}, map[string]bool{}
	}
	l.shims[spec.ID] = s
	return s, nil
}

func (l *Launcher) count(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.starting += n
	l.peak = max(l.peak, l.starting)
}

// Attach implements sandbox.Launcher.
func (l *Launcher) Attach(_ context.Context, id string) (sandbox.Shim, error) {
	if s := l.Shim(id); s != nil {
		return s, nil
	}
	return nil, errs.NotFound
}

// Cleanup implements sandbox.Launcher.
func (l *Launcher) Cleanup(_ context.Context, id string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cleaned = append(l.cleaned, id)
	delete(l.leftovers, id)
	return nil
}

// Leftovers implements sandbox.Launcher.
func (l *Launcher) Leftovers(context.Context) ([]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var ids []string
	for id := range l.shims {
		ids = append(ids, id)
	}
	for id := range l.leftovers {
		ids = append(ids, id)
	}
	return ids, nil
}

// Shim returns a running shim, or nil.
func (l *Launcher) Shim(id string) *Shim {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.shims[id]
}

// Running is how many shims run.
func (l *Launcher) Running() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.shims)
}

// Peak is how many launches were under way at once at most.
func (l *Launcher) Peak() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.peak
}

// Cleaned reports whether Cleanup was called for a sandbox.
func (l *Launcher) Cleaned(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Contains(l.cleaned, id)
}

// AddLeftover pretends that a dead shim left a directory.
func (l *Launcher) AddLeftover(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.leftovers == nil {
		l.leftovers = map[string]bool{}
	}
	l.leftovers[id] = true
}

// Shim is a fake sandbox.Shim.
type Shim struct {
	Spec     sandbox.ShimSpec
	launcher *Launcher
	exited   chan sandbox.ShimExit

	mu       sync.Mutex
	conns    map[net.Conn]struct{}
	personal Received
	late     bool // personal came with Configure
	power    sandbox.Power
	cpu      time.Duration
	holds    int64    // bytes, as Hold said
	calls    []string // "pause", "pause to disk", "resume", "fork"
	forks    int      // open ones
	reason   string   // why it was stopped
	dead     bool
	work     sync.WaitGroup
}

// Received is what a shim was told of one client's sandbox. It holds the
// secrets as a real shim does.
type Received struct {
	Env      map[string]string
	AllowNet *[]string
	Ceiling  []string
	Secrets  map[string]secret.Spec
}

func accept(p sandbox.Personal) Received {
	return Received{Env: p.Env, AllowNet: p.AllowNet, Ceiling: p.Ceiling, Secrets: p.Secrets.Specs()}
}

// Received returns what the shim was told, and whether it was a spare before.
func (s *Shim) Received() (r Received, late bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.personal, s.late
}

// Configure implements sandbox.Shim.
func (s *Shim) Configure(_ context.Context, p sandbox.Personal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.launcher.FailConfigure; f != nil {
		if err := f(s.Spec.ID); err != nil {
			return err
		}
	}
	switch {
	case s.dead:
		return errs.Unavailable
	case !s.Spec.Spare || s.late:
		return errors.New("not a spare")
	}
	s.personal, s.late = accept(p), true
	return nil
}

// Policy implements sandbox.Shim.
func (s *Shim) Policy(context.Context) (api.NetworkPolicy, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.policy()
}

// SetPolicy implements sandbox.Shim.
func (s *Shim) SetPolicy(_ context.Context, allow *[]string) (api.NetworkPolicy, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.personal.AllowNet = allow
	return s.policy()
}

func (s *Shim) policy() (api.NetworkPolicy, error) {
	if s.dead {
		return api.NetworkPolicy{}, errs.Unavailable
	}
	p := api.NetworkPolicy{AllowNet: s.personal.AllowNet, Ceiling: s.personal.Ceiling, Strict: s.Spec.Strict}
	for _, name := range slices.Sorted(maps.Keys(s.personal.Secrets)) {
		p.Secrets = append(p.Secrets, api.NetworkSecret{Name: name, Hosts: s.personal.Secrets[name].Hosts})
	}
	return p, nil
}

// OpenRPC implements sandbox.Shim.
func (s *Shim) OpenRPC(_ context.Context, h link.RPCHeader) (net.Conn, error) {
	mine, theirs := net.Pipe()
	serve := s.launcher.Agent
	if serve == nil {
		serve = Echo
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.dead:
		return nil, errs.Unavailable
	case s.power != sandbox.PowerRunning:
		return nil, errs.New(errs.Precondition, sandbox.CodePaused, "the sandbox is %s", s.power)
	}
	s.conns[theirs] = struct{}{}
	s.work.Go(func() {
		serve(theirs, h)
		_ = theirs.Close()
		s.mu.Lock()
		delete(s.conns, theirs)
		s.mu.Unlock()
	})
	return mine, nil
}

// Exited implements sandbox.Shim.
func (s *Shim) Exited() <-chan sandbox.ShimExit { return s.exited }

// Stop implements sandbox.Shim.
func (s *Shim) Stop(_ context.Context, reason string) error {
	time.Sleep(s.launcher.StopBy)
	s.die()
	s.mu.Lock()
	s.reason = reason
	s.mu.Unlock()
	s.work.Wait()
	return nil
}

// Reason is why Stop was called, or empty.
func (s *Shim) Reason() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reason
}

// Crash ends the shim by itself.
func (s *Shim) Crash(reason string) {
	s.die()
	s.exited <- sandbox.ShimExit{Reason: reason, Detail: "by the test"}
}

// Vanish ends the shim while no daemon looks, leaving its directory.
func (s *Shim) Vanish() {
	s.die()
	s.launcher.AddLeftover(s.Spec.ID)
}

func (s *Shim) die() {
	s.launcher.mu.Lock()
	delete(s.launcher.shims, s.Spec.ID)
	s.launcher.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dead = true
	s.closeStreams()
}

func (s *Shim) closeStreams() {
	for c := range s.conns {
		_ = c.Close()
	}
}

// Echo is an agent that answers each request with its own parameters, and
// "exit" by ending the stream.
func Echo(conn net.Conn, _ link.RPCHeader) {
	frames := link.NewFrameReader(conn)
	for {
		msg, err := frames.ReadMessage(api.MaxClientMessage)
		if err != nil {
			return
		}
		var req api.Request
		if json.Unmarshal(msg, &req) != nil || req.Method == "exit" {
			return
		}
		if err := link.WriteMessage(conn, answer(req)); err != nil {
			return
		}
	}
}

func answer(req api.Request) []byte {
	result, _ := json.Marshal(api.Result{OK: req.Params})
	out, _ := json.Marshal(api.Response{JSONRPC: "2.0", ID: req.ID, Result: result})
	return out
}
