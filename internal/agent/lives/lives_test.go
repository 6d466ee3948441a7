package lives

import (
	"errors"
	"io"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// pair returns the two ends of a socket.
func pair(t *testing.T) (here, there *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	here, there = os.NewFile(uintptr(fds[0]), "here"), os.NewFile(uintptr(fds[1]), "there")
	t.Cleanup(func() { _, _ = here.Close(), there.Close() })
	return here, there
}

func next(t *testing.T, l *Link) io.ReadWriteCloser {
	t.Helper()
	conn, err := l.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func send(t *testing.T, f io.Writer, text string) {
	t.Helper()
	if _, err := io.WriteString(f, text); err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != want {
		t.Fatalf("received %q (%v); want %q", got, err, want)
	}
}

// A blocked read of the earlier life ends, and gets nothing of the next one.
func TestRestoredLinkBeginsANewLife(t *testing.T) {
	agent, host := pair(t)
	bell, rope := pair(t)
	l := New(agent, bell)
	first := next(t, l)
	send(t, host, "one")
	receive(t, first, "one")
	ended := make(chan error, 1)
	go func() {
		_, err := first.Read(make([]byte, 1))
		ended <- err
	}()
	send(t, rope, "!")
	receive(t, rope, "!")
	send(t, host, "two")
	if err := <-ended; !errors.Is(err, io.EOF) {
		t.Errorf("the blocked read: %v; want EOF", err)
	}
	if n, err := first.Write([]byte("late")); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("a write of the earlier life: %d, %v", n, err)
	}
	second := next(t, l)
	receive(t, second, "two")
	send(t, second, "answer")
	receive(t, host, "answer")
}

// A write that nobody reads ends, too.
func TestRestorationInterruptsAFullLink(t *testing.T) {
	agent, _ := pair(t)
	bell, rope := pair(t)
	first := next(t, New(agent, bell))
	ended := make(chan error, 1)
	go func() {
		_, err := first.Write(make([]byte, 16<<20))
		ended <- err
	}()
	send(t, rope, "!")
	receive(t, rope, "!")
	if err := <-ended; !errors.Is(err, io.EOF) {
		t.Errorf("the blocked write: %v; want EOF", err)
	}
}

// A session can end and another begin on the same stream.
func TestClosedLifeLeavesTheLink(t *testing.T) {
	agent, host := pair(t)
	bell, _ := pair(t)
	l := New(agent, bell)
	if err := next(t, l).Close(); err != nil {
		t.Fatal(err)
	}
	send(t, host, "still there")
	receive(t, next(t, l), "still there")
}

func TestClosedLinkHasNoNextLife(t *testing.T) {
	agent, host := pair(t)
	bell, _ := pair(t)
	l := New(agent, bell)
	first := next(t, l)
	_ = host.Close()
	if _, err := first.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("read: %v; want EOF", err)
	}
	if _, err := l.Next(t.Context()); !errors.Is(err, io.EOF) {
		t.Errorf("next: %v; want EOF", err)
	}
}

// The byte for the end is not answered: no session follows, whatever is said
// on the link, and whatever is said on the bell.
func TestBellEndsTheMachine(t *testing.T) {
	agent, host := pair(t)
	bell, rope := pair(t)
	l := New(agent, bell)
	first := next(t, l)
	ended := make(chan error, 1)
	go func() {
		_, err := first.Read(make([]byte, 1))
		ended <- err
	}()
	send(t, rope, string([]byte{endOfMachine, 1}))
	if err := <-ended; !errors.Is(err, io.EOF) {
		t.Errorf("the blocked read: %v; want EOF", err)
	}
	send(t, host, "hello?")
	if _, err := l.Next(t.Context()); !errors.Is(err, io.EOF) {
		t.Errorf("next: %v; want EOF", err)
	}
	_ = bell.Close()
	if rest, err := io.ReadAll(rope); len(rest) != 0 || err != nil && !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the bell said %q (%v)", rest, err)
	}
}

// The end may be asked for before there is a session.
func TestBellEndsAMachineThatHasNotBegun(t *testing.T) {
	agent, _ := pair(t)
	bell, rope := pair(t)
	l := New(agent, bell)
	send(t, rope, string([]byte{endOfMachine}))
	for !l.gone.Load() {
		runtime.Gosched()
	}
	if _, err := l.Next(t.Context()); !errors.Is(err, io.EOF) {
		t.Errorf("next: %v; want EOF", err)
	}
}
