//go:build e2e

package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/agent/rpc/rpctest"
	"github.com/atollhq/atoll/internal/cgroup"
	"github.com/atollhq/atoll/internal/errs"
	"github.com/atollhq/atoll/internal/gateway/secret"
	"github.com/atollhq/atoll/internal/link"
	"github.com/atollhq/atoll/internal/sandbox"
	"github.com/atollhq/atoll/internal/shim/launch"
)

const secretValue = "correct horse battery staple"

// box is a sandbox to work in.
type box struct {
	t *testing.T
	l *launch.Launcher
	sandbox.Shim
	id string
}

func launchBox(t *testing.T, l *launch.Launcher, spec sandbox.ShimSpec) *box {
	t.Helper()
	began := time.Now()
	s, err := l.Launch(deadline(t), spec)
	if err != nil {
		log, _ := os.ReadFile(l.Data.Sandbox(spec.ID).Log())
		t.Fatalf("launch %s: %v\n%s", spec.ID, err, log)
	}
	t.Logf("%s runs after %v", spec.ID, time.Since(began).Round(time.Millisecond))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience) // the test's has ended
		defer cancel()
		if err := l.Cleanup(ctx, spec.ID); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	return &box{t, l, s, spec.ID}
}

// sh runs a command, as root, and returns what it says.
func (b *box) sh(script string) string {
	b.t.Helper()
	conn, err := b.OpenRPC(deadline(b.t), link.RPCHeader{MaxMessage: 1 << 20})
	if err != nil {
		b.t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	c := rpctest.On(b.t, conn)
	var r api.SpawnResult
	if err := c.Call("spawn", map[string]any{"command": "sudo", "args": []string{"-E", "sh", "-c", script + " 2>&1"}, "stdout": "piped", "stderr": "null"}, &r); err != nil {
		b.t.Fatal(err)
	}
	if err := c.Call("processWait", map[string]int{"pid": r.PID}, nil); err != nil {
		b.t.Fatal(err)
	}
	out, err := c.Stream(*r.StdoutStreamID).All()
	if err != nil {
		b.t.Fatal(err)
	}
	return strings.TrimSuffix(string(out), "\n")
}

func (b *box) env(name string) string { b.t.Helper(); return b.sh(`printf %s "$` + name + `"`) }

// await repeats a command until it says what is wanted.
func (b *box) await(script, want string) {
	b.t.Helper()
	var got string
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if got = b.sh(script); got == want {
			return
		}
	}
	b.t.Errorf("%s says %q, want %q", script, got, want)
}

// wantCounting: the process that counts is still the one that was started.
func (b *box) wantCounting() {
	b.t.Helper()
	before := b.sh("cat /tmp/count")
	b.await("test $(cat /tmp/count) -gt "+before+" && cat /tmp/run", "1")
}

func (b *box) status() sandbox.ShimStatus {
	b.t.Helper()
	st, err := b.Status(deadline(b.t))
	if err != nil {
		b.t.Fatal(err)
	}
	return st
}

// prepare starts a counter and leaves traces.
const prepare = `
mkdir -p /etc/atoll/resume.d
printf '#!/bin/sh\necho "$ATOLL_EVENT $ATOLL_SANDBOX_ID $ATOLL_FORKED_FROM" >>/tmp/hooks\n' >/etc/atoll/resume.d/log
chmod 755 /etc/atoll/resume.d/log
echo 1 >/tmp/run
echo on-disk >/root/file
setsid sh -c 'i=0; while :; do i=$((i+1)); echo $i >/tmp/count.new; mv /tmp/count.new /tmp/count; sleep 0.02; done' >/dev/null 2>&1 &
while ! test -s /tmp/count; do sleep 0.02; done
`

// connect opens a connection to the gateway, which answers nothing, and notes
// its end.
const connect = `
rm -f /tmp/connected
setsid bash -c 'exec 3<>/dev/tcp/10.87.0.1/53; echo open >/tmp/connected; cat <&3; echo cut >/tmp/connected' >/dev/null 2>&1 &
while ! test -s /tmp/connected; do sleep 0.02; done
`

