package launch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/atollhq/atoll/internal/errs"
	"github.com/atollhq/atoll/internal/gateway/secret"
	"github.com/atollhq/atoll/internal/layout"
	"github.com/atollhq/atoll/internal/machine"
	"github.com/atollhq/atoll/internal/machine/gvisor"
	"github.com/atollhq/atoll/internal/machine/microvm"
	"github.com/atollhq/atoll/internal/sandbox"
	"github.com/atollhq/atoll/internal/shim/wire"
)

// scripted returns a launcher whose shim is a shell script. $dir is the data
// directory.
func scripted(t *testing.T, script string) *Launcher {
	t.Helper()
	dir := t.TempDir()
	shim := filepath.Join(dir, "shim.sh")
	if err := os.WriteFile(shim, fmt.Appendf(nil, "#!/bin/sh\ndir=%s\n%s\n", dir, script), 0o700); err != nil {
		t.Fatal(err)
	}
	return &Launcher{Binaries: Binaries{Shim: shim}, Data: layout.Data{Dir: dir}, Log: slog.New(slog.DiscardHandler)}
}

// await reads a file that a script makes.
func await(t *testing.T, path string) string {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		if raw, err := os.ReadFile(path); err == nil && strings.HasSuffix(string(raw), "\n") {
			return strings.TrimSpace(string(raw))
		}
	}
	t.Fatal("the script made no file")
	return ""
}

// TestCreatorThatLeavesWhileTheShimStarts: a shim that has not written its
// state yet must be gone before its directory is removed, or it makes it anew.
func TestCreatorThatLeavesWhileTheShimStarts(t *testing.T) {
	l := scripted(t, `trap "" TERM; echo $$ > $dir/pid; exec sleep 60`)
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		_, err := l.Launch(ctx, sandbox.ShimSpec{ID: "sbx"})
		failed <- err
	}()
	pid, err := strconv.Atoi(await(t, filepath.Join(l.Data.Dir, "pid")))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("launch: %v", err)
	}
	if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("the shim still runs: %v", err)
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	if left, err := l.Leftovers(t.Context()); err != nil || len(left) > 0 {
		t.Errorf("left: %v %v", left, err)
	}
}

func TestShimDoesNotInheritTheEnvironment(t *testing.T) {
	t.Setenv("SOME_TOKEN", "not for shims")
	l := scripted(t, `env > $dir/env; echo '{"error":"as planned"}'`)
	if _, err := l.Launch(t.Context(), sandbox.ShimSpec{ID: "sbx"}); err == nil || !strings.Contains(err.Error(), "as planned") {
		t.Errorf("launch: %v", err)
	}
	if env := await(t, filepath.Join(l.Data.Dir, "env")); strings.Contains(env, "SOME_TOKEN") {
		t.Errorf("the shim's environment is %s", env)
	}
}

func TestShimIsToldTheImage(t *testing.T) {
	l := scripted(t, `cat > $dir/spec; echo '{"error":"as planned"}'`)
	image := machine.Image{File: "/i/erofs", Kernel: "/i/vmlinuz", Modules: "/i/modules"}
	if _, err := l.Launch(t.Context(), sandbox.ShimSpec{ID: "sbx", Image: image}); err == nil || !strings.Contains(err.Error(), "as planned") {
		t.Errorf("launch: %v", err)
	}
	var got wire.Spec
	if err := json.Unmarshal([]byte(await(t, filepath.Join(l.Data.Dir, "spec"))), &got); err != nil {
		t.Fatal(err)
	}
	if told := (machine.Image{File: got.Image, Kernel: got.Kernel, Modules: got.Modules}); told != image {
		t.Errorf("the shim is told of %+v", told)
	}
}

// TestAttachTellsDeadFromUnanswered: a dead shim's sandbox is freed, which
// must not happen to one that was merely not asked to the end.
func TestAttachTellsDeadFromUnanswered(t *testing.T) {
	dir, err := os.MkdirTemp("", "atoll-launch-") // t.TempDir's path is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l := &Launcher{Data: layout.Data{Dir: dir}}
	if _, err := l.Attach(t.Context(), "sbx"); !errors.Is(err, errs.NotFound) {
		t.Errorf("without a socket: %v", err)
	}
	if err := os.MkdirAll(l.Data.Sandbox("sbx").Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: l.Data.Sandbox("sbx").Socket(), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := l.Attach(ctx, "sbx"); err == nil || errors.Is(err, errs.NotFound) {
		t.Errorf("no answer: %v", err)
	}
	_ = listener.Close()
	if _, err := l.Attach(t.Context(), "sbx"); !errors.Is(err, errs.NotFound) {
		t.Errorf("a dead shim's socket: %v", err)
	}
}

// TestSecretsGoToStandardInputOnly: the shim reads them there; no file, no
// argument, no variable, no log and no error holds them.
func TestSecretsGoToStandardInputOnly(t *testing.T) {
	const value = "hunter2 hunter2"
	l := scripted(t, `grep -q "hunter2" || exit 1; cat /proc/$$/cmdline /proc/$$/environ $dir/sandboxes/sbx/* > $dir/seen; echo '{"error":"as planned"}'`)
	log := new(bytes.Buffer)
	l.Log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	spec := sandbox.ShimSpec{ID: "sbx", Proxy: "http://user:hunter2@proxy:1", AuditMaxBytes: 1, Personal: sandbox.Personal{
		Secrets: sandbox.NewSecrets(map[string]secret.Spec{"K": {Hosts: []string{"h"}, Value: value}}),
	}}
	_, err := l.Launch(t.Context(), spec)
	if err == nil || !strings.Contains(err.Error(), "as planned") {
		t.Fatalf("launch: %v", err)
	}
	if spec.Secrets.Specs() != nil {
		t.Error("the daemon still holds the secrets")
	}
	shown := log.String() + err.Error()
	script := l.Binaries.Shim
	err = filepath.WalkDir(l.Data.Dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() || path == script {
			return err
		}
		raw, err := os.ReadFile(path)
		shown += string(raw)
		return err
	})
	if err != nil || strings.Contains(shown, "hunter2") {
		t.Errorf("a secret is shown (%v): %s", err, shown)
	}
}

