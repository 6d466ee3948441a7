package shim

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/agent/rpc/rpctest"
	"github.com/atollhq/atoll/internal/gateway/secret"
	"github.com/atollhq/atoll/internal/link"
	"github.com/atollhq/atoll/internal/machine"
	"github.com/atollhq/atoll/internal/shim/wire"
)

var errTest = errors.New("by the test: /secret/path")

// do sends a request that must succeed.
func (r *running) do(req wire.Request) wire.Reply {
	r.t.Helper()
	reply, conn := r.ask(req)
	_ = conn.Close()
	if reply.Error != "" {
		r.t.Fatalf("%s: %+v", req.Op, reply)
	}
	return reply
}

// refused sends a request that must fail.
func (r *running) refused(req wire.Request, code wire.Code) wire.Reply {
	r.t.Helper()
	reply, conn := r.ask(req)
	_ = conn.Close()
	if reply.Error == "" || reply.Code != code {
		r.t.Fatalf("%s: %+v, want code %q", req.Op, reply, code)
	}
	return reply
}

func (r *running) wantPower(want wire.Power) {
	r.t.Helper()
	if got := r.do(wire.Request{Op: wire.OpStatus}).Status.Power; got != want {
		r.t.Errorf("the sandbox is %s, want %s", got, want)
	}
	raw, err := os.ReadFile(r.shim.layout.State())
	var st wire.Status
	if err != nil || json.Unmarshal(raw, &st) != nil || st.Power != want {
		r.t.Errorf("the state file says %s (%v)", raw, err)
	}
}

// client opens a stream for JSON-RPC.
func (r *running) client() *rpctest.Client {
	r.t.Helper()
	reply, conn := r.ask(openRequest())
	if reply.Error != "" {
		r.t.Fatal(reply.Error)
	}
	return rpctest.On(r.t, conn)
}

func openRequest() wire.Request {
	return wire.Request{Op: wire.OpOpen, Kind: link.KindRPC, Header: json.RawMessage(`{"maxMessage":1048576}`)}
}

// watch returns what the watcher will hear of the end.
func (r *running) watch() func() wire.Exit {
	r.t.Helper()
	conn, err := net.Dial("unix", r.shim.layout.Socket())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	in := bufio.NewReader(conn)
	var reply wire.Reply
	if err := errors.Join(wire.Write(conn, wire.Request{Op: wire.OpWatch}), wire.Read(in, &reply)); err != nil {
		r.t.Fatal(err)
	}
	return func() wire.Exit {
		r.t.Helper()
		var last wire.Reply
		if err := wire.Read(in, &last); err != nil || last.Exit == nil {
			r.t.Fatalf("the watcher hears %+v, %v", last, err)
		}
		return *last.Exit
	}
}

// wantFreed: of machines and snapshots nothing is left.
func (r *running) wantFreed() {
	r.t.Helper()
	<-r.shim.finished
	r.wantNone("machine", "saved/*", "forks/*")
}

func (r *running) wantNone(patterns ...string) {
	r.t.Helper()
	for _, pattern := range patterns {
		if left, _ := filepath.Glob(filepath.Join(r.shim.layout.Dir, pattern)); len(left) > 0 {
			r.t.Errorf("left: %v", left)
		}
	}
}

func TestPauseInMemory(t *testing.T) {
	r := run(t, func(s *wire.Spec) { s.Personal = personal() })
	client := r.client()
	for range 2 {
		if reply := r.do(wire.Request{Op: wire.OpPause}); reply.Pause == nil || reply.Pause.Bytes != 0 {
			t.Errorf("got %+v", reply)
		}
		r.wantPower(wire.PowerPaused)
	}
	r.refused(openRequest(), wire.CodePaused)
	for range 2 {
		r.do(wire.Request{Op: wire.OpResume})
		r.wantPower(wire.PowerRunning)
	}
	if err := client.Call("envToObject", struct{}{}, nil); err != nil {
		t.Errorf("a stream did not outlive the pause: %v", err)
	}
	r.check()
	if diff := cmp.Diff([]string{"secrets", "policy", "attach"}, r.gateway.known()); diff != "" {
		t.Error(diff)
	}
}