func (b *box) wantNetwork() {
	b.t.Helper()
	b.await("bash -c 'exec 3<>/dev/tcp/10.87.0.1/53' && echo up", "up")
}

func parentSpec(t *testing.T, id string) sandbox.ShimSpec {
	s := spec(t, id)
	s.Hostname = "parent"
	s.Personal = sandbox.Personal{
		Env:      map[string]string{"GREETING": "hello"},
		AllowNet: &[]string{"example.com"},
		Secrets:  sandbox.NewSecrets(map[string]secret.Spec{"API_KEY": {Hosts: []string{"example.com"}, Value: secretValue}}),
	}
	return s
}

func TestPauseResumeFork(t *testing.T) {
	l := launcher(t)
	b := launchBox(t, l, parentSpec(t, "shim-parent"))
	b.sh(prepare)
	key := b.env("API_KEY")
	if !strings.HasPrefix(key, secret.Placeholder) || b.env("ATOLL_SANDBOX_ID") != b.id {
		t.Errorf("the environment is %s", b.sh("env"))
	}

	b.wantCounting()
	if took, err := b.Pause(deadline(t), false); err != nil || took.Bytes != 0 {
		t.Fatalf("%+v, %v", took, err)
	}
	if _, err := b.OpenRPC(deadline(t), link.RPCHeader{}); errs.Public(err).Code != sandbox.CodePaused {
		t.Errorf("a paused sandbox opens a stream: %v", err)
	}
	b.resume()
	b.wantCounting()

	for range 2 {
		b.sh(connect)
		b.suspend()
		b.resume()
		b.wantCounting()
		b.await("cat /tmp/connected", "cut")
		b.wantNetwork()
	}
	if got := b.sh("cat /root/file; hostname") + b.env("API_KEY"); got != "on-disk\nparent"+key {
		t.Errorf("after its restoration: %q", got)
	}
	b.await("cat /tmp/hooks", "resume shim-parent \nresume shim-parent ")

	running := b.fork()
	b.wantCounting()
	if _, err := b.Pause(deadline(t), false); err != nil {
		t.Fatal(err)
	}
	paused := b.fork()
	b.resume()
	b.wantCounting()
	b.children(running, "shim-of-running")
	b.children(paused, "shim-of-paused")
	b.wantCounting()
	b.awaitNoneOnDisk()
	if b.status().CPUTime <= 0 {
		t.Error("it has used no CPU time")
	}
}

// awaitNoneOnDisk: of saved machines nothing is left.
func (b *box) awaitNoneOnDisk() {
	b.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		left, _ := filepath.Glob(filepath.Join(b.l.Data.Sandbox(b.id).Dir, "*s", "*")) // saved/, forks/
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("left on disk: %v", left)
		}
	}
}

func (b *box) suspend() {
	b.t.Helper()
	began := time.Now()
	took, err := b.Pause(deadline(b.t), true)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Logf("suspended in %v: stood still for %v, %d MiB on disk, shim %s", time.Since(began).Round(time.Millisecond), took.StoodStill.Round(time.Millisecond), took.Bytes>>20, b.memory())
	if st := b.status(); st.Power != sandbox.PowerSuspended || took.Bytes == 0 {
		b.t.Errorf("it is %+v, and took %+v", st, took)
	}
	if pids := cgroup.Open(b.id).PIDs(); len(pids) > 0 {
		b.t.Errorf("a suspended machine has processes: %v", pids)
	}
	b.wantNoSecretOnDisk()
}

// memory is what the shim has of its own, for the log.
func (b *box) memory() string {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.Shim.(*launch.Shim).PID()))
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "RssAnon:") {
			return strings.Join(strings.Fields(line), " ")
		}
	}
	return ""
}

func (b *box) resume() {
	b.t.Helper()
	began := time.Now()
	if err := b.Resume(deadline(b.t)); err != nil {
		log, _ := os.ReadFile(b.l.Data.Sandbox(b.id).Log())
		b.t.Fatalf("resume: %v\n%s", err, log)
	}
	b.t.Logf("resumed in %v", time.Since(began).Round(time.Millisecond))
}

