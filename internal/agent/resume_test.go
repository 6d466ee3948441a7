package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
	"github.com/atollhq/atoll/internal/link"
)

// machineIDs of a parent and a child.
const (
	machineID1 = "0123456789abcdef0123456789abcdef"
	machineID2 = "fedcba9876543210fedcba9876543210"
)

// lives are the far ends of the sessions of a machine that is restored again
// and again.
type lives chan io.ReadWriteCloser

func (l lives) next(ctx context.Context) (io.ReadWriteCloser, error) {
	select {
	case conn, ok := <-l:
		if !ok {
			return nil, io.EOF
		}
		return conn, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// restore begins another life of the machine, whose agent answers.
func (s *shim) restore(l lives, generation uint32) {
	s.t.Helper()
	near, far := net.Pipe()
	l <- far
	if err := link.Probe(s.t.Context(), near); err != nil {
		s.t.Fatal(err)
	}
	s.open(near, generation)
}

func (s *shim) resume(r link.Resume) link.Ready {
	s.t.Helper()
	return s.tell(func(w io.Writer) error { return link.SendResume(w, r) })
}

func (s *shim) wantReady(ready link.Ready) {
	s.t.Helper()
	if ready != (link.Ready{Version: "1"}) {
		s.t.Fatalf("the agent answers %+v", ready)
	}
}

// wantEnd wants Run to return by itself.
func (s *shim) wantEnd() {
	s.t.Helper()
	select {
	case err := <-s.done:
		s.done <- err
	case <-time.After(rpctest.Patience):
		s.t.Error("Run does not return")
	}
}

func (s *shim) file(name string) string {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.root, name))
	if err != nil {
		s.t.Error(err)
	}
	return string(text)
}

func (s *shim) self() (who self) {
	s.t.Helper()
	if err := json.Unmarshal([]byte(s.file(identityFile)), &who); err != nil {
		s.t.Error(err)
	}
	return who
}

func (s *shim) env() (env map[string]string) {
	s.t.Helper()
	if err := rpctest.On(s.t, s.dial(link.KindRPC, link.RPCHeader{})).Call("envToObject", struct{}{}, &env); err != nil {
		s.t.Fatal(err)
	}
	return env
}

func (s *shim) write(name, text string, mode os.FileMode) {
	s.t.Helper()
	path := filepath.Join(s.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		s.t.Fatal(err)
	}
}

func parentConfig(s *shim) link.Config {
	cfg := testConfig(s.home())
	cfg.SandboxID, cfg.MachineID, cfg.Entropy = "sbx_parent", machineID1, []byte{1, 2}
	cfg.Env = map[string]string{"KEY": "placeholder-1", "CHANGED": "given", "KEPT": "given", "DROPPED": "given"}
	cfg.ExtraRoots = certificate
	return cfg
}

func TestFirstStartIntroduces(t *testing.T) {
	s := start(t)
	s.write(kernelBootID, "of the kernel\n", 0o444)
	s.wantReady(s.configure(parentConfig(s)))
	if diff := cmp.Diff(self{SandboxID: "sbx_parent", Generation: 1}, s.self()); diff != "" {
		t.Error(diff)
	}
	if got := s.file("etc/machine-id"); got != machineID1+"\n" {
		t.Errorf("machine id %q", got)
	}
	if id := strings.TrimSpace(s.file(bootIDFile)); len(id) != 36 || id[14] != '4' {
		t.Errorf("boot id %q", id)
	}
	if got, want := s.host.told(), "entropy 0102, "; !strings.HasPrefix(got, want) || !strings.HasSuffix(got, "unmount boot_id, bind boot_id boot_id") {
		t.Errorf("the kernel was told %s", got)
	}
	if env := s.env(); env[sandboxIDVariable] != "sbx_parent" {
		t.Errorf("the environment is %v", env)
	}
}

// TestPause: in a session that goes on, only what stood still is set right.
func TestPause(t *testing.T) {
	s := start(t)
	if ready := s.resume(link.Resume{Generation: 1}); ready.Error == "" {
		t.Error("a machine without configuration was resumed")
	}
	s.wantReady(s.configure(parentConfig(s)))
	before := s.host.told()
	late := time.Now().Add(time.Hour)
	s.wantReady(s.resume(link.Resume{Generation: 1, TimeUnixNs: late.UnixNano(), Entropy: []byte{3}}))
	if got, want := strings.TrimPrefix(s.host.told(), before), fmt.Sprintf(", entropy 03, time %d", late.Unix()); got != want {
		t.Errorf("the kernel was told %q, want %q", got, want)
	}
	if ready := s.resume(link.Resume{Generation: 2}); ready.Error == "" {
		t.Error("a session changed its generation")
	}
}

