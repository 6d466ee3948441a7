package serve

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/atollhq/atoll/internal/config"
	"github.com/atollhq/atoll/internal/errs"
	"github.com/atollhq/atoll/internal/machine"
	"github.com/atollhq/atoll/internal/machine/gvisor"
	"github.com/atollhq/atoll/internal/sandbox"
	"github.com/atollhq/atoll/internal/shim/launch"
)

// newLauncher returns the launcher of real shims, after it looked whether all
// that they need is there: better now than at the first sandbox.
func newLauncher(cfg config.Server, log *slog.Logger) (sandbox.Launcher, error) {
	dir := cfg.BinDir
	if dir == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find the programs: %w", err)
		}
		dir = filepath.Dir(self)
	}
	bin := launch.Binaries{
		Shim:  filepath.Join(dir, "atoll-shim"),
		Agent: filepath.Join(dir, "atoll-agent"),
		Runsc: filepath.Join(dir, "runsc"),
	}
	for _, path := range []string{bin.Shim, bin.Agent, bin.Runsc} {
		if _, err := os.Stat(path); err != nil {
			return nil, errs.Wrap(err, errs.Precondition, "PROGRAM_MISSING", "%s is missing: build it, or set bin_dir", path)
		}
	}
	image := cfg.ImageFiles().File()
	if !exists(image) {
		log.Warn("the image is missing, no sandbox can start until it is there: run \"atoll image build\"", "image", cfg.Image, "file", image)
	}
	return needsImage{image, &launch.Launcher{
		Binaries: bin,
		Data:     cfg.Data(),
		Drivers:  map[string]machine.Driver{gvisor.Name: gvisor.New(bin.Runsc, log)},
		LogLevel: cfg.Log.Level,
		Log:      log,
	}}, nil
}

// features says what the isolations of this server can do.
func features() map[string]machine.Features {
	return map[string]machine.Features{gvisor.Name: gvisor.New("", slog.New(slog.DiscardHandler)).Info().Features}
}

// needsImage is a launcher that says clearly when there is no image, which
// may come at any time.
type needsImage struct {
	file string
	sandbox.Launcher
}

// Launch implements sandbox.Launcher.
func (n needsImage) Launch(ctx context.Context, spec sandbox.ShimSpec) (sandbox.Shim, error) {
	if !exists(n.file) {
		return nil, errs.New(errs.Unavailable, "IMAGE_MISSING", "the server has no image to boot from: run \"atoll image build\" on its host")
	}
	return n.Launcher.Launch(ctx, spec)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
