package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// versionInfo is what version prints with --json.
type versionInfo struct {
	Version  string `json:"version"`
	Revision string `json:"revision"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func newVersion(g *global, io IO) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  args(cobra.NoArgs),
		RunE:  func(*cobra.Command, []string) error { return runVersion(g, io) },
	}
}

func runVersion(g *global, io IO) error {
	v := versionInfo{
		Version: io.Version, Revision: revision(),
		Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
	if g.json {
		return printJSON(io.Out, v)
	}
	_, err := fmt.Fprintf(io.Out, "atoll %s (revision %s, %s, %s)\n", v.Version, v.Revision, v.Go, v.Platform)
	return err
}

// revision is the commit that the binary was built from.
func revision() string {
	rev, dirty := "unknown", ""
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return rev
	}
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision" && len(s.Value) >= 12:
			rev = s.Value[:12]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "+changes"
		}
	}
	return rev + dirty
}
