// Command atoll is the server and its command line. This file only connects
// package cli with the process; the words and flags are there.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/atollhq/atoll/internal/cli"
	"github.com/atollhq/atoll/internal/config"
	"github.com/atollhq/atoll/internal/private"
	"github.com/atollhq/atoll/internal/serve"
)

// version is set by the build with -ldflags "-X main.version=…".
var version = "dev"

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return cli.Main(ctx, os.Args[1:], cli.IO{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr,
		Getenv:   os.Getenv,
		Terminal: isTerminal(os.Stderr),
		Version:  version,
		Serve: func(ctx context.Context, settings config.Server, log *slog.Logger) error {
			if err := private.Process(); err != nil {
				return fmt.Errorf("keep memory private: %w", err)
			}
			return serve.RunWith(ctx, settings, log, serve.Options{Version: version})
		},
	})
}

// isTerminal is good enough to decide whether to draw progress.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
}
