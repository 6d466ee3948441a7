package cli

import (
	"context"
	"fmt"
	stdio "io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/atollhq/atoll/api"
)

func newPolicy(g *global, io IO) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Show and replace what a running sandbox may reach",
		Long: `Policy shows and replaces what a running sandbox may reach.

An entry is example.com, *.example.com (any depth, not example.com itself), an
address or a range, each with an optional :port. Private addresses and those
of the server's host are refused whatever a list says.

With --json it prints an object with the fields allow_net (null for no list),
ceiling, strict and secrets.`,
	}
	needsVerb(cmd)
	cmd.AddCommand(newPolicyGet(g, io), newPolicySet(g, io))
	return cmd
}

func newPolicyGet(g *global, io IO) *cobra.Command {
	return &cobra.Command{
		Use:   "get <id>",
		Short: "Show what a sandbox may reach",
		Args:  args(cobra.ExactArgs(1)),
		RunE:  func(cmd *cobra.Command, a []string) error { return runPolicyGet(cmd.Context(), g, a[0], io) },
	}
}

func runPolicyGet(ctx context.Context, g *global, id string, io IO) error {
	c, err := g.client(io.Getenv)
	if err != nil {
		return err
	}
	p, err := c.Sandboxes.Network(ctx, id)
	if err != nil {
		return err
	}
	return printPolicy(p, g.json, io)
}

type policySetOptions struct {
	*global
	id    string
	allow []string
	file  string
	all   bool
}

func newPolicySet(g *global, io IO) *cobra.Command {
	o := &policySetOptions{global: g}
	cmd := &cobra.Command{
		Use:   "set <id>",
		Short: "Replace what a sandbox may reach",
		Long: `Set replaces the list of what a running sandbox may reach, and shows the
result. It holds from then on: connections that are no longer allowed are cut.

The list comes from --allow-net, as in "atoll create", and from --file, which
has one entry per line; empty lines and those that begin with # don't count.
To allow nothing say --allow-net none, to have no list --allow-all.`,
		Example: `  atoll policy set sbx_ord_0123456789abcdefghjk --allow-net example.com --allow-net '*.example.org:443'
  atoll policy set sbx_ord_0123456789abcdefghjk --file hosts.txt
  atoll policy set sbx_ord_0123456789abcdefghjk --allow-net none`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			o.id = a[0]
			return runPolicySet(cmd.Context(), o, io)
		},
	}
	addAllowNet(cmd.Flags(), &o.allow)
	cmd.Flags().StringVar(&o.file, "file", "", `read entries from a file; "-" is stdin`)
	cmd.Flags().BoolVar(&o.all, "allow-all", false, "no list: everything that is not always refused")
	return cmd
}

func runPolicySet(ctx context.Context, o *policySetOptions, io IO) error {
	allow, err := o.list(io.In)
	if err != nil {
		return err
	}
	c, err := o.client(io.Getenv)
	if err != nil {
		return err
	}
	p, err := c.Sandboxes.SetNetwork(ctx, o.id, allow)
	if err != nil {
		return err
	}
	return printPolicy(p, o.json, io)
}

// list is what the flags ask for; nil is no list.
func (o *policySetOptions) list(stdin stdio.Reader) (*[]string, error) {
	given := len(o.allow) > 0 || o.file != ""
	switch {
	case given == o.all:
		return nil, usage("say what is allowed: --allow-net or --file, or else --allow-all")
	case o.all:
		return nil, nil
	}
	entries := o.allow
	if o.file != "" {
		more, err := readList(o.file, stdin)
		if err != nil {
			return nil, fmt.Errorf("read list: %w", err)
		}
		if entries = append(entries, more...); len(entries) == 0 {
			return nil, usage("the list is empty: to allow nothing say --allow-net none")
		}
	}
	list, err := allowNet(entries)
	if err != nil {
		return nil, &usageError{err}
	}
	return list, nil
}

const maxListFile = 1 << 20 // bytes

func readList(path string, stdin stdio.Reader) (list []string, err error) {
	in := stdin
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		in = file
	}
	text, err := readBounded(in, maxListFile)
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			list = append(list, line)
		}
	}
	return list, err
}

// readBounded reads everything, if that is not too much.
func readBounded(in stdio.Reader, most int64) (string, error) {
	text, err := stdio.ReadAll(stdio.LimitReader(in, most+1))
	if err == nil && int64(len(text)) > most {
		err = fmt.Errorf("it is larger than %d KiB", most>>10)
	}
	return string(text), err
}

func printPolicy(p *api.NetworkPolicy, asJSON bool, io IO) error {
	if asJSON {
		return printJSON(io.Out, p)
	}
	w := tabwriter.NewWriter(io.Out, 0, 8, 2, ' ', 0)
	switch {
	case p.AllowNet == nil && len(p.Ceiling) > 0:
		fmt.Fprintln(w, "allow\t(everything within the ceiling)")
	case p.AllowNet == nil:
		fmt.Fprintln(w, "allow\t(everything that is not always refused)")
	case len(*p.AllowNet) == 0:
		fmt.Fprintln(w, "allow\t(nothing)")
	default:
		printEach(w, "allow", *p.AllowNet)
	}
	printEach(w, "ceiling", p.Ceiling)
	if p.Strict {
		fmt.Fprintln(w, "strict\t(TLS is opened for every host)")
	}
	for _, s := range p.Secrets {
		fmt.Fprintf(w, "secret\t%s for %s\n", cell(s.Name), cell(strings.Join(s.Hosts, ", ")))
	}
	return w.Flush()
}

func printEach(w stdio.Writer, what string, entries []string) {
	for _, e := range entries {
		fmt.Fprintf(w, "%s\t%s\n", what, cell(e))
	}
}
