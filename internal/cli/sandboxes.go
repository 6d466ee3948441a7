package cli

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/client"
)

type listOptions struct {
	*global
	labels []string
	all    bool
	quiet  bool
}

func newList(g *global, io IO) *cobra.Command {
	o := &listOptions{global: g}
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls", "ps"},
		Short:   "List sandboxes",
		Long: `List shows the running sandboxes, with --all also those that stopped lately.
The status of one that is paused, in memory ("paused") or on disk ("suspended"),
says for how long it has been. With --json it prints an array of objects with
the fields id, createdAt, stoppedAt, region, status, labels, memoryMiB,
isolation, timeout, stopAt, stopReason, power, pausedAt, remainingMs, idlePause,
idlePauseToDisk and forkedFrom; of the last six, those without a value are
absent.`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return runList(cmd.Context(), o, io) },
	}
	cmd.Flags().StringArrayVar(&o.labels, "label", nil, "only those with this key=value; repeatable")
	cmd.Flags().BoolVarP(&o.all, "all", "a", false, "also those that stopped lately")
	cmd.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "print ids only")
	return cmd
}

func runList(ctx context.Context, o *listOptions, io IO) error {
	labels, err := parsePairs("--label", o.labels, nil)
	if err != nil {
		return &usageError{err}
	}
	c, err := o.client(io.Getenv)
	if err != nil {
		return err
	}
	list, err := c.Sandboxes.List(ctx, client.ListOptions{Labels: labels})
	if err != nil {
		return err
	}
	if !o.all {
		list = slices.DeleteFunc(list, func(s api.Sandbox) bool { return s.Status != api.StatusRunning })
	}
	switch {
	case o.json:
		return printJSON(io.Out, append([]api.Sandbox{}, list...))
	case o.quiet:
		for _, s := range list {
			fmt.Fprintln(io.Out, s.ID)
		}
		return nil
	}
	return printTable(list, io, time.Now())
}

func printTable(list []api.Sandbox, io IO, now time.Time) error {
	w := tabwriter.NewWriter(io.Out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tSTATUS\tAGE\tENDS\tMEMORY\tISOLATION\tLABELS")
	for _, s := range list {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d MiB\t%s\t%s\n",
			s.ID, statusText(s, now), age(now.Sub(s.CreatedAt.Time)), endsText(s, now),
			s.MemoryMiB, cmp.Or(s.Isolation, "-"), labelsText(s.Labels))
	}
	return w.Flush()
}

func statusText(s api.Sandbox, now time.Time) string {
	switch {
	case s.StopReason != "":
		return s.Status + " (" + s.StopReason + ")"
	case s.PausedAt != nil:
		return s.Power + " " + age(now.Sub(s.PausedAt.Time))
	case s.Status == api.StatusRunning:
		return cmp.Or(s.Power, s.Status)
	}
	return s.Status
}

func endsText(s api.Sandbox, now time.Time) string {
	switch {
	case s.StoppedAt != nil:
		return age(now.Sub(s.StoppedAt.Time)) + " ago"
	case s.RemainingMS != nil:
		return age(time.Duration(*s.RemainingMS)*time.Millisecond) + " left"
	case s.StopAt != nil:
		return "in " + age(s.StopAt.Sub(now))
	}
	return "session"
}

// age prints the largest unit only.
func age(d time.Duration) string {
	d = max(d, 0)
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dd", d/(24*time.Hour))
}

func labelsText(labels map[string]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		out = append(out, k+"="+labels[k])
	}
	return cmp.Or(strings.Join(out, ","), "-")
}

type killOptions struct {
	*global
	ids []string
}

func newKill(g *global, io IO) *cobra.Command {
	o := &killOptions{global: g}
	return &cobra.Command{
		Use:     "kill <id>...",
		Aliases: []string{"remove", "rm"},
		Short:   "End sandboxes at once",
		Long: `Kill ends sandboxes at once and prints the ids of those it ended. When one
fails it goes on with the others and fails at the end.`,
		Args: args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, ids []string) error {
			o.ids = ids
			return runKill(cmd.Context(), o, io)
		},
	}
}

func runKill(ctx context.Context, o *killOptions, io IO) error {
	c, err := o.client(io.Getenv)
	if err != nil {
		return err
	}
	killed := []string{}
	var failed error
	for _, id := range o.ids {
		if err := c.Sandboxes.Kill(ctx, id); err != nil {
			if failed != nil {
				report(failed, o.json, io)
			}
			failed = err
			continue
		}
		killed = append(killed, id)
	}
	if o.json {
		if err := printJSON(io.Out, map[string][]string{"killed": killed}); err != nil {
			return err
		}
		return failed
	}
	for _, id := range killed {
		fmt.Fprintln(io.Out, id)
	}
	return failed
}

type extendOptions struct {
	*global
	id, by string
}

func newExtend(g *global, io IO) *cobra.Command {
	o := &extendOptions{global: g}
	return &cobra.Command{
		Use:   "extend <id> <duration>",
		Short: "Let a sandbox live longer",
		Long: `Extend lets a sandbox live until the given duration from now, at most 30
minutes longer than it would have, and prints when it will end. Sandboxes with
a session lifetime cannot be extended.`,
		Args: args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, a []string) error {
			o.id, o.by = a[0], a[1]
			return runExtend(cmd.Context(), o, io)
		},
	}
}

func runExtend(ctx context.Context, o *extendOptions, io IO) error {
	d, err := parseDuration("duration", o.by)
	if err != nil {
		return &usageError{err}
	}
	c, err := o.client(io.Getenv)
	if err != nil {
		return err
	}
	until, err := c.Sandboxes.Extend(ctx, o.id, d)
	if err != nil {
		return err
	}
	if o.json {
		return printJSON(io.Out, map[string]any{"id": o.id, "stopAt": api.Date{Time: until}})
	}
	_, err = fmt.Fprintln(io.Out, until.Format(time.RFC3339))
	return err
}