func TestProcessesOutliveASession(t *testing.T) {
	l := make(lives, 1)
	s := startWith(t, Options{Next: l.next})
	s.wantReady(s.configure(parentConfig(s)))
	first := rpctest.On(t, s.dial(link.KindRPC, link.RPCHeader{}))
	var r api.SpawnResult
	if err := first.Call("spawn", map[string]any{"command": "sleep", "args": []string{"600"}, "stdout": "null", "stderr": "null"}, &r); err != nil {
		t.Fatal(err)
	}
	waiting := first.Go("processWait", map[string]int{"pid": r.PID})
	_ = s.session.Close()
	if err := waiting(nil); err == nil {
		t.Error("a call outlives its session")
	}
	s.restore(l, 2)
	early := rpctest.On(t, s.dial(link.KindRPC, link.RPCHeader{}))
	wait := early.Go("processKill", map[string]any{"pid": r.PID, "signal": "SIGTERM"})
	for _, wrong := range []uint32{0, 1} {
		if ready := s.resume(link.Resume{Generation: wrong}); ready.Error == "" {
			t.Errorf("generation %d follows 1", wrong)
		}
	}
	s.wantReady(s.resume(link.Resume{Generation: 2, CutNetwork: true}))
	if err := wait(nil); err != nil {
		t.Errorf("the process is gone: %v", err)
	}
	if !strings.HasSuffix(s.host.told(), "cut") {
		t.Errorf("the kernel was told %s", s.host.told())
	}
	if diff := cmp.Diff(self{SandboxID: "sbx_parent", Generation: 2}, s.self()); diff != "" {
		t.Error(diff)
	}
	if ready := s.configure(parentConfig(s)); ready.Error == "" {
		t.Error("a restored machine was configured again")
	}
}

func TestStreamsOfAnEarlierLifeAreRefused(t *testing.T) {
	l := make(lives, 1)
	s := startWith(t, Options{Next: l.next})
	s.wantReady(s.configure(parentConfig(s)))
	_ = s.session.Close()
	s.restore(l, 1)
	s.wantReady(s.resume(link.Resume{Generation: 2}))
	conn := s.dial(link.KindRPC, link.RPCHeader{}) // of generation 1
	_ = conn.SetReadDeadline(time.Now().Add(rpctest.Patience))
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("got %v", err)
	}
}

// TestNoFurtherSession: the agent of a machine that could have been restored
// ends like any other.
func TestNoFurtherSession(t *testing.T) {
	l := make(lives)
	s := startWith(t, Options{Next: l.next})
	s.wantReady(s.configure(parentConfig(s)))
	close(l)
	_ = s.session.Close()
	s.wantEnd()
}

func childIdentity() *link.Identity {
	return &link.Identity{
		SandboxID: "sbx_child", ForkedFrom: "sbx_parent", Hostname: "child", MachineID: machineID2,
		Env: map[string]string{"KEY": "placeholder-2", "CHANGED": "given", "KEPT": "given"},
	}
}

