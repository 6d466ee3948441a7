//go:build e2e

// Command withserver runs another command beside a test server, and points it
// there by its environment: how the tests in other languages get their
// server. Arguments before the command that begin with two dashes, as in
// --spares=2, are the server's. It exits as the command does.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/atollhq/atoll/test/e2e/harness"
)

const (
	limit   = time.Hour        // for the command
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
	args := os.Args[1:]
	var flags []string
	for len(args) > 0 && strings.HasPrefix(args[0], "--") {
		flags, args = append(flags, args[0]), args[1:]
	}
	if len(args) == 0 {
		return 2, errors.New("usage: withserver [--flag=value…] command [arguments]")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	server, err := harness.Start(ctx, flags...)
	if err != nil {
		return 1, err
	}
	defer func() {
		if cerr := server.Close(); cerr != nil {
			code, err = max(code, 1), errors.Join(err, cerr)
		}
	}()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
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
