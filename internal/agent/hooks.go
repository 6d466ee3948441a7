package agent

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/atollhq/atoll/internal/agent/proc"
)

const (
	hooksDir      = "etc/atoll/resume.d"
	maxHooks      = 16
	hookPatience  = 5 * time.Second
	maxHookOutput = 4 << 10                // bytes of it in the log
	outputLinger  = 100 * time.Millisecond // for the last of it to be read

	eventFork   = "fork"
	eventResume = "resume"
)

// runHooks runs what the guest has for a machine that continues from a saved
// state, one after the other, as root.
func (a *Agent) runHooks(event string, who self) {
	a.hooks.Lock()
	defer a.hooks.Unlock()
	for _, path := range hooks(filepath.Join(a.opts.Root, hooksDir)) {
		if a.life.Err() != nil {
			return
		}
		a.runHook(path, []string{
			"PATH=" + proc.DefaultPath, "HOME=/root", "LANG=C.UTF-8",
			"ATOLL_EVENT=" + event, sandboxIDVariable + "=" + who.SandboxID, "ATOLL_FORKED_FROM=" + who.ForkedFrom,
		})
	}
}

// hooks lists the executables of a directory by name, as many as are run.
func hooks(dir string) (paths []string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		info, err := os.Stat(path)
		if err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 && len(paths) < maxHooks {
			paths = append(paths, path)
		}
	}
	return paths
}

func (a *Agent) runHook(path string, env []string) {
	ctx, cancel := context.WithTimeout(a.life, hookPatience)
	defer cancel()
	r, w, err := os.Pipe()
	if err != nil {
		a.log.Warn("run hook", "hook", path, "error", err)
		return
	}
	output := make(chan []byte, 1)
	go func() { output <- firstOf(r, maxHookOutput) }()
	status, err := a.parts.procs.Run(ctx, proc.Command{Path: path, Env: env, Output: w})
	_ = w.Close()
	_ = r.SetReadDeadline(time.Now().Add(outputLinger)) // what it left running may hold the other end
	text := <-output
	_ = r.Close()
	if err != nil {
		a.log.Warn("run hook", "hook", path, "error", err, "output", string(text))
		return
	}
	a.log.Info("hook has ended", "hook", path, "code", status.Code, "output", string(text))
}

// firstOf reads to the end and keeps the first bytes.
func firstOf(r io.Reader, limit int64) []byte {
	var kept bytes.Buffer
	_, _ = io.CopyN(&kept, r, limit)
	_, _ = io.Copy(io.Discard, r)
	return kept.Bytes()
}