func TestForkBecomesAnother(t *testing.T) {
	l := make(lives, 1)
	s := startWith(t, Options{Next: l.next})
	s.write(kernelBootID, "of the kernel\n", 0o444)
	s.wantReady(s.configure(parentConfig(s)))
	boot := s.file(bootIDFile)
	parent := rpctest.On(t, s.dial(link.KindRPC, link.RPCHeader{}))
	for name, value := range map[string]string{"CHANGED": "by code", "KEY": "by code", "OWN": "by code"} {
		if err := parent.Call("envSet", map[string]string{"key": name, "value": value}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if !strings.Contains(s.file("etc/ssl/certs/ca-certificates.crt"), certificate) {
		t.Error("the parent does not trust its authority")
	}
	_ = s.session.Close()
	s.restore(l, 2)
	s.wantReady(s.resume(link.Resume{Generation: 2, Identity: childIdentity()}))
	env := s.env()
	for name, want := range map[string]string{
		"KEY": "placeholder-2", "CHANGED": "by code", "KEPT": "given", "OWN": "by code", "DROPPED": "", sandboxIDVariable: "sbx_child",
	} {
		if env[name] != want {
			t.Errorf("%s is %q, want %q", name, env[name], want)
		}
	}
	if diff := cmp.Diff(self{SandboxID: "sbx_child", ForkedFrom: "sbx_parent", Generation: 2}, s.self()); diff != "" {
		t.Error(diff)
	}
	if got := s.file("etc/hostname") + s.file("etc/machine-id"); got != "child\n"+machineID2+"\n" {
		t.Errorf("host name and machine id are %q", got)
	}
	if !strings.Contains(s.file("etc/hosts"), "\tchild\n") || !strings.Contains(s.host.told(), "hostname child") {
		t.Error("the host name is not the child's")
	}
	if s.file(bootIDFile) == boot {
		t.Error("the child has the parent's boot id")
	}
	if strings.Contains(s.file("etc/ssl/certs/ca-certificates.crt"), certificate) {
		t.Error("the child trusts the parent's authority")
	}
}

func TestForkRefusesBadIdentity(t *testing.T) {
	l := make(lives, 1)
	s := startWith(t, Options{Next: l.next})
	s.wantReady(s.configure(parentConfig(s)))
	_ = s.session.Close()
	s.restore(l, 2)
	for name, change := range map[string]func(*link.Identity){
		"host name":  func(i *link.Identity) { i.Hostname = "a b" },
		"machine id": func(i *link.Identity) { i.MachineID = "x\n" },
		"variable":   func(i *link.Identity) { i.Env = map[string]string{"A=B": "c"} },
	} {
		id := childIdentity()
		change(id)
		if ready := s.resume(link.Resume{Generation: 2, Identity: id}); ready.Error == "" {
			t.Errorf("%s: accepted", name)
		}
	}
	s.wantReady(s.resume(link.Resume{Generation: 2, Identity: childIdentity()}))
}

// hook says who it is told the machine is.
const hook = `#!/bin/sh
echo "$0 $ATOLL_EVENT $ATOLL_SANDBOX_ID $ATOLL_FORKED_FROM" >>%s
`

func TestHooks(t *testing.T) {
	l := make(lives, 1)
	s := startWith(t, Options{Next: l.next})
	record := filepath.Join(t.TempDir(), "record")
	for i := range maxHooks + 2 {
		s.write(fmt.Sprintf("%s/%02d", hooksDir, i), fmt.Sprintf(hook, record), 0o755)
	}
	s.write(hooksDir+"/00-not-executable", "exit 1", 0o644)
	s.wantReady(s.configure(parentConfig(s)))
	s.wantReady(s.resume(link.Resume{Generation: 1})) // after a pause, none runs
	_ = s.session.Close()
	s.restore(l, 2)
	s.wantReady(s.resume(link.Resume{Generation: 2, Identity: childIdentity()}))
	lines := awaitLines(t, record, maxHooks)
	for i, line := range lines {
		if want := fmt.Sprintf("%s/%s/%02d fork sbx_child sbx_parent", s.root, hooksDir, i); line != want {
			t.Errorf("got %s, want %s", line, want)
		}
	}
	_ = s.session.Close()
	s.restore(l, 3)
	s.wantReady(s.resume(link.Resume{Generation: 3}))
	lines = awaitLines(t, record, 2*maxHooks)
	if want := " resume sbx_child sbx_parent"; !strings.HasSuffix(lines[maxHooks], want) {
		t.Errorf("got %s", lines[maxHooks])
	}
}

// awaitLines waits until a file has so many lines.
func awaitLines(t *testing.T, path string, n int) []string {
	t.Helper()
	for deadline := time.Now().Add(rpctest.Patience); ; time.Sleep(5 * time.Millisecond) {
		text, _ := os.ReadFile(path)
		if lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n"); len(lines) >= n && strings.HasSuffix(string(text), "\n") {
			if len(lines) > n {
				t.Fatalf("%d lines, want %d", len(lines), n)
			}
			return lines
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s has %q, want %d lines", path, text, n)
		}
	}
}

// TestHookThatHangs: it keeps neither the shim waiting nor the agent from
// ending, nor does what holds its output.
func TestHookThatHangs(t *testing.T) {
	l := make(lives, 1)
	s := startWith(t, Options{Next: l.next})
	s.write(hooksDir+"/1", "#!/bin/sh\nyes | head -c 100000\nsleep 600 &\nexec sleep 600\n", 0o755)
	s.wantReady(s.configure(parentConfig(s)))
	_ = s.session.Close()
	s.restore(l, 2)
	s.wantReady(s.resume(link.Resume{Generation: 2}))
	close(l)
	_ = s.session.Close()
	s.wantEnd()
}