// TestSuspend: the guest goes on in another machine, with nothing of its
// clients, and the shim has what the guest must not know.
func TestSuspend(t *testing.T) {
	r := run(t, func(s *wire.Spec) { s.Personal = personal() })
	if err := r.client().Call("envSet", map[string]string{"key": "STATE", "value": "kept"}, nil); err != nil {
		t.Fatal(err)
	}
	for life := 1; life <= 3; life++ {
		_, stream := r.ask(openRequest())
		if got := r.do(wire.Request{Op: wire.OpStatus}).Status.CopyBytes; got != perCopy {
			t.Errorf("a copy has %d bytes", got)
		}
		took := r.do(wire.Request{Op: wire.OpPause, ToDisk: true}).Pause
		if took == nil {
			t.Fatal("the answer says nothing")
		}
		if got := r.do(wire.Request{Op: wire.OpStatus}).Status.CopyBytes; got != took.Bytes {
			t.Errorf("%d bytes were written, %d are said to come back", took.Bytes, got)
		}
		if rest, err := io.ReadAll(stream); err != nil || len(rest) > 0 {
			t.Errorf("a stream outlives the machine: %q, %v", rest, err)
		}
		r.wantPower(wire.PowerSuspended)
		r.wantNone("machine")
		r.refused(openRequest(), wire.CodePaused)
		for _, toDisk := range []bool{false, true} {
			r.do(wire.Request{Op: wire.OpPause, ToDisk: toDisk}) // it stands still already
		}
		r.wantPower(wire.PowerSuspended)
		if used := r.do(wire.Request{Op: wire.OpStatus}).Status.CPUTime; used != time.Duration(life)*perLife {
			t.Errorf("after %d lives it has used %s", life, used)
		}
		if info, err := os.Stat(r.shim.layout.Saved(life)); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("saved to %v, %v", info, err)
		}
		r.do(wire.Request{Op: wire.OpResume})
		r.wantPower(wire.PowerRunning)
		r.wantNone("saved/*")
		if env := r.environment(); env["STATE"] != "kept" || env["ATOLL_SANDBOX_ID"] != "sbx" {
			t.Errorf("the environment is %v", env)
		}
	}
	r.check()
	if diff := cmp.Diff([]string{"secrets", "policy", "attach", "detach", "attach", "detach", "attach", "detach", "attach"}, r.gateway.known()); diff != "" {
		t.Error(diff)
	}
}

func TestPausedIsSuspended(t *testing.T) {
	r := run(t, nil)
	r.do(wire.Request{Op: wire.OpPause})
	r.do(wire.Request{Op: wire.OpPause, ToDisk: true})
	r.wantPower(wire.PowerSuspended)
	r.do(wire.Request{Op: wire.OpResume})
	r.environment()
}

// TestFailedSave: the sandbox is as it was, and the caller is told nothing of
// the host.
func TestFailedSave(t *testing.T) {
	r := run(t, nil)
	r.driver.saveFails = errTest
	client := r.client()
	for _, req := range []wire.Request{{Op: wire.OpPause, ToDisk: true}, {Op: wire.OpFork}} {
		reply := r.refused(req, wire.CodeSaveFailed)
		if strings.Contains(reply.Error, "/") || !strings.Contains(reply.Cause, errTest.Error()) {
			t.Errorf("got %+v", reply)
		}
		r.wantPower(wire.PowerRunning)
		r.wantNone("saved/*", "forks/*")
	}
	if err := client.Call("envToObject", struct{}{}, nil); err != nil {
		t.Error(err)
	}
	r.do(wire.Request{Op: wire.OpPause})
	r.refused(wire.Request{Op: wire.OpPause, ToDisk: true}, wire.CodeSaveFailed)
	r.wantPower(wire.PowerPaused)
	r.driver.saveFails = nil
	r.do(wire.Request{Op: wire.OpPause, ToDisk: true})
	r.do(wire.Request{Op: wire.OpResume})
	r.environment()
}

