// Command atoll-agent is the program inside a sandbox's machine, its PID 1:
// it serves the calls that come over the link to the shim, and ends the
// machine when the link ends for good.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/atollhq/atoll/internal/agent"
	"github.com/atollhq/atoll/internal/agent/lives"
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
	fd := flags.Int("link-fd", -1, "inherited `descriptor` of the link's socket")
	bell := flags.Int("bell-fd", -1, "inherited `descriptor` of the socket on which restorations of the machine are told")
	port := flags.String("link-port", "", "`path` of the device that is the link")
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
	conn, next, err := openLink(*fd, *bell, *port)
	if err != nil {
		return err
	}
	return serve(conn, next)
}

// nextFunc yields the connection of a further session; see agent.Options.
type nextFunc = func(context.Context) (io.ReadWriteCloser, error)

// openLink opens whichever end of the link was named. With a socket and no
// bell, there is one session.
func openLink(fd, bell int, device string) (io.ReadWriteCloser, nextFunc, error) {
	switch {
	case fd >= 0 && device != "":
		return nil, nil, errors.New("give one of -link-fd and -link-port")
	case fd >= 0:
		return openSocket(fd, bell)
	case device != "":
		p, err := openPort(device)
		if err != nil {
			return nil, nil, err
		}
		return &portConn{port: p}, p.Next, nil
	}
	return nil, nil, errors.New("give the link with -link-fd or -link-port")
}

func openSocket(fd, bell int) (io.ReadWriteCloser, nextFunc, error) {
	link, err := inherited(fd, "link")
	if err != nil || bell < 0 {
		return link, nil, err
	}
	rung, err := inherited(bell, "bell")
	if err != nil {
		return nil, nil, err
	}
	next := lives.New(link, rung).Next
	conn, err := next(context.Background())
	return conn, next, err
}

// inherited opens a socket that this process was started with, and keeps it
// from the processes that it starts.
func inherited(fd int, name string) (*os.File, error) {
	unix.CloseOnExec(fd)
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, fmt.Errorf("open %s: descriptor %d: %w", name, fd, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// serve runs the agent until its link ends or it is told to end, and then
// leaves no process behind.
func serve(conn io.ReadWriteCloser, next nextFunc) error {
	unix.Umask(0o022)
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
	err := agent.Run(ctx, conn, agent.Options{Version: version, Log: log, Next: next})
	if os.Getpid() == 1 {
		_ = unix.Kill(-1, unix.SIGKILL) // all but this one; their memory and files are given back now
	}
	return err
}
