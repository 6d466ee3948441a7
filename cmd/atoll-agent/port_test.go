package main

import (
	"context"
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// socketPort is a port on one end of a pair of sockets, which hangs up like
// the device when the other end is closed.
func socketPort(t *testing.T) (p *port, other int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fds[0]), "port")
	t.Cleanup(func() { _ = f.Close() })
	return &port{file: f}, fds[1]
}

func TestPortServesOneSessionAfterTheOther(t *testing.T) {
	p, other := socketPort(t)
	defer func() { _ = unix.Close(other) }()
	first := &portConn{port: p}
	reading := make(chan error, 1)
	go func() {
		_, err := first.Read(make([]byte, 1))
		reading <- err
	}()
	_ = first.Close()
	if err := <-reading; err == nil {
		t.Error("a read outlives its session")
	}
	if _, err := unix.Write(other, []byte("x")); err != nil {
		t.Fatal(err)
	}
	next, err := p.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.Read(make([]byte, 1)); !errors.Is(err, os.ErrClosed) {
		t.Errorf("the session before reads: %v", err)
	}
	if _, err := first.Write([]byte("x")); !errors.Is(err, os.ErrClosed) {
		t.Errorf("the session before writes: %v", err)
	}
	got := make([]byte, 1)
	if _, err := io.ReadFull(next, got); err != nil || got[0] != 'x' {
		t.Errorf("got %q, %v", got, err)
	}
	_ = first.Close() // again, which must not close the next
	if _, err := next.Write([]byte("y")); err != nil {
		t.Error(err)
	}
}

func TestPortWaitsForSomebody(t *testing.T) {
	p, other := socketPort(t)
	_ = unix.Close(other)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	if _, err := p.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}