func TestFailedPause(t *testing.T) {
	r := run(t, nil)
	r.driver.pauseFails = errTest
	r.refused(wire.Request{Op: wire.OpPause}, "")
	r.wantPower(wire.PowerRunning)
	r.environment()
}

func TestFailedRestoreEndsTheSandbox(t *testing.T) {
	r := run(t, nil)
	r.do(wire.Request{Op: wire.OpPause, ToDisk: true})
	r.driver.restores = errTest
	exit := r.watch()
	r.refused(wire.Request{Op: wire.OpResume}, "")
	if got := exit(); got.Reason != api.StopCrashed || !strings.Contains(got.Detail, "could not be restored") || !strings.Contains(got.Detail, errTest.Error()) {
		t.Errorf("it ended as %+v", got)
	}
	r.wantFreed()
}

func TestDriverWithoutThePower(t *testing.T) {
	r := run(t, func(*wire.Spec) {})
	r.driver.weak = true
	for _, c := range []struct {
		req  wire.Request
		code wire.Code
	}{
		{wire.Request{Op: wire.OpPause}, wire.CodeCannotPause},
		{wire.Request{Op: wire.OpPause, ToDisk: true}, wire.CodeCannotPause},
		{wire.Request{Op: wire.OpFork}, wire.CodeCannotFork},
	} {
		if reply := r.refused(c.req, c.code); !strings.Contains(reply.Error, `"fake"`) {
			t.Errorf("got %q", reply.Error)
		}
	}
	r.do(wire.Request{Op: wire.OpResume})
	r.wantPower(wire.PowerRunning)
	r.wantNone("saved/*", "forks/*")
}

// TestEndsWhileItStandsStill: for each way to stand still and each way to
// end, with the right reason and nothing left.
func TestEndsWhileItStandsStill(t *testing.T) {
	stills := map[string]func(*running){
		"paused":    func(r *running) { r.do(wire.Request{Op: wire.OpPause}) },
		"suspended": func(r *running) { r.do(wire.Request{Op: wire.OpPause, ToDisk: true}) },
		"restored": func(r *running) {
			r.do(wire.Request{Op: wire.OpPause, ToDisk: true})
			r.do(wire.Request{Op: wire.OpResume})
		},
		"being saved": func(r *running) {
			r.driver.saving = make(chan struct{})
			go func() { _, _ = r.shim.pause(t.Context(), true) }()
			<-r.driver.saving
		},
		"being forked": func(r *running) {
			r.driver.saving = make(chan struct{})
			go func() { _, _, _ = r.shim.fork(t.Context()) }()
			<-r.driver.saving
		},
	}
	ends := map[string]struct {
		end    func(*running)
		reason string
	}{
		"stop":     {func(r *running) { r.do(wire.Request{Op: wire.OpStop, Reason: api.StopKilled}) }, api.StopKilled},
		"shutdown": {func(r *running) { r.cancel() }, api.StopShutdown},
		"crash":    {func(r *running) { r.driver.Crash("sbx", machine.Exit{Reason: machine.ExitOOM}) }, api.StopOOM},
	}
	for how, still := range stills {
		for why, end := range ends {
			if how == "suspended" && why == "crash" {
				continue // there is nothing that could
			}
			t.Run(how+" "+why, func(t *testing.T) {
				r := run(t, nil)
				still(r)
				exit := r.watch()
				end.end(r)
				if got := exit(); got.Reason != end.reason {
					t.Errorf("it ended as %+v, want %s", got, end.reason)
				}
				r.wantFreed()
				if _, err := r.shim.pause(t.Context(), true); err == nil {
					t.Error("an ended sandbox was paused")
				}
				if err := r.shim.resume(t.Context()); err == nil {
					t.Error("an ended sandbox was resumed")
				}
			})
		}
	}
}

