package deno

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/atollhq/atoll/api"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// startWatcher returns a watcher and a channel with its restarts.
func startWatcher(t *testing.T) (*watcher, <-chan struct{}) {
	t.Helper()
	t.Setenv("TMPDIR", t.TempDir())
	w, err := newWatcher(os.Getuid(), os.Getgid())
	if err != nil {
		t.Fatal(err)
	}
	restarts := make(chan struct{}, 16)
	var following sync.WaitGroup
	following.Go(func() { w.follow(func() { restarts <- struct{}{} }) })
	t.Cleanup(func() {
		w.close()
		following.Wait()
		if _, err := os.Stat(w.dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the watcher's directory is still there: %v", err)
		}
	})
	return w, restarts
}

func expectRestart(t *testing.T, restarts <-chan struct{}) {
	t.Helper()
	select {
	case <-restarts:
	case <-time.After(time.Minute):
		t.Fatal("no restart")
	}
}

func TestWatcherCountsStarts(t *testing.T) {
	w, restarts := startWatcher(t)
	for range 3 { // one start, two restarts
		if err := os.WriteFile(w.path("starts"), []byte{0}, 0); err != nil {
			t.Fatal(err)
		}
	}
	expectRestart(t, restarts)
	expectRestart(t, restarts)
	w.close()
	if len(restarts) > 0 {
		t.Error("the first start counts as a restart")
	}
}

func TestWatchRealDeno(t *testing.T) {
	deno := denoBinary(t)
	w, restarts := startWatcher(t)
	dir := t.TempDir()
	main, running := filepath.Join(dir, "main.ts"), filepath.Join(dir, "running")
	write(t, main, "Deno.writeTextFileSync('running', '1'); setInterval(() => {}, 1000)")
	params := api.SpawnDenoParams{Entrypoint: &main, Watch: &api.Watch{Enabled: true}}
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), deno, runArgs(&params, w.preload())...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "DENO_NO_UPDATE_CHECK=1", "DENO_DIR="+dir+"/.cache")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	eventually(t, func() bool { _, err := os.Stat(running); return err == nil })
	// Deno sets up its file watch around the time when the program starts, so
	// a single early change could go by unseen: change until it is noticed.
	again := time.NewTicker(time.Second)
	defer again.Stop()
	for range 20 {
		write(t, main, "setInterval(() => {}, 1000)")
		select {
		case <-restarts:
			return
		case <-again.C:
		}
	}
	t.Error("no restart")
}
