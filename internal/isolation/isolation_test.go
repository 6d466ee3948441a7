package isolation

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/atollhq/atoll/internal/config"
	"github.com/atollhq/atoll/internal/errs"
	"github.com/atollhq/atoll/internal/machine/gvisor"
	"github.com/atollhq/atoll/internal/machine/microvm"
)

func TestAuto(t *testing.T) {
	reason := errors.New("a reason")
	for name, c := range map[string]struct {
		host Host
		want string
	}{
		"all there": {Host{}, microvm.Name},
		"no QEMU":   {Host{Lacks: reason}, gvisor.Name},
		"no KVM":    {Host{Slow: reason}, gvisor.Name},
		"no image":  {Host{missing: reason}, gvisor.Name},
	} {
		driver, why := c.host.Auto()
		if driver != c.want || (why == nil) != (c.want == microvm.Name) {
			t.Errorf("%s: %s, %v", name, driver, why)
		}
	}
}

func settings(t *testing.T, isolation string) config.Server {
	cfg := config.Default()
	cfg.DataDir, cfg.Isolation = t.TempDir(), isolation
	return cfg
}

// TestAutoFallsBack: a microVM that does not boot for trial is no error. Here
// there is not even a program to boot it with.
func TestAutoFallsBack(t *testing.T) {
	cfg := settings(t, config.IsolationAuto)
	said := new(strings.Builder)
	log := slog.New(slog.NewTextHandler(said, nil))
	c, err := Host{}.auto(t.Context(), cfg, Programs{Shim: "/nonexistent/shim", Agent: "/nonexistent/agent"}, log)
	if err != nil || c.Driver != gvisor.Name || c.Templates != nil {
		t.Errorf("%+v %v", c, err)
	}
	if !strings.Contains(said.String(), "isolated by gVisor") || !strings.Contains(said.String(), "for trial") {
		t.Errorf("the log says %s", said)
	}
	if left, err := os.ReadDir(cfg.Data().Templates()); err != nil || len(left) > 0 {
		t.Errorf("left: %v %v", left, err)
	}
}

func TestChoose(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	c, err := Choose(t.Context(), settings(t, config.IsolationGvisor), Programs{}, quiet)
	if err != nil || c.Driver != gvisor.Name || c.Close() != nil {
		t.Errorf("gvisor: %+v %v", c, err)
	}
	// What was asked for is never replaced by something weaker.
	cfg := settings(t, config.IsolationMicrovm)
	cfg.QEMU = "/usr/nonexistent/qemu"
	if _, err := Choose(t.Context(), cfg, Programs{}, quiet); !errors.Is(err, errs.Precondition) || !strings.Contains(err.Error(), "isolation is microvm") {
		t.Errorf("microvm without QEMU: %v", err)
	}
	if _, err := os.Stat(filepath.Join(cfg.DataDir, "templates")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a refused server made something: %v", err)
	}
}
