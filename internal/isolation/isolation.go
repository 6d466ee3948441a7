// Package isolation decides which kind of machine a server makes, by its
// setting and by what its host can do. It exists so that the server and the
// doctor come to the same decision.
//
// A server decides once, at its start, and makes machines of one kind.
package isolation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/atollhq/atoll/internal/config"
	"github.com/atollhq/atoll/internal/errs"
	"github.com/atollhq/atoll/internal/machine"
	"github.com/atollhq/atoll/internal/machine/gvisor"
	"github.com/atollhq/atoll/internal/machine/microvm"
	"github.com/atollhq/atoll/internal/shim/wire"
)

// trialTimeout bounds the boot that auto relies on. With KVM it takes about a
// second.
const trialTimeout = 30 * time.Second

// Host is what a host offers to microVMs.
type Host struct {
	QEMU    microvm.QEMU
	Lacks   error // what microVMs can't start without; nil if nothing
	Accel   microvm.Acceleration
	Slow    error // why Accel is not KVM; nil if it is
	missing error // of the image
}

// Examine looks at this host.
func Examine(ctx context.Context, cfg config.Server) Host {
	var h Host
	h.QEMU, h.Lacks = microvm.FindQEMU(ctx, cfg.QEMU)
	h.Accel, h.Slow = microvm.Accelerate()
	image := cfg.ImageFiles()
	for _, path := range []string{image.File(), image.Kernel(), image.Modules()} {
		if _, err := os.Stat(path); err != nil {
			h.missing = errors.Join(h.missing, fmt.Errorf("%s is missing", path))
		}
	}
	return h
}

// Auto returns the driver that "auto" stands for, microvm only if a trial
// works, and otherwise why it is another.
func (h Host) Auto() (driver string, why error) {
	for _, reason := range []error{h.Lacks, h.Slow, h.missing} {
		if reason != nil {
			return gvisor.Name, reason
		}
	}
	return microvm.Name, nil
}

// Programs are the host paths that a choice depends on.
type Programs struct{ Shim, Agent string }

// Choice is how a server isolates.
type Choice struct {
	Driver    string               // name of the machine driver
	Accel     microvm.Acceleration // of microVMs
	QEMU      string               // path, for microVMs
	Templates *microvm.Templates   // nil for other drivers; closed by Close
}

// Choose decides. What it decides against is in the log, with the reason.
func Choose(ctx context.Context, cfg config.Server, p Programs, log *slog.Logger) (Choice, error) {
	if cfg.Isolation == config.IsolationGvisor {
		return Choice{Driver: gvisor.Name}, nil
	}
	h := Examine(ctx, cfg)
	if cfg.Isolation == config.IsolationMicrovm {
		if h.Lacks != nil {
			return Choice{}, errs.Wrap(h.Lacks, errs.Precondition, "MICROVM_IMPOSSIBLE", "isolation is microvm, and %v", h.Lacks)
		}
		if h.Slow != nil {
			log.Warn("microVMs run by software emulation, several times slower than with KVM", "reason", h.Slow)
		}
		return h.microvms(cfg, p, log)
	}
	return h.auto(ctx, cfg, p, log)
}

func (h Host) auto(ctx context.Context, cfg config.Server, p Programs, log *slog.Logger) (Choice, error) {
	driver, why := h.Auto()
	if driver == microvm.Name {
		c, err := h.microvms(cfg, p, log)
		if err != nil {
			return c, err
		}
		if why = c.try(ctx, cfg, p); why == nil {
			return c, nil
		}
		if err := c.Close(); err != nil {
			return Choice{}, err
		}
	}
	if ctx.Err() != nil {
		return Choice{}, ctx.Err()
	}
	log.Info("no microVMs on this host; sandboxes are isolated by gVisor", "reason", why)
	return Choice{Driver: gvisor.Name}, nil
}

func (h Host) microvms(cfg config.Server, p Programs, log *slog.Logger) (Choice, error) {
	driver := microvm.New(microvm.Config{QEMU: h.QEMU.Path, Jail: p.Shim, Accel: h.Accel, Log: log})
	templates, err := microvm.NewTemplates(cfg.Data().Templates(), driver, log)
	if err != nil {
		return Choice{}, err
	}
	return Choice{Driver: microvm.Name, Accel: h.Accel, QEMU: h.QEMU.Path, Templates: templates}, nil
}

// try makes the template of the default size: a whole boot.
func (c Choice) try(ctx context.Context, cfg config.Server, p Programs) error {
	ctx, cancel := context.WithTimeout(ctx, trialTimeout)
	defer cancel()
	if err := c.Prepare(ctx, cfg, p); err != nil {
		return fmt.Errorf("boot one for trial: %w", err)
	}
	return nil
}

// Prepare makes the template of the default size, unless it is there.
func (c Choice) Prepare(ctx context.Context, cfg config.Server, p Programs) error {
	_, err := c.Templates.Get(ctx, defaultMachine(cfg, p))
	return err
}

// Close gives back what was kept in memory.
func (c Choice) Close() error {
	if c.Templates == nil {
		return nil
	}
	return c.Templates.Close()
}

// defaultMachine is what a machine of the default size has that counts for its
// template.
func defaultMachine(cfg config.Server, p Programs) machine.Spec {
	l, image := cfg.Limits, cfg.ImageFiles()
	return machine.Spec{
		Image: machine.Image{File: image.File(), Kernel: image.Kernel(), Modules: image.Modules()}, Agent: p.Agent,
		MemoryBytes: microvm.RoundMemory(int64(l.MemoryDefaultMiB) << 20), CPUs: l.CPUs, DiskBytes: int64(l.DiskMiB) << 20,
		Network: wire.Network(),
	}
}

// Try boots one microVM and ends it. What it makes is below a directory of its
// own that is gone afterwards.
func Try(ctx context.Context, cfg config.Server, p Programs) (took time.Duration, err error) {
	h := Examine(ctx, cfg)
	if err := errors.Join(h.Lacks, h.missing); err != nil {
		return 0, err
	}
	dir, err := os.MkdirTemp("", "atoll-trial-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	image := cfg.ImageFiles()
	cfg.ImageDir, cfg.DataDir = image.Dir, filepath.Join(dir, "data")
	c, err := h.microvms(cfg, p, slog.New(slog.DiscardHandler))
	if err != nil {
		return 0, err
	}
	began := time.Now()
	err = c.Prepare(ctx, cfg, p)
	return time.Since(began), errors.Join(err, c.Close())
}
