// Command atoll-agent is the program inside a sandbox's machine, its PID 1:
// it serves the calls that come over the link to the shim, and ends the
// machine when the link ends.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/atollhq/atoll/internal/agent"
	"github.com/atollhq/atoll/internal/agent/boot"
	"github.com/atollhq/atoll/internal/agent/freezer"
	"github.com/atollhq/atoll/internal/agent/lives"
	"github.com/atollhq/atoll/internal/link"
)

var version = "dev" // set by the linker

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "atoll-agent:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("atoll-agent", flag.ContinueOnError)
	linkFD := flags.Int("link-fd", -1, "inherited `descriptor` of the link's socket")
	bellFD := flags.Int("bell-fd", -1, "inherited `descriptor` of the socket that tells of restorations")
	starts := flags.Bool("boot", false, "start the machine's system; link and bell are virtio ports")
	show := flags.Bool("version", false, "print the version")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	if *show {
		fmt.Println(version)
		return nil
	}
	if *starts {
		return start()
	}
	socket, err := inherited("link", *linkFD)
	if err != nil {
		return err
	}
	bell, err := inherited("bell", *bellFD)
	if err != nil {
		return err
	}
	return serve(lives.New(socket, bell), agent.Options{Log: newLog()})
}

// start runs the agent as the first program of a machine with a kernel of its
// own, which ends with it.
func start() error {
	err := startAndServe()
	if err != nil {
		fmt.Fprintln(os.Stderr, "atoll-agent:", err)
	}
	return errors.Join(err, boot.PowerOff())
}

func startAndServe() error {
	if err := boot.Early(); err != nil {
		return err
	}
	port, err := boot.OpenPort(boot.LinkPort)
	if err != nil {
		return err
	}
	bell, err := boot.OpenPort(boot.BellPort)
	if err != nil {
		return err
	}
	log, processes := newLog(), &freezer.Freezer{}
	root := func(b link.Boot) error {
		if err := boot.Root(b); err != nil {
			return err
		}
		return processes.Open(boot.ControlGroups, log)
	}
	return serve(lives.New(port, bell), agent.Options{Boot: root, Freezer: processes, Log: log})
}

func newLog() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

func inherited(name string, fd int) (*os.File, error) {
	if fd < 0 {
		return nil, fmt.Errorf("give the %s with -%s-fd", name, name)
	}
	unix.CloseOnExec(fd)
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, fmt.Errorf("open %s: descriptor %d: %w", name, fd, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// serve runs the agent until its link ends or it is told to end, and then
// leaves no process behind.
func serve(l *lives.Link, options agent.Options) error {
	unix.Umask(0o022)
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	options.Version = version
	conn, err := l.Next(ctx)
	if err != nil {
		return err
	}
	options.Next = l.Next
	err = agent.Run(ctx, conn, options)
	if os.Getpid() == 1 {
		_ = unix.Kill(-1, unix.SIGKILL) // all but this one; their memory and files are given back now
	}
	return err
}
