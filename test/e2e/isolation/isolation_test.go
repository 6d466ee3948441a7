//go:build e2e

// Package isolation tests how a server chooses its kind of machine, and how
// microVMs start from templates.
package isolation

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/atollhq/atoll/internal/cgroup"
	"github.com/atollhq/atoll/internal/config"
	choice "github.com/atollhq/atoll/internal/isolation"
	"github.com/atollhq/atoll/internal/machine/microvm"
	"github.com/atollhq/atoll/test/e2e/harness"
)

// TestMain gives more time where microVMs are emulated: ATOLL_TEST_SLOWNESS is
// of runs in which all machines are.
func TestMain(m *testing.M) {
	if _, slow := microvm.Accelerate(); slow != nil {
		harness.Patience *= 5
		harness.TestLimit *= 5
	}
	code := m.Run()
	cgroup.RemoveParent() // the trial has no server that would
	os.Exit(code)
}

// TestMicrovm: what is asked for is what runs, a kernel of its own, and nothing
// else can be had from the same server.
func TestMicrovm(t *testing.T) {
	s := harness.New(t, "--isolation", microvm.Name)
	ctx := harness.Context(t, 2*harness.TestLimit)
	c := s.MustCreate(ctx, t, map[string]any{"isolation": "microvm", "memory_mb": 1001})
	if sb, err := s.Sandbox(ctx, c.ID); err != nil || sb.Isolation != microvm.Name {
		t.Errorf("listed as %+v, %v", sb, err)
	}
	if out := c.MustShell(ctx, t, "uname -r"); !strings.Contains(out, "-cloud-") {
		t.Errorf("the kernel is %s", out)
	}
	_, err := s.Create(ctx, map[string]any{"isolation": "gvisor"})
	harness.WantRefusal(t, err, http.StatusNotImplemented, "UNSUPPORTED_ISOLATION")
}

// TestAuto: the choice is the doctor's, and the reason is in the log.
func TestAuto(t *testing.T) {
	s := harness.New(t, "--isolation", config.IsolationAuto)
	ctx := harness.Context(t, harness.TestLimit)
	c := s.MustCreate(ctx, t, nil)
	sb, err := s.Sandbox(ctx, c.ID)
	if err != nil {
		t.Fatal(err)
	}
	if _, slow := microvm.Accelerate(); slow != nil {
		if sb.Isolation != config.IsolationGvisor || !strings.Contains(s.Log(), "isolated by gVisor") {
			t.Errorf("without KVM (%v) it is %s", slow, sb.Isolation)
		}
	} else if sb.Isolation != config.IsolationMicrovm && !strings.Contains(s.Log(), "for trial") {
		t.Errorf("with KVM it is %s, and no trial failed", sb.Isolation)
	}
}

// TestDamagedTemplate: a sandbox whose template is broken boots, and the next
// one has a good template again.
func TestDamagedTemplate(t *testing.T) {
	s := harness.New(t, "--isolation", microvm.Name)
	ctx := harness.Context(t, 4*harness.TestLimit)
	create := func() {
		t.Helper()
		c := s.MustCreate(ctx, t, nil)
		if out := c.MustShell(ctx, t, "echo on"); out != "on\n" {
			t.Errorf("%q", out)
		}
		c.Close()
		s.AwaitStopped(ctx, t, c.ID)
	}
	create()
	first := defaultTemplate(t, s)
	state := filepath.Join(s.Data.Templates(), first.Key, "state")
	// Another file in its place: others may share this one.
	if err := os.Remove(state); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(state, []byte("no state of a machine"), 0o600); err != nil {
		t.Fatal(err)
	}
	create()
	if !strings.Contains(s.Log(), "could not be started from its template") {
		t.Error("the log does not tell of it")
	}
	create()
	if second := defaultTemplate(t, s); second.Key != first.Key || !second.Created.After(first.Created) {
		t.Errorf("%+v after %+v", second, first)
	}
}

// defaultTemplate is the one of the default size; the server may have been
// given others.
func defaultTemplate(t *testing.T, s *harness.Server) microvm.Template {
	t.Helper()
	found, err := microvm.ListTemplates(s.Data.Templates())
	for _, template := range found {
		if template.MemoryBytes == int64(config.Default().Limits.MemoryDefaultMiB)<<20 {
			return template
		}
	}
	t.Fatalf("templates: %+v, %v", found, err)
	return microvm.Template{}
}

// TestSpare: a microVM that was started ahead becomes somebody's.
func TestSpare(t *testing.T) {
	s := harness.New(t, "--isolation", microvm.Name, "--spares", "1")
	ctx := harness.Context(t, 2*harness.TestLimit)
	c := s.MustCreate(ctx, t, map[string]any{"env": map[string]string{"OWN": "mine"}})
	if out := c.MustShell(ctx, t, `echo "$OWN"; uname -r`); !strings.HasPrefix(out, "mine\n") || !strings.Contains(out, "-cloud-") {
		t.Errorf("%q", out)
	}
}

// TestTrial: the doctor's boot works, and leaves nothing.
func TestTrial(t *testing.T) {
	cfg := config.Default()
	image := os.Getenv("ATOLL_TEST_IMAGE")
	cfg.ImageDir, cfg.Image = filepath.Dir(image), strings.TrimSuffix(filepath.Base(image), ".erofs")
	t.Setenv("TMPDIR", t.TempDir())
	bin := os.Getenv("ATOLL_TEST_BIN")
	took, err := choice.Try(harness.Context(t, harness.TestLimit), cfg, choice.Programs{
		Shim: filepath.Join(bin, "atoll-shim"), Agent: filepath.Join(bin, "atoll-agent"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("booted in %v", took)
	if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) > 0 {
		t.Errorf("left: %v %v", left, err)
	}
	for _, name := range cgroup.Leftovers() {
		if strings.HasPrefix(name, "template-") && strings.HasSuffix(name, fmt.Sprintf("-%d", os.Getpid())) {
			t.Errorf("left: control group %s", name)
		}
	}
}
