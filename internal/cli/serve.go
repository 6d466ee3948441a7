package cli

import (
	"context"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/atollhq/atoll/internal/config"
	"github.com/atollhq/atoll/internal/errs"
	"github.com/atollhq/atoll/internal/obs"
)

// ServeFunc runs the server until ctx ends.
type ServeFunc func(ctx context.Context, settings config.Server, log *slog.Logger) error

func newServe(io IO) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the server",
		Long: `Serve runs the server of this host until SIGINT or SIGTERM. Sandboxes with a
lifetime go on without it and are found again by the next start.

Settings come from flags, ATOLL_* variables and a TOML file, in this order of
precedence; the names in the file are those of the flags with underscores.`,
		Args: args(cobra.NoArgs),
	}
	given := addSettings(cmd.Flags(), &file)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return runServe(cmd.Context(), config.Sources{File: file, Env: lookup(io.Getenv), Flags: given}, io)
	}
	return cmd
}

// addSettings adds the server's settings, and their file, as flags. The map
// holds those that were given.
func addSettings(f *pflag.FlagSet, file *string) (given map[string]string) {
	f.StringVar(file, "config", "", "settings file (default: "+config.DefaultFile+" if it exists)")
	return config.BindFlags(f)
}

func runServe(ctx context.Context, from config.Sources, io IO) error {
	settings, err := config.Load(from)
	if err != nil {
		return errs.Wrap(err, errs.Invalid, "INVALID_SETTINGS", "the settings are wrong:\n%s", indent(err.Error()))
	}
	log, err := obs.NewLogger(io.Err, settings.Log.Level, settings.Log.Format)
	if err != nil {
		return err
	}
	return io.Serve(ctx, settings, log)
}

func indent(s string) string { return "  " + strings.ReplaceAll(s, "\n", "\n  ") }

// lookup treats an empty variable as one that is not set.
func lookup(getenv func(string) string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		v := getenv(name)
		return v, v != ""
	}
}
