//go:build e2e

// Command withserver runs another command beside a test server, and points it
// there by its environment: how the tests in other languages get their
// server. It exits as the command does.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/atollhq/atoll/test/e2e/harness"
)

const (
	limit   = 20 * time.Minute // for the command
	killing = 10 * time.Second // for it to end when asked to
)

func main() {
	code, err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "withserver:", err)
	}
	os.Exit(code)
}

func run() (code int, err error) {
	if len(os.Args) < 2 {
		return 2, errors.New("usage: withserver command [arguments]")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	server, err := harness.Start(ctx)
	if err != nil {
		return 1, err
	}
	defer func() {
		if cerr := server.Close(); cerr != nil {
			code, err = max(code, 1), errors.Join(err, cerr)
		}
	}()
	cmd := exec.CommandContext(ctx, os.Args[1], os.Args[2:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), server.Environ()...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = killing
	err = cmd.Run()
	if trapped := server.Internet.Trapped(); len(trapped) > 0 {
		return 1, fmt.Errorf("a sandbox reached a forbidden address: %q", trapped)
	}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.Exited() {
		return exit.ExitCode(), nil
	}
	if err != nil {
		return 1, err
	}
	return 0, nil
}
