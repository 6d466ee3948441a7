package serve

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/atollhq/atoll/internal/config"
	"github.com/atollhq/atoll/internal/errs"
	"github.com/atollhq/atoll/internal/isolation"
	"github.com/atollhq/atoll/internal/machine"
	"github.com/atollhq/atoll/internal/machine/gvisor"
	"github.com/atollhq/atoll/internal/machine/microvm"
	"github.com/atollhq/atoll/internal/sandbox"
	"github.com/atollhq/atoll/internal/shim/launch"
)

// programs are the paths of Atoll's own, which are kept together.
func programs(cfg config.Server) (launch.Binaries, error) {
	dir := cfg.BinDir
	if dir == "" {
		self, err := os.Executable()
		if err != nil {
			return launch.Binaries{}, fmt.Errorf("find the programs: %w", err)
		}
		dir = filepath.Dir(self)
	}
	return launch.Binaries{
		Shim:  filepath.Join(dir, "atoll-shim"),
		Agent: filepath.Join(dir, "atoll-agent"),
		Runsc: filepath.Join(dir, "runsc"),
	}, nil
}

// newLauncher returns the launcher of real shims, after it looked whether all
// that they need is there: better now than at the first sandbox.
func newLauncher(cfg config.Server, bin launch.Binaries, how isolation.Choice, log *slog.Logger) (sandbox.Launcher, error) {
	needed := []string{bin.Shim, bin.Agent}
	if how.Driver == gvisor.Name {
		needed = append(needed, bin.Runsc)
	}
	for _, path := range needed {
		if !exists(path) {
			return nil, errs.New(errs.Precondition, "PROGRAM_MISSING", "%s is missing: build it, or set bin_dir", path)
		}
	}
	image := cfg.ImageFiles()
	files := []string{image.File()}
	l := &launch.Launcher{
		Binaries: bin, QEMU: how.QEMU,
		Data: cfg.Data(),
		// Sandboxes of an earlier server may be of either kind.
		Drivers: map[string]machine.Driver{
			gvisor.Name:  gvisor.New(bin.Runsc, log),
			microvm.Name: microvm.New(microvm.Config{Log: log}),
		},
		LogLevel: cfg.Log.Level,
		Log:      log,
	}
	if how.Driver == microvm.Name {
		files = append(files, image.Kernel(), image.Modules())
		l.Templates = how.Templates
	}
	n := needsImage{files, l}
	if missing := n.missing(); missing != "" {
		log.Warn("the image is missing, no sandbox can start until it is there: run \"atoll image build\"", "image", cfg.Image, "file", missing)
	}
	return n, nil
}

// features says what the isolations of this server can do.
func features() map[string]machine.Features {
	none := slog.New(slog.DiscardHandler)
	return map[string]machine.Features{
		gvisor.Name:  gvisor.New("", none).Info().Features,
		microvm.Name: microvm.New(microvm.Config{Log: none}).Info().Features,
	}
}

// needsImage is a launcher that says clearly when there is no image, which
// may come at any time.
type needsImage struct {
	files []string
	sandbox.Launcher
}

// missing is the first file that is not there.
func (n needsImage) missing() string {
	for _, file := range n.files {
		if !exists(file) {
			return file
		}
	}
	return ""
}

// Launch implements sandbox.Launcher.
func (n needsImage) Launch(ctx context.Context, spec sandbox.ShimSpec) (sandbox.Shim, error) {
	if n.missing() != "" {
		return nil, errs.New(errs.Unavailable, "IMAGE_MISSING", "the server has no image to boot from: run \"atoll image build\" on its host")
	}
	return n.Launcher.Launch(ctx, spec)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
