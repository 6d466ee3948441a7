package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// port is a virtio port, whose other end is replaced when the machine is
// restored. The device stays open from one session to the next: closing it
// would throw away what has come of the next one.
type port struct{ file *os.File }

func openPort(path string) (*port, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open link: %w", err)
	}
	return &port{file: f}, nil
}

const (
	firstWait = time.Millisecond // between two looks whether somebody is at the other end
	maxWait   = 50 * time.Millisecond
)

// Next returns the port for another session once somebody is at its other
// end. The connection before is closed by then.
func (p *port) Next(ctx context.Context) (io.ReadWriteCloser, error) {
	for wait := firstWait; ; wait = min(2*wait, maxWait) {
		connected, err := p.connected()
		if err != nil {
			return nil, fmt.Errorf("look at link: %w", err)
		}
		if connected {
			break
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if err := p.file.SetDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("reuse link: %w", err)
	}
	return &portConn{port: p}, nil
}

// connected reports whether the other end is open: the driver says that a
// port hangs up while it is not.
func (p *port) connected() (bool, error) {
	raw, err := p.file.SyscallConn()
	if err != nil {
		return false, err
	}
	poll := []unix.PollFd{{Events: unix.POLLOUT}}
	var failed error
	err = raw.Control(func(fd uintptr) {
		poll[0].Fd = int32(fd)
		_, failed = unix.Poll(poll, 0)
	})
	if failed == unix.EINTR {
		return false, nil
	}
	if err == nil {
		err = failed
	}
	return poll[0].Revents&unix.POLLHUP == 0, err
}

// portConn is the port for one session.
type portConn struct {
	port   *port
	closed atomic.Bool
}

// Read ends with io.EOF when the other end is closed.
func (c *portConn) Read(p []byte) (int, error) {
	if c.closed.Load() {
		return 0, os.ErrClosed
	}
	return c.port.file.Read(p)
}

func (c *portConn) Write(p []byte) (int, error) {
	if c.closed.Load() {
		return 0, os.ErrClosed
	}
	return c.port.file.Write(p)
}

// Close ends reads and writes that wait.
func (c *portConn) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	return c.port.file.SetDeadline(time.Unix(1, 0))
}
