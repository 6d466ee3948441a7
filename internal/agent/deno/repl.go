package deno

import (
	"context"
	"encoding/json"
	"os"
	"time"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/agent/proc"
	"github.com/atollhq/atoll/internal/agent/rpc"
)

// How long denoReplClose waits for running code to end, for the process to
// end by itself, and for its end after the kill.
const (
	turnGrace = 500 * time.Millisecond
	exitGrace = 3 * time.Second
	killGrace = 5 * time.Second
)

// repl is a running session with its process.
type repl struct {
	*session
	process *proc.Process
}

func (s *Service) spawnDenoRepl(ctx context.Context, c *rpc.Conn, p api.SpawnDenoReplParams) (api.SpawnResult, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return api.SpawnResult{}, remote(err)
	}
	defer theirs.Close()
	process, err := s.procs.Start(ctx, c, proc.Spec{
		Path: s.cfg.Path, Args: replArgs(p.ScriptArgs), Options: p.ProcessOptions,
		ExtraEnv: environment, ExtraFiles: []*os.File{theirs}, // descriptor 3, by Deno's convention
	})
	if err != nil {
		ours.Close()
		return api.SpawnResult{}, remote(err)
	}
	s.track(&repl{session: newSession(ours), process: process})
	return process.Result(), nil
}

// track keeps r until its process ends.
func (s *Service) track(r *repl) {
	pid := r.process.PID()
	s.mu.Lock()
	s.sessions[pid] = r
	s.mu.Unlock()
	s.onExit(r.process, func() {
		s.mu.Lock()
		if s.sessions[pid] == r {
			delete(s.sessions, pid)
		}
		s.mu.Unlock()
		r.close()
	})
}

// onExit runs free after the process has ended; Close waits for it.
func (s *Service) onExit(p *proc.Process, free func()) {
	s.running.Add(1)
	p.OnExit(func() {
		defer s.running.Done()
		free()
	})
}

// session finds the session of a process that still runs.
func (s *Service) session(pid int) (*repl, error) {
	s.mu.Lock()
	r := s.sessions[pid]
	s.mu.Unlock()
	if r != nil && !isClosed(r.process.Done()) {
		return r, nil
	}
	process, err := s.procs.Find(pid)
	if err != nil {
		return nil, remote(err)
	}
	if isClosed(process.Done()) {
		return nil, rpc.NewError("TypeError", "ENOENT", "the process with pid %d has ended", pid)
	}
	return nil, rpc.NewError("TypeError", "EINVAL", "the process with pid %d is not a Deno REPL", pid)
}

func (s *Service) replEval(ctx context.Context, _ *rpc.Conn, p api.DenoReplEvalParams) (json.RawMessage, error) {
	r, err := s.session(p.PID)
	if err != nil {
		return nil, err
	}
	value, err := r.eval(ctx, p.Code)
	return value, remote(err)
}

func (s *Service) replCall(ctx context.Context, _ *rpc.Conn, p api.DenoReplCallParams) (json.RawMessage, error) {
	r, err := s.session(p.PID)
	if err != nil {
		return nil, err
	}
	args, err := json.Marshal(p.Args)
	if err != nil {
		return nil, remote(err)
	}
	if p.Args == nil {
		args = []byte("[]")
	}
	value, err := r.call(ctx, p.Fn, args)
	return value, remote(err)
}

// replClose ends the process and answers when it is gone.
func (s *Service) replClose(ctx context.Context, _ *rpc.Conn, p api.PIDParams) (rpc.Null, error) {
	r, err := s.session(p.PID)
	if err != nil {
		return rpc.Null{}, err
	}
	if r.exits(ctx) {
		return rpc.Null{}, nil
	}
	if err := r.process.Signal("SIGKILL"); err != nil && !isClosed(r.process.Done()) {
		return rpc.Null{}, remote(err)
	}
	hard, cancel := context.WithTimeout(ctx, killGrace)
	defer cancel()
	_, err = r.process.Wait(hard)
	return rpc.Null{}, remote(err)
}

// exits asks the process to end and tells whether it did.
func (r *repl) exits(ctx context.Context) bool {
	turn, cancel := context.WithTimeout(ctx, turnGrace)
	defer cancel()
	if !r.exit(turn) {
		return false
	}
	end, cancel := context.WithTimeout(ctx, exitGrace)
	defer cancel()
	_, err := r.process.Wait(end)
	return err == nil
}