func TestSpareStandsNeverStill(t *testing.T) {
	r := run(t, func(s *wire.Spec) { s.Spare = true })
	r.refused(wire.Request{Op: wire.OpPause}, "")
	r.refused(wire.Request{Op: wire.OpPause, ToDisk: true}, "")
	r.refused(wire.Request{Op: wire.OpFork}, "")
}

// fork asks for a fork, which is open until the connection is closed.
func (r *running) fork() (wire.Fork, net.Conn) {
	r.t.Helper()
	reply, conn := r.ask(wire.Request{Op: wire.OpFork})
	if reply.Fork == nil {
		r.t.Fatalf("got %+v", reply)
	}
	return *reply.Fork, conn
}

// awaitNone waits until nothing matches a pattern any more.
func (r *running) awaitNone(pattern string) {
	r.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		left, _ := filepath.Glob(filepath.Join(r.shim.layout.Dir, pattern))
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("left: %v", left)
		}
	}
}

// TestForkHoldsWhatIsTheParents: as the client gave it, but for the list,
// which is the one of now; and it is gone with its connection.
func TestForkHoldsWhatIsTheParents(t *testing.T) {
	r := run(t, func(s *wire.Spec) { s.Personal = personal() })
	r.policy(&wire.SetPolicy{AllowNet: &[]string{"api.example.com"}})
	f, conn := r.fork()
	want := personal()
	want.AllowNet = &[]string{"api.example.com"}
	if diff := cmp.Diff(want, f.Personal); diff != "" {
		t.Error(diff)
	}
	if f.Origin.SandboxID != "sbx" || f.Origin.Generation != 1 || f.Origin.Snapshot.Dir != r.shim.layout.Fork(1) {
		t.Errorf("the origin is %+v", f.Origin)
	}
	r.wantNoValue()
	if _, err := os.Stat(f.Origin.Snapshot.Dir); err != nil {
		t.Error(err)
	}
	_ = conn.Close()
	r.awaitNone("forks/*")
}

// TestForksHaveRoom: what a fork is copied to is this process's, for as long as
// a child lives.
func TestForksHaveRoom(t *testing.T) {
	r := prepared(t, nil)
	asked, none := 0, errors.New("no room")
	r.shim.parts.Room = func() error {
		if asked++; asked == 2 {
			return none
		}
		return nil
	}
	r.start()
	r.fork()
	if reply, _ := r.ask(wire.Request{Op: wire.OpFork}); reply.Fork != nil || !strings.Contains(reply.Error, none.Error()) {
		t.Errorf("got %+v", reply)
	}
	r.fork()
	if asked != 3 {
		t.Errorf("asked %d times for room", asked)
	}
}

func TestForksAreBounded(t *testing.T) {
	r := run(t, nil)
	var open []io.Closer
	for range maxForks {
		_, conn := r.fork()
		open = append(open, conn)
	}
	r.refused(wire.Request{Op: wire.OpFork}, wire.CodeTooManyForks)
	_ = open[0].Close()
	r.awaitNone("forks/1")
	r.fork()
	r.do(wire.Request{Op: wire.OpStop, Reason: api.StopKilled})
	r.awaitNone("forks/*") // the shim ends, and with it what it held
}

// TestForkOfWhatStandsStill: a paused machine stays paused; what a suspended
// one is kept in is not for others.
func TestForkOfWhatStandsStill(t *testing.T) {
	r := run(t, nil)
	r.do(wire.Request{Op: wire.OpPause})
	_, conn := r.fork()
	_ = conn.Close()
	r.awaitNone("forks/*")
	r.wantPower(wire.PowerPaused)
	r.do(wire.Request{Op: wire.OpPause, ToDisk: true})
	r.refused(wire.Request{Op: wire.OpFork}, wire.CodePaused)
	r.wantPower(wire.PowerSuspended)
	r.do(wire.Request{Op: wire.OpResume})
	if f, _ := r.fork(); f.Origin.Generation != 2 {
		t.Errorf("after a restoration, the origin is %+v", f.Origin)
	}
}

