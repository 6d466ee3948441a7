package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/atollhq/atoll/client"
)

// defaultTimeout is the lifetime of a sandbox that outlives its command line.
const defaultTimeout = "5m"

// sandboxOptions are the flags that describe a sandbox to create.
type sandboxOptions struct {
	timeout   string
	memory    string
	labels    []string
	env       []string
	copy      []string
	region    string
	isolation string
	network   networkOptions
	idle      idleOptions
}

func (o *sandboxOptions) addFlags(f *pflag.FlagSet, timeout, timeoutHelp string) {
	f.StringVar(&o.timeout, "timeout", timeout, timeoutHelp)
	f.StringVar(&o.memory, "memory", "", `memory, like "2GiB" or "1280MiB"; a bare number is MiB (default: the server's)`)
	f.StringArrayVar(&o.labels, "label", nil, "label as `key=value`; repeatable")
	f.StringArrayVarP(&o.env, "env", "e", nil, "environment as `KEY=value`, or KEY to pass this one's on; repeatable")
	f.StringArrayVar(&o.copy, "copy", nil, "copy a file or directory, by its `path`, into the home directory first; repeatable")
	f.StringVar(&o.region, "region", "", "region (default: the server's)")
	f.StringVar(&o.isolation, "isolation", "", `"auto", "gvisor" or "microvm" (default: the server's)`)
	o.network.addFlags(f)
	o.idle.addFlags(f)
}

// build turns the flags into a request.
func (o *sandboxOptions) build(getenv func(string) string) (client.CreateOptions, error) {
	c := client.CreateOptions{Region: o.region, Isolation: o.isolation, IdlePauseToDisk: o.idle.toDisk}
	var errTimeout, errIdle, errMemory, errLabel, errEnv, errAllow, errSecret error
	c.Timeout, errTimeout = parseTimeout(o.timeout)
	c.IdlePause, errIdle = o.idle.read()
	c.MemoryMiB, errMemory = parseMemory(o.memory)
	c.Labels, errLabel = parsePairs("--label", o.labels, nil)
	c.Env, errEnv = parsePairs("--env", o.env, getenv)
	c.AllowNet, errAllow = allowNet(o.network.allow)
	c.Secrets, errSecret = o.network.read(getenv)
	if err := errors.Join(errTimeout, errIdle, errMemory, errLabel, errEnv, errAllow, errSecret); err != nil {
		return c, &usageError{err}
	}
	return c, nil
}

// parseTimeout reads "session" as 0, or a positive duration.
func parseTimeout(s string) (time.Duration, error) {
	if s == "session" {
		return 0, nil
	}
	return parseDuration("--timeout", s)
}

func parseDuration(what, s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < time.Second {
		return 0, fmt.Errorf("%s: %q is not a duration like 90s, 15m or 1h", what, s)
	}
	return d, nil
}

// parsePairs reads key=value flags. With getenv, a bare key takes its value
// from there.
func parsePairs(flag string, pairs []string, getenv func(string) string) (map[string]string, error) {
	if len(pairs) == 0 {
		return nil, nil
	}
	out := make(map[string]string, len(pairs))
	for _, pair := range pairs {
		key, value, found := strings.Cut(pair, "=")
		if !found && getenv != nil {
			value, found = getenv(key), true
		}
		if !found || key == "" {
			return nil, fmt.Errorf("%s: %q is not of the form key=value", flag, pair)
		}
		out[key] = value
	}
	return out, nil
}

type createOptions struct {
	*global
	sandboxOptions
	cwd   string
	quiet bool
	args  []string
}

func newCreate(g *global, io IO) *cobra.Command {
	o := &createOptions{global: g}
	cmd := &cobra.Command{
		Use:     "create [flags] [-- command [args...]]",
		Aliases: []string{"new"},
		Short:   "Create a sandbox and print its id",
		Long: `Create makes a sandbox that goes on after this command ends, and prints its
id. It lives for --timeout (5 minutes unless told otherwise); "atoll extend"
makes that longer, "atoll kill" ends it.

With a command, create runs it in the new sandbox, exits with its code and
leaves the sandbox; the id then goes to stderr.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.args = args
			return runCreate(cmd.Context(), o, io)
		},
	}
	cmd.Flags().SetInterspersed(false)
	o.sandboxOptions.addFlags(cmd.Flags(), defaultTimeout, `lifetime, like "90s" or "15m"`)
	cmd.Flags().StringVar(&o.cwd, "cwd", "", "working directory of the command")
	cmd.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "print nothing but results and errors")
	return cmd
}

func runCreate(ctx context.Context, o *createOptions, io IO) error {
	if o.timeout == "session" {
		return usage(`--timeout session would end the sandbox with this command; use "atoll run" for that`)
	}
	sb, err := open(ctx, o.global, &o.sandboxOptions, io)
	if err != nil {
		return err
	}
	defer sb.Close()
	if len(o.args) == 0 {
		return printCreated(o, sb, io)
	}
	if !o.quiet {
		fmt.Fprintln(io.Err, sb.ID())
	}
	return runCommand(ctx, sb, command{
		name: o.args[0], args: o.args[1:], cwd: o.cwd, json: o.json,
	}, io)
}

func printCreated(o *createOptions, sb *client.Sandbox, io IO) error {
	if o.json {
		return printJSON(io.Out, map[string]string{"id": sb.ID()})
	}
	_, err := fmt.Fprintln(io.Out, sb.ID())
	return err
}

// open creates a sandbox and copies files into it. When the copying fails the
// sandbox is ended.
func open(ctx context.Context, g *global, o *sandboxOptions, io IO) (*client.Sandbox, error) {
	create, err := o.build(io.Getenv)
	if err != nil {
		return nil, err
	}
	c, err := g.client(io.Getenv)
	if err != nil {
		return nil, err
	}
	sb, err := c.Sandboxes.Create(ctx, create)
	if err != nil {
		return nil, err
	}
	if err := copyInto(ctx, sb, o.copy); err != nil {
		end(sb)
		return nil, err
	}
	return sb, nil
}

// copyInto copies local files into the home directory.
func copyInto(ctx context.Context, sb *client.Sandbox, paths []string) error {
	for _, path := range paths {
		job := copyJob{from: localSource{}, to: &remoteTree{fs: sb.FS}, progress: &progress{}}
		if err := job.copy(ctx, path, joinRemote(".", baseName(path))); err != nil {
			return fmt.Errorf("copy %s into the sandbox: %w", path, err)
		}
	}
	return nil
}

// endTimeout bounds the destruction of a sandbox.
const endTimeout = 15 * time.Second

// end destroys a sandbox, also when its command's context is over.
func end(sb *client.Sandbox) {
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	if sb.Kill(ctx) != nil {
		_ = sb.Close()
	}
}
