package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/atollhq/atoll/client"
	"github.com/atollhq/atoll/internal/cli/doctor"
	"github.com/atollhq/atoll/internal/config"
	"github.com/atollhq/atoll/internal/isolation"
)

// doctorReport is what doctor prints with --json.
type doctorReport struct {
	OK     bool           `json:"ok"`
	Checks []doctor.Check `json:"checks"`
}

type doctorOptions struct {
	*global
	file  string            // of settings
	flags map[string]string // of serve
	trial bool
}

func newDoctor(g *global, io IO) *cobra.Command {
	o := &doctorOptions{global: g}
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what this host can and cannot do, and how to mend it",
		Long: `Doctor looks at this host and changes nothing. It exits with 1 when something
is found without which no sandbox can run. It reads the settings that "atoll
serve" would read; if the server gets some as flags, give it the same ones.

With --trial it also boots a microVM, which takes about a second, without KVM
many, and removes it again. With --json it prints an object with the fields ok
and checks (name, status, detail, remedy).`,
		Example: `  atoll doctor --image-dir /srv/images --isolation microvm --trial`,
		Args:    args(cobra.NoArgs),
		RunE:    func(cmd *cobra.Command, _ []string) error { return runDoctor(cmd.Context(), o, io) },
	}
	o.flags = addSettings(cmd.Flags(), &o.file)
	cmd.Flags().BoolVar(&o.trial, "trial", false, "boot a microVM, too")
	return cmd
}

func runDoctor(ctx context.Context, o *doctorOptions, io IO) error {
	settings, wrong := readSettings(config.Sources{File: o.file, Env: lookup(io.Getenv), Flags: o.flags})
	o.dataDir = settings.DataDir // where the server's address is
	host := doctor.Host{
		Root:      "/",
		Data:      settings.Data(),
		Image:     settings.ImageFiles(),
		Listen:    settings.Listen,
		Isolation: settings.Isolation,
		Network:   settings.Network,
		UID:       os.Geteuid(),
		BinDirs:   binDirs(settings.BinDir),

		Settings: wrong,
		Ping:     func(ctx context.Context) error { return ping(ctx, o.global, io) },
		Examine:  func(ctx context.Context) isolation.Host { return isolation.Examine(ctx, settings) },
	}
	if o.trial {
		host.Try = func(ctx context.Context) (time.Duration, error) { return trial(ctx, settings) }
	}
	checks := doctor.Run(ctx, host)
	healthy := doctor.Healthy(checks)
	if o.json {
		if err := printJSON(io.Out, doctorReport{healthy, checks}); err != nil {
			return err
		}
	} else {
		printChecks(checks, io)
	}
	if !healthy {
		return &exitError{code: exitFailure}
	}
	return nil
}

func printChecks(checks []doctor.Check, io IO) {
	for _, c := range checks {
		fmt.Fprintf(io.Out, "%-4s  %-14s  %s\n", c.Status, c.Name, c.Detail)
		if c.Remedy != "" {
			fmt.Fprintf(io.Out, "      %-14s  → %s\n", "", c.Remedy)
		}
	}
}

// binDirs is where the server looks for its programs: where it was told, or
// beside this one.
func binDirs(configured string) []string {
	if configured != "" {
		return []string{configured}
	}
	exe, err := os.Executable()
	if err != nil {
		return nil
	}
	if real, err := filepath.EvalSymlinks(exe); err == nil {
		exe = real
	}
	return []string{filepath.Dir(exe)}
}

// trial boots a microVM with the programs that a server would use.
func trial(ctx context.Context, settings config.Server) (time.Duration, error) {
	dirs := binDirs(settings.BinDir)
	if len(dirs) == 0 {
		return 0, errors.New("the programs are not found")
	}
	return isolation.Try(ctx, settings, isolation.Programs{
		Shim: filepath.Join(dirs[0], "atoll-shim"), Agent: filepath.Join(dirs[0], "atoll-agent"),
	})
}

func ping(ctx context.Context, g *global, io IO) error {
	c, err := g.client(io.Getenv)
	if err != nil {
		return err
	}
	_, err = c.Sandboxes.List(ctx, client.ListOptions{})
	return err
}
