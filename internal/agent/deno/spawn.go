package deno

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/agent/proc"
	"github.com/atollhq/atoll/internal/agent/rpc"
)

// environment is set for every Deno process: nobody reads the notice of a
// newer version, and looking for it would use the sandbox's network.
var environment = map[string]string{"DENO_NO_UPDATE_CHECK": "1"}

// program is a command line with what it needs on disk.
type program struct {
	args  []string
	watch *watcher // nil unless it restarts
	file  string   // a file to remove at the end, or ""
}

// free removes what the program needed.
func (p *program) free() {
	if p.watch != nil {
		p.watch.close()
	}
	if p.file != "" {
		os.Remove(p.file)
	}
}

func (s *Service) spawnDeno(ctx context.Context, c *rpc.Conn, p api.SpawnDenoParams) (api.SpawnDenoResult, error) {
	program, err := s.prepare(&p)
	if err != nil {
		return api.SpawnDenoResult{}, remote(err)
	}
	process, err := s.procs.Start(ctx, c, proc.Spec{
		Path: s.cfg.Path, Args: program.args, Options: p.ProcessOptions, ExtraEnv: environment,
	})
	if err != nil {
		program.free()
		return api.SpawnDenoResult{}, remote(err)
	}
	result := api.SpawnDenoResult{SpawnResult: process.Result()}
	if program.watch != nil {
		id := s.notify(c, program.watch)
		result.WatcherID = &id
	}
	s.onExit(process, program.free)
	return result, nil
}

// notify tells the connection about restarts until the watcher closes.
func (s *Service) notify(c *rpc.Conn, w *watcher) (id string) {
	id = fmt.Sprintf("watcher-%d", s.watchers.Add(1))
	s.running.Go(func() {
		w.follow(func() {
			// A connection that is gone has nobody who waits for the event.
			_ = c.Notify(api.NotifyWatcherRestart, api.WatcherRestartParams{WatcherID: id})
		})
	})
	return id
}

// prepare makes the command line; the parameters have been validated.
func (s *Service) prepare(p *api.SpawnDenoParams) (*program, error) {
	if p.Code != nil {
		return s.prepareCode(p)
	}
	return s.prepareEntrypoint(p)
}

func (s *Service) prepareEntrypoint(p *api.SpawnDenoParams) (*program, error) {
	if p.Watch == nil || !p.Watch.Enabled {
		return &program{args: runArgs(p, "")}, nil
	}
	w, err := newWatcher(int(s.cfg.UID), int(s.cfg.GID))
	if err != nil {
		return nil, err
	}
	return &program{args: runArgs(p, w.preload()), watch: w}, nil
}

func (s *Service) prepareCode(p *api.SpawnDenoParams) (*program, error) {
	extension := "ts"
	if p.Extension != nil {
		extension = *p.Extension
	}
	if len(*p.Code) <= maxInline && !strings.Contains(*p.Code, "\x00") {
		return &program{args: evalArgs(*p.Code, extension, p.ScriptArgs)}, nil
	}
	file, err := s.writeCode(s.workDir(p), *p.Code, extension)
	if err != nil {
		return nil, err
	}
	run := *p
	run.Entrypoint = &file
	return &program{args: runArgs(&run, ""), file: file}, nil
}

// workDir is where the process will run.
func (s *Service) workDir(p *api.SpawnDenoParams) string {
	if p.Cwd == nil {
		return s.cfg.Home
	}
	if filepath.IsAbs(*p.Cwd) {
		return *p.Cwd
	}
	return filepath.Join(s.cfg.Home, *p.Cwd)
}

// writeCode writes code that is too long for a command line to a hidden file
// in dir, where its relative imports work, or else to the temporary directory.
func (s *Service) writeCode(dir, code, extension string) (string, error) {
	pattern := ".deno-eval-*." + extension
	f, err := os.CreateTemp(cmp.Or(dir, "."), pattern)
	if err != nil {
		if f, err = os.CreateTemp("", pattern); err != nil {
			return "", err
		}
	}
	err = f.Chown(int(s.cfg.UID), int(s.cfg.GID))
	if err == nil {
		_, err = f.WriteString(code)
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		os.Remove(f.Name())
		return "", err
	}
	return f.Name(), nil
}
