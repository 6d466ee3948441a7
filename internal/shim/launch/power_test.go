package launch

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/atollhq/atoll/internal/errs"
	"github.com/atollhq/atoll/internal/layout"
	"github.com/atollhq/atoll/internal/machine"
	"github.com/atollhq/atoll/internal/sandbox"
	"github.com/atollhq/atoll/internal/shim/wire"
)

// answering is a shim that answers one request, and then waits until the
// connection is closed.
func answering(t *testing.T, reply wire.Reply) (s *Shim, asked <-chan wire.Request, left <-chan struct{}) {
	t.Helper()
	dir, err := os.MkdirTemp("", "launch-") // t.TempDir's path may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := layout.Sandbox{Dir: dir}.Socket()
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	requests, gone := make(chan wire.Request, 1), make(chan struct{})
	go func() {
		defer close(gone)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		in := bufio.NewReader(conn)
		var r wire.Request
		if wire.Read(in, &r) == nil && wire.Write(conn, reply) == nil {
			requests <- r
			_, _ = io.Copy(io.Discard, in)
		}
	}()
	return &Shim{socket: socket}, requests, gone
}

func TestRefusalsHaveTheirClass(t *testing.T) {
	for code, class := range map[wire.Code]errs.Class{
		wire.CodePaused: errs.Precondition, wire.CodeCannotPause: errs.Unsupported, wire.CodeCannotFork: errs.Unsupported,
		wire.CodeSaveFailed: errs.Unavailable, wire.CodeTooManyForks: errs.Exhausted,
	} {
		s, _, _ := answering(t, wire.Reply{Error: "for the caller", Code: code, Cause: "for the log"})
		_, err := s.Pause(t.Context(), true)
		public := errs.Public(err)
		if !errors.Is(err, class) || public.Code != string(code) || public.Message != "for the caller" || !strings.Contains(err.Error(), "for the log") {
			t.Errorf("%s: %v, to the caller %+v", code, err, public)
		}
	}
	for _, code := range []wire.Code{"", "OF_A_NEWER_SHIM"} {
		s, _, _ := answering(t, wire.Reply{Error: "inside", Code: code})
		if err := s.Resume(t.Context()); err == nil || errs.Public(err).Class != errs.Internal {
			t.Errorf("%q: %v", code, err)
		}
	}
}

// TestCodesAreTheDomains: the daemon knows them by its own names.
func TestCodesAreTheDomains(t *testing.T) {
	for code, name := range map[wire.Code]string{
		wire.CodePaused: sandbox.CodePaused, wire.CodeCannotPause: sandbox.CodeCannotPause, wire.CodeCannotFork: sandbox.CodeCannotFork,
		wire.CodeSaveFailed: sandbox.CodeSaveFailed, wire.CodeTooManyForks: sandbox.CodeTooManyForks,
	} {
		if string(code) != name {
			t.Errorf("%s is %s", code, name)
		}
	}
	for power, name := range map[wire.Power]sandbox.Power{
		wire.PowerRunning: sandbox.PowerRunning, wire.PowerPaused: sandbox.PowerPaused, wire.PowerSuspended: sandbox.PowerSuspended,
	} {
		if string(power) != string(name) {
			t.Errorf("%s is %s", power, name)
		}
	}
}

func TestPowerRequests(t *testing.T) {
	s, asked, _ := answering(t, wire.Reply{Pause: &wire.Paused{Bytes: 7, StoodStill: time.Second}})
	took, err := s.Pause(t.Context(), true)
	if r := <-asked; err != nil || took != (sandbox.Paused{Bytes: 7, StoodStill: time.Second}) || r.Op != wire.OpPause || !r.ToDisk {
		t.Errorf("%+v, %v, asked %+v", took, err, r)
	}
	s, asked, _ = answering(t, wire.Reply{Status: &wire.Status{Power: wire.PowerSuspended, CPUTime: time.Minute, CopyBytes: 7}})
	status, err := s.Status(t.Context())
	if r := <-asked; err != nil || status != (sandbox.ShimStatus{Power: sandbox.PowerSuspended, CPUTime: time.Minute, CopyBytes: 7}) || r.Op != wire.OpStatus {
		t.Errorf("%+v, %v, asked %+v", status, err, r)
	}
	s, asked, _ = answering(t, wire.Reply{})
	if err := s.Resume(t.Context()); err != nil {
		t.Error(err)
	}
	if r := <-asked; r.Op != wire.OpResume {
		t.Errorf("asked %+v", r)
	}
}

func TestForkIsALease(t *testing.T) {
	own := wire.Personal{
		Env: map[string]string{"A": "b"}, AllowNet: &[]string{"example.com"}, Ceiling: []string{"example.com"},
		Secrets: wire.Secrets{"K": {Hosts: []string{"example.com"}, Value: "hunter2"}},
	}
	origin := wire.Origin{SandboxID: "sbx", Snapshot: machine.Snapshot{Driver: "fake", Dir: "/forks/1", Memory: "/proc/1/fd/3"}, Generation: 4}
	s, _, left := answering(t, wire.Reply{Fork: &wire.Fork{Origin: origin, Personal: own}})
	ctx, cancel := context.WithCancel(t.Context())
	f, err := s.Fork(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cancel() // has no influence any more
	if diff := cmp.Diff(origin, wire.Origin(f.Origin)); diff != "" {
		t.Error(diff)
	}
	first, second := f.Personal(), f.Personal()
	first.Secrets.Drop() // as a launch does
	first.Env["A"] = "c"
	if diff := cmp.Diff(own, personal(second)); diff != "" {
		t.Errorf("the second child's: %s", diff)
	}
	select {
	case <-left:
		t.Error("the lease has ended by itself")
	default:
	}
	if err := errors.Join(f.Close(), f.Close()); err != nil {
		t.Error(err)
	}
	<-left
	if f.Personal().Secrets.Specs() != nil {
		t.Error("a closed fork still has the secrets")
	}
}

func TestChildsSpecification(t *testing.T) {
	l := &Launcher{}
	origin := sandbox.Origin{SandboxID: "sbx", Generation: 2}
	if got := l.wireSpec(sandbox.ShimSpec{ID: "child", Origin: &origin}).Origin; got == nil || got.SandboxID != "sbx" || got.Generation != 2 {
		t.Errorf("got %+v", got)
	}
	if got := l.wireSpec(sandbox.ShimSpec{ID: "sbx"}).Origin; got != nil {
		t.Errorf("got %+v", got)
	}
}
