package cli

import (
	"errors"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/atollhq/atoll/internal/errs"
	"github.com/atollhq/atoll/internal/machine/microvm"
)

func newTemplate(g *global, io IO) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "template",
		Short: "List and remove the templates that microVMs start from",
		Long: `A template is a microVM that was saved when its kernel had booted, one for each
size of sandboxes. The server makes it when the first sandbox of a size is
created, and again after an upgrade. Template works on the data directory of
the server on this host, whether or not that runs.`,
	}
	needsVerb(cmd)
	cmd.AddCommand(newTemplateList(g, io), newTemplatePrune(g, io))
	return cmd
}

func templateDir(g *global, io IO) string { return g.server(io.Getenv).Data().Templates() }

// templates lists what is in a directory; the error names damaged ones.
func templates(dir string) ([]microvm.Template, error) {
	found, err := microvm.ListTemplates(dir)
	if errors.Is(err, os.ErrPermission) {
		err = errs.Wrap(err, errs.Denied, "NO_ACCESS", "%s is not readable for you: use sudo, or be the user that the server runs as", dir)
	}
	return found, err
}

func newTemplateList(g *global, io IO) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List templates",
		Args:    args(cobra.NoArgs),
		RunE:    func(*cobra.Command, []string) error { return runTemplateList(g, io) },
	}
}

// runTemplateList shows the good templates and fails if there are damaged
// ones.
func runTemplateList(g *global, io IO) error {
	found, damaged := templates(templateDir(g, io))
	if g.json {
		if found == nil {
			found = []microvm.Template{}
		}
		return errors.Join(damaged, printJSON(io.Out, found))
	}
	w := tabwriter.NewWriter(io.Out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "KEY\tMEMORY\tCPUS\tACCELERATION\tSIZE\tAGE")
	for _, t := range found {
		fmt.Fprintf(w, "%s\t%d MiB\t%d\t%s\t%s\t%s\n", t.Key, t.MemoryBytes>>20, t.CPUs, t.Accel, size(float64(t.Bytes)), age(time.Since(t.Created)))
	}
	return errors.Join(damaged, w.Flush())
}

type templatePruneOptions struct {
	*global
	all   bool
	older time.Duration
}

func newTemplatePrune(g *global, io IO) *cobra.Command {
	o := &templatePruneOptions{global: g}
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Remove templates from disk",
		Long: `Prune removes templates of the given age, of which most are left from before
an upgrade, and prints their keys. It can't tell those that the server still
uses: removed, they are made again when they are needed, which takes as long
as a boot. Sandboxes that run don't need them.`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.all && cmd.Flags().Changed("older-than") {
				return usage("give either --all or --older-than")
			}
			return runTemplatePrune(o, io)
		},
	}
	cmd.Flags().DurationVar(&o.older, "older-than", 7*24*time.Hour, "least age of those that are removed")
	cmd.Flags().BoolVar(&o.all, "all", false, "remove all, whatever their age, damaged ones included")
	return cmd
}

func runTemplatePrune(o *templatePruneOptions, io IO) error {
	dir := templateDir(o.global, io)
	keys, err := o.doomed(dir)
	if err != nil {
		return err
	}
	for _, key := range keys {
		if err := microvm.RemoveTemplate(dir, key); err != nil {
			return err
		}
		if !o.json {
			fmt.Fprintln(io.Out, key)
		}
	}
	if o.json {
		return printJSON(io.Out, keys)
	}
	return nil
}

// doomed are the keys of the templates to remove.
func (o *templatePruneOptions) doomed(dir string) ([]string, error) {
	keys := []string{}
	if o.all {
		return allKeys(dir)
	}
	found, err := templates(dir)
	for _, t := range found {
		if time.Since(t.Created) >= o.older {
			keys = append(keys, t.Key)
		}
	}
	return keys, err
}

// allKeys are those of damaged templates, too; what the server is just making
// is no template yet.
func allKeys(dir string) ([]string, error) {
	keys := []string{}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return keys, nil
	}
	for _, e := range entries {
		if e.IsDir() && e.Name()[0] != '.' {
			keys = append(keys, e.Name())
		}
	}
	return keys, err
}