// TestPipeIsNotKeptForNobody: a line that nobody reads holds up nobody.
func TestPipeIsNotKeptForNobody(t *testing.T) {
	r, err := pipe(wire.Spec{ID: strings.Repeat("x", 1<<20)})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := pipe(wire.Spec{ID: strings.Repeat("x", wire.MaxLine)}); !errors.Is(err, wire.ErrLineTooLong) {
		t.Errorf("error = %v", err)
	}
}

// fakeTemplates has one template, or none.
type fakeTemplates struct {
	has       *machine.Snapshot
	asked     []machine.Spec
	discarded []machine.Snapshot
}

func (f *fakeTemplates) Get(_ context.Context, s machine.Spec) (*machine.Snapshot, error) {
	if f.asked = append(f.asked, s); f.has == nil {
		return nil, errors.New("can't make one")
	}
	return f.has, nil
}

func (f *fakeTemplates) Discard(s machine.Snapshot) error {
	f.discarded = append(f.discarded, s)
	return nil
}

func TestTemplates(t *testing.T) {
	template := machine.Snapshot{Driver: microvm.Name, Dir: "/t", Memory: "/proc/1/fd/9", MemoryID: "inode 9"}
	plain := sandbox.ShimSpec{ID: "sbx", Driver: microvm.Name, Image: machine.Image{File: "/i", Kernel: "/k"}, MemoryBytes: 1<<30 + 1, CPUs: 2, DiskBytes: 1 << 20}
	rounded := microvm.RoundMemory(plain.MemoryBytes)
	with := func(change func(*sandbox.ShimSpec)) sandbox.ShimSpec {
		s := plain
		change(&s)
		return s
	}
	for name, c := range map[string]struct {
		spec           sandbox.ShimSpec
		has            *machine.Snapshot
		answer         string
		asked          int
		told, discards bool
	}{
		"of use":         {plain, &template, `{"error":"as planned"}`, 1, true, false},
		"of no use":      {plain, &template, `{"error":"as planned","templateFailed":true}`, 1, true, true},
		"none":           {plain, nil, `{"error":"as planned"}`, 1, false, false},
		"a lie":          {plain, nil, `{"error":"as planned","templateFailed":true}`, 1, false, false},
		"another driver": {with(func(s *sandbox.ShimSpec) { s.Driver = gvisor.Name }), &template, `{"error":"as planned"}`, 0, false, false},
		"a fork":         {with(func(s *sandbox.ShimSpec) { s.Origin = &sandbox.Origin{} }), &template, `{"error":"as planned"}`, 0, false, false},
	} {
		l, templates := scripted(t, `cat > $dir/spec; echo '`+c.answer+`'`), &fakeTemplates{has: c.has}
		l.Templates = templates
		if _, err := l.Launch(t.Context(), c.spec); err == nil || !strings.Contains(err.Error(), "as planned") {
			t.Errorf("%s: launch: %v", name, err)
		}
		var got wire.Spec
		if err := json.Unmarshal([]byte(await(t, filepath.Join(l.Data.Dir, "spec"))), &got); err != nil {
			t.Fatal(err)
		}
		if len(templates.asked) != c.asked || (got.Template != nil) != c.told || (len(templates.discarded) == 1) != c.discards {
			t.Errorf("%s: asked %d times, told %v, discarded %v", name, len(templates.asked), got.Template, templates.discarded)
		}
		if c.told && (got.Template.Memory != template.Memory || got.Template.MemoryID != template.MemoryID || templates.asked[0].Network.MTU == 0 || rounded == plain.MemoryBytes || templates.asked[0].MemoryBytes != rounded || got.MemoryBytes != rounded) {
			t.Errorf("%s: told %+v after it asked for %+v", name, got.Template, templates.asked)
		}
	}
}
