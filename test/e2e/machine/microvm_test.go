//go:build e2e

package machine

import (
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/atollhq/atoll/internal/cgroup"
	"github.com/atollhq/atoll/internal/machine"
	"github.com/atollhq/atoll/internal/machine/machinetest"
	"github.com/atollhq/atoll/internal/machine/microvm"
)

// microvms returns a driver and the spec of its machines.
func microvms(t *testing.T) (*microvm.Driver, machine.Spec) {
	t.Helper()
	bin, image := need(t, "ATOLL_TEST_BIN"), need(t, "ATOLL_TEST_IMAGE")
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Fatal(err)
	}
	accel, _ := microvm.Accelerate()
	base := strings.TrimSuffix(image, ".erofs")
	return microvm.New(microvm.Config{QEMU: qemu, Jail: filepath.Join(bin, "atoll-shim"), Accel: accel, Log: slog.New(slog.DiscardHandler)}),
		machine.Spec{
			Hostname: "conformance", Image: machine.Image{File: image, Kernel: base + ".vmlinuz", Modules: base + ".modules"},
			Agent: filepath.Join(bin, "atoll-agent"), MemoryBytes: 512 << 20, CPUs: 2, DiskBytes: 1 << 30, Network: network(),
		}
}

// templates are made once for all tests.
var templates struct {
	sync.Once
	dir  string
	made *microvm.Templates
	err  error
}

// template returns what machines like spec start from.
func template(t *testing.T, d *microvm.Driver, spec machine.Spec) *machine.Snapshot {
	t.Helper()
	templates.Do(func() {
		if templates.dir, templates.err = os.MkdirTemp("", "atoll-templates-"); templates.err == nil {
			templates.made, templates.err = microvm.NewTemplates(templates.dir, d, d.Log)
		}
	})
	if templates.err != nil {
		t.Fatal(templates.err)
	}
	snapshot, err := templates.made.Get(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return snapshot
}

// closeTemplates frees what template made.
func closeTemplates() {
	if templates.made != nil {
		_ = templates.made.Close()
	}
	if templates.dir != "" {
		_ = os.RemoveAll(templates.dir)
	}
}

func TestMicrovmConformance(t *testing.T) {
	machinetest.Run(t, machinetest.Harness{
		New: func(t *testing.T) machine.Driver {
			driver, _ := microvms(t)
			return driver
		},
		Spec: func(t *testing.T) machine.Spec {
			driver, spec := microvms(t)
			spec.Template = template(t, driver, spec)
			return spec
		},
		Freezes: true,
		Crash: func(t *testing.T, _ machine.Driver, m machine.Machine) {
			for _, pid := range cgroup.Open(m.State().ID).PIDs() {
				if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
					t.Logf("kill %d: %v", pid, err)
				}
			}
		},
		Full: full, Leaks: leaks,
	})
}
