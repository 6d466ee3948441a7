package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/atollhq/atoll/client"
	"github.com/atollhq/atoll/internal/cli/doctor"
)

// doctorReport is what doctor prints with --json.
type doctorReport struct {
	OK     bool           `json:"ok"`
	Checks []doctor.Check `json:"checks"`
}

type doctorOptions struct {
	*global
	imageDir string
}

func newDoctor(g *global, io IO) *cobra.Command {
	o := &doctorOptions{global: g}
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what this host can and cannot do, and how to mend it",
		Long: `Doctor looks at this host and changes nothing. It exits with 1 when something
is found without which no sandbox can run. With --json it prints an object
with the fields ok and checks (name, status, detail, remedy).`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return runDoctor(cmd.Context(), o, io) },
	}
	cmd.Flags().StringVar(&o.imageDir, "image-dir", "", "directory of images (default: the server's)")
	return cmd
}

func runDoctor(ctx context.Context, o *doctorOptions, io IO) error {
	settings, wrong := o.settings(io.Getenv)
	if o.imageDir != "" {
		settings.ImageDir = o.imageDir
	}
	checks := doctor.Run(ctx, doctor.Host{
		Root:    "/",
		Data:    settings.Data(),
		Image:   settings.ImageFiles(),
		Listen:  settings.Listen,
		Network: settings.Network,
		UID:     os.Geteuid(),
		BinDirs: binDirs(settings.BinDir),

		Settings: wrong,
		Ping:     func(ctx context.Context) error { return ping(ctx, o.global, io) },
	})
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

func ping(ctx context.Context, g *global, io IO) error {
	c, err := g.client(io.Getenv)
	if err != nil {
		return err
	}
	_, err = c.Sandboxes.List(ctx, client.ListOptions{})
	return err
}
