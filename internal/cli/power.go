package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/client"
)

type pauseOptions struct {
	*global
	id     string
	toDisk bool
}

func newPause(g *global, io IO) *cobra.Command {
	o := &pauseOptions{global: g}
	cmd := &cobra.Command{
		Use:   "pause <id>",
		Short: "Let a sandbox stand still",
		Long: `Pause lets a sandbox stand still, with all its processes, and prints "paused".
Its connections stay open and its memory stays taken. With --to-disk the memory
is written to disk and given back, connections end, and it prints "suspended".

The next call on an open connection, "atoll exec" or any other new connection
resumes it. Meanwhile its lifetime stands still, too.

With --json it prints an object with the fields power, bytes (written to disk)
and stood_still_ms.`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			o.id = a[0]
			return runPause(cmd.Context(), o, io)
		},
	}
	cmd.Flags().BoolVar(&o.toDisk, "to-disk", false, "give its memory back, too; ends its connections")
	return cmd
}

func runPause(ctx context.Context, o *pauseOptions, io IO) error {
	c, err := o.client(io.Getenv)
	if err != nil {
		return err
	}
	result, err := c.Sandboxes.Pause(ctx, o.id, o.toDisk)
	if err != nil {
		return err
	}
	if o.json {
		return printJSON(io.Out, result)
	}
	_, err = fmt.Fprintln(io.Out, result.Power)
	return err
}

func newResume(g *global, io IO) *cobra.Command {
	return &cobra.Command{
		Use:   "resume <id>",
		Short: "Let a paused sandbox go on",
		Long: `Resume lets a paused sandbox go on and prints "running" when it does. It is no
error if it did. With --json it prints the sandbox as "atoll list" does.`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error { return runResume(cmd.Context(), g, a[0], io) },
	}
}

func runResume(ctx context.Context, g *global, id string, io IO) error {
	c, err := g.client(io.Getenv)
	if err != nil {
		return err
	}
	sb, err := c.Sandboxes.Resume(ctx, id)
	if err != nil {
		return err
	}
	if g.json {
		return printJSON(io.Out, sb)
	}
	_, err = fmt.Fprintln(io.Out, sb.Power)
	return err
}

type forkOptions struct {
	*global
	id      string
	count   int
	labels  []string
	timeout string
}

func newFork(g *global, io IO) *cobra.Command {
	o := &forkOptions{global: g}
	cmd := &cobra.Command{
		Use:   "fork <id>",
		Short: "Make sandboxes that continue from where one stands",
		Long: `Fork makes sandboxes that continue from where one stands, with its memory,
processes and files, and prints their ids. The sandbox itself goes on. All
children are made or none.

A child lives as long as is left of its parent's lifetime, unless --timeout says
otherwise, and has its parent's labels, unless --label does. One with the
lifetime "session" ends soon if nobody connects to it.

With --json it prints an array of sandboxes as "atoll list" does.`,
		Example: `  atoll fork -n 4 sbx_ord_0123456789abcdefghjk --timeout 10m --label try=1`,
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			o.id = a[0]
			return runFork(cmd.Context(), o, io)
		},
	}
	cmd.Flags().IntVarP(&o.count, "count", "n", 1, "number of children")
	cmd.Flags().StringArrayVar(&o.labels, "label", nil, "label as `key=value`, in place of the parent's; repeatable")
	cmd.Flags().StringVar(&o.timeout, "timeout", "", `lifetime, like "90s" or "15m", or "session" (default: what is left of the parent's)`)
	return cmd
}

func (o *forkOptions) build() (client.ForkOptions, error) {
	f := client.ForkOptions{Count: o.count, Session: o.timeout == "session"}
	var errTimeout, errLabel, errCount error
	if o.timeout != "" {
		f.Timeout, errTimeout = parseTimeout(o.timeout)
	}
	if o.count < 1 {
		errCount = fmt.Errorf("--count: there must be at least one child")
	}
	f.Labels, errLabel = parsePairs("--label", o.labels, nil)
	if err := errors.Join(errTimeout, errLabel, errCount); err != nil {
		return f, &usageError{err}
	}
	return f, nil
}

func runFork(ctx context.Context, o *forkOptions, io IO) error {
	fork, err := o.build()
	if err != nil {
		return err
	}
	c, err := o.client(io.Getenv)
	if err != nil {
		return err
	}
	children, err := c.Sandboxes.Fork(ctx, o.id, fork)
	if err != nil {
		return err
	}
	if o.json {
		return printJSON(io.Out, append([]api.Sandbox{}, children...))
	}
	for _, child := range children {
		fmt.Fprintln(io.Out, child.ID)
	}
	return nil
}

// idleOptions are the flags of an idle policy.
type idleOptions struct {
	after  string
	toDisk bool
}

func (o *idleOptions) addFlags(f *pflag.FlagSet) {
	f.StringVar(&o.after, "idle-pause", "", `pause it after so long without activity, like "10m"; it goes on by itself (default: never)`)
	f.BoolVar(&o.toDisk, "idle-to-disk", false, "with --idle-pause, pause it to disk")
}

func (o *idleOptions) read() (time.Duration, error) {
	if o.after == "" {
		if o.toDisk {
			return 0, fmt.Errorf("--idle-to-disk: say after how long, with --idle-pause")
		}
		return 0, nil
	}
	return parseIdle("--idle-pause", o.after)
}

// parseIdle checks the range, too, because the server names its own field.
func parseIdle(what, s string) (time.Duration, error) {
	d, err := parseDuration(what, s)
	if err == nil && (d < api.MinIdlePause || d > api.MaxIdlePause) {
		err = fmt.Errorf("%s: %q must lie between %s and %s", what, s, age(api.MinIdlePause), age(api.MaxIdlePause))
	}
	return d, err
}

type setIdleOptions struct {
	*global
	id, after string
	toDisk    bool
}

func newIdle(g *global, io IO) *cobra.Command {
	o := &setIdleOptions{global: g}
	cmd := &cobra.Command{
		Use:   "idle <id> <duration|never>",
		Short: "Have a sandbox paused when nothing happens",
		Long: `Idle has a sandbox paused when for the given duration nothing went between it
and its clients and it used next to no CPU. Like any paused sandbox it goes on
when it is needed. Between 10s and 24h; "never" takes the policy away.`,
		Args: args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, a []string) error {
			o.id, o.after = a[0], a[1]
			return runIdle(cmd.Context(), o, io)
		},
	}
	cmd.Flags().BoolVar(&o.toDisk, "to-disk", false, "pause it to disk; ends its connections")
	return cmd
}

func runIdle(ctx context.Context, o *setIdleOptions, io IO) error {
	after := time.Duration(0)
	if o.after != "never" {
		var err error
		if after, err = parseIdle("duration", o.after); err != nil {
			return &usageError{err}
		}
	}
	c, err := o.client(io.Getenv)
	if err != nil {
		return err
	}
	return c.Sandboxes.SetIdlePause(ctx, o.id, after, o.toDisk)
}
