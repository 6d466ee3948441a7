// Command atoll-agent is the program inside a sandbox's machine, its PID 1:
// it serves the calls that come over the link to the shim, and ends the
// machine when the link ends.
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
	"github.com/atollhq/atoll/internal/agent/boot"
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
	port := flags.String("link-port", "", "`path` of the device that is the link")
	name := flags.String("boot", "", "start the machine's system; the link is the virtio port of this `name`")
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
	var options agent.Options
	if *name != "" {
		if err := boot.Early(); err != nil {
			return err
		}
		device, err := boot.Port(*name)
		if err != nil {
			return err
		}
		*port, options.Boot = device, boot.Root
	}
	conn, err := openLink(*fd, *port)
	if err != nil {
		return err
	}
	err = serve(conn, options)
	if *name != "" {
		return errors.Join(err, boot.PowerOff())
	}
	return err
}

// openLink opens whichever end of the link was named.
func openLink(fd int, port string) (io.ReadWriteCloser, error) {
	switch {
	case fd >= 0 && port != "":
		return nil, errors.New("give one of -link-fd and -link-port")
	case fd >= 0:
		unix.CloseOnExec(fd)
		if err := unix.SetNonblock(fd, true); err != nil {
			return nil, fmt.Errorf("open link: descriptor %d: %w", fd, err)
		}
		return os.NewFile(uintptr(fd), "link"), nil
	case port != "":
		f, err := os.OpenFile(port, os.O_RDWR|unix.O_NONBLOCK, 0)
		if err != nil {
			return nil, fmt.Errorf("open link: %w", err)
		}
		return f, nil
	}
	return nil, errors.New("give the link with -link-fd or -link-port")
}

// serve runs the agent until its link ends or it is told to end, and then
// leaves no process behind.
func serve(conn io.ReadWriteCloser, options agent.Options) error {
	unix.Umask(0o022)
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
	options.Version, options.Log = version, log
	err := agent.Run(ctx, conn, options)
	if os.Getpid() == 1 {
		_ = unix.Kill(-1, unix.SIGKILL) // all but this one; their memory and files are given back now
	}
	return err
}