// TestChild: it has the parent's state, and nothing by which the parent could
// be known to the gateway.
func TestChild(t *testing.T) {
	parent := run(t, func(s *wire.Spec) { s.Personal = personal() })
	f, _ := parent.fork()
	child := run(t, func(s *wire.Spec) {
		s.ID, s.Hostname, s.Origin, s.Personal = "sbx_child", "child", &f.Origin, f.Personal
	})
	env, was := child.environment(), parent.environment()
	if env["GREETING"] != "hello" || env["API_KEY"] == was["API_KEY"] {
		t.Errorf("the environment is %v, the parent's was %v", env, was)
	}
	child.check()
	parent.check()
	if text, err := os.ReadFile(filepath.Join(child.root, "run/atoll/identity.json")); err != nil || strings.TrimSpace(string(text)) != `{"sandboxId":"sbx_child","forkedFrom":"sbx","generation":2}` {
		t.Errorf("the guest is %s, %v", text, err)
	}
	if !strings.HasPrefix(env["API_KEY"], secret.Placeholder) {
		t.Errorf("the placeholder is %q", env["API_KEY"])
	}
	if diff := cmp.Diff([]string{"secrets", "policy", "names", "attach"}, child.gateway.known()); diff != "" {
		t.Errorf("the network was not in place before the machine: %s", diff)
	}
	if diff := cmp.Diff(parent.gateway.Names(), child.gateway.names); diff != "" {
		t.Error(diff)
	}
	child.do(wire.Request{Op: wire.OpPause, ToDisk: true})
	child.do(wire.Request{Op: wire.OpResume})
	child.check()
}

func TestChildThatCannotStart(t *testing.T) {
	r := prepared(t, func(s *wire.Spec) {
		s.Origin = &wire.Origin{Snapshot: machine.Snapshot{Driver: "fake", Dir: filepath.Join(s.Dir, "none")}, Generation: 1}
	})
	if err := r.shim.Run(t.Context(), discard{}); err == nil {
		t.Error("it started")
	}
	r.wantNone("machine")
}

type discard struct{ io.Writer }

func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) Close() error                { return nil }

// What is asked for while something else is under way is not done for one who
// has gone since: the next to ask may count on the power that there is.
func TestNothingIsDoneForOneWhoHasLeft(t *testing.T) {
	r := run(t, nil)
	busy, free := make(chan struct{}), make(chan struct{})
	go func() {
		_ = r.shim.operate(t.Context(), time.Minute, func(context.Context) error {
			close(busy)
			<-free
			return nil
		})
	}()
	<-busy
	for name, ask := range map[string]func(context.Context) error{
		"pause":  func(ctx context.Context) error { _, err := r.shim.pause(ctx, true); return err },
		"resume": r.shim.resume,
		"fork":   func(ctx context.Context) error { _, _, err := r.shim.fork(ctx); return err },
	} {
		ctx, leave := context.WithCancel(t.Context())
		result := make(chan error, 1)
		go func() { result <- ask(ctx) }()
		leave()
		if err := <-result; !errors.Is(err, errLeft) {
			t.Errorf("%s: %v", name, err)
		}
	}
	close(free)
	r.wantPower(wire.PowerRunning)
}

func TestAskerLeaves(t *testing.T) {
	ours, theirs := net.Pipe()
	defer func() { _ = ours.Close() }()
	ctx := asker(ours)
	if ctx.Err() != nil {
		t.Error("it has left at once")
	}
	_ = theirs.Close()
	<-ctx.Done()
}