func (b *box) fork() *sandbox.Fork {
	b.t.Helper()
	began := time.Now()
	f, err := b.Fork(deadline(b.t))
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = f.Close() })
	b.t.Logf("forked in %v: stood still for %v", time.Since(began).Round(time.Millisecond), f.Origin.Snapshot.StoodStill.Round(time.Millisecond))
	return f
}

// wantNoSecretOnDisk: what is written of a machine holds the placeholder only,
// and is root's.
func (b *box) wantNoSecretOnDisk() {
	b.t.Helper()
	if info, err := os.Stat(b.l.Data.Sandbox(b.id).Dir); err != nil || info.Mode().Perm() != 0o700 {
		b.t.Errorf("the sandbox's directory: %v, %v", info, err)
	}
	err := filepath.WalkDir(b.l.Data.Dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return ignoreGone(err)
		}
		raw, err := os.ReadFile(path)
		if strings.Contains(string(raw), secretValue) {
			b.t.Errorf("%s holds the secret", path)
		}
		return ignoreGone(err)
	})
	if err != nil {
		b.t.Error(err)
	}
}

// ignoreGone is for files that go while they are looked at.
func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// children starts two sandboxes from a fork and closes it.
func (b *box) children(f *sandbox.Fork, id string) {
	t := b.t
	t.Helper()
	var all []*box
	for _, n := range []string{"-1", "-2"} {
		s := parentSpec(t, id+n)
		s.Hostname, s.Origin, s.Personal = id+n, &f.Origin, f.Personal()
		all = append(all, launchBox(t, b.l, s))
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	seen := map[string]bool{b.env("API_KEY"): true, b.sh("cat /etc/machine-id"): true, b.sh("head -c 16 /dev/urandom | od -An -tx1"): true}
	for _, c := range all {
		c.wantCounting()
		c.wantNetwork()
		if got := c.sh("cat /root/file; hostname; cat /etc/hostname"); got != "on-disk\n"+c.id+"\n"+c.id {
			t.Errorf("%s: %q", c.id, got)
		}
		if got := c.env("GREETING") + " " + c.env("ATOLL_SANDBOX_ID"); got != "hello "+c.id {
			t.Errorf("%s: %q", c.id, got)
		}
		var who struct{ SandboxID, ForkedFrom string }
		if err := json.Unmarshal([]byte(c.sh("cat /run/atoll/identity.json")), &who); err != nil || who.SandboxID != c.id || who.ForkedFrom != b.id {
			t.Errorf("%s: %+v, %v", c.id, who, err)
		}
		for _, own := range []string{c.env("API_KEY"), c.sh("cat /etc/machine-id"), c.sh("head -c 16 /dev/urandom | od -An -tx1")} {
			if own == "" || seen[own] {
				t.Errorf("%s: %q is not its own", c.id, own)
			}
			seen[own] = true
		}
		c.await("tail -n 1 /tmp/hooks", "fork "+c.id+" "+b.id)
		policy, err := c.Policy(deadline(t))
		if err != nil || len(policy.Secrets) != 1 || policy.AllowNet == nil {
			t.Errorf("%s: %+v, %v", c.id, policy, err)
		}
		if err := c.Stop(deadline(t), api.StopKilled); err != nil {
			t.Error(err)
		}
	}
}

// TestKilledWhileSuspended: of a suspended sandbox whose shim is killed,
// nothing is left.
func TestKilledWhileSuspended(t *testing.T) {
	l := launcher(t)
	b := launchBox(t, l, parentSpec(t, "shim-killed-asleep"))
	b.suspend()
	if err := syscall.Kill(b.Shim.(*launch.Shim).PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if exit := awaitExit(t, b); exit.Reason != api.StopCrashed {
		t.Errorf("exit: %+v", exit)
	}
	if err := l.Cleanup(deadline(t), b.id); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(l.Data.Sandboxes()); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if slices.Contains(cgroup.Leftovers(), cgroup.ShimName(b.id)) {
		t.Error("the shim's control group is still there")
	}
}
