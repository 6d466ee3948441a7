package cli

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/atollhq/atoll/client"
)

type runOptions struct {
	*global
	sandboxOptions
	cwd     string
	noStdin bool
	quiet   bool
	args    []string
}

func newRun(g *global, io IO) *cobra.Command {
	o := &runOptions{global: g}
	cmd := &cobra.Command{
		Use:   "run [flags] [--] command [args...]",
		Short: "Run one command in a new sandbox and destroy it",
		Long: `Run creates a sandbox, runs one command in it with this one's stdin, stdout
and stderr, and destroys it. SIGINT and SIGTERM are passed on; the third one
kills. It exits with the command's code: see "atoll help exit-codes".

With --json the output is collected, up to 16 MiB of each stream, and printed
as one object with the fields sandboxId, code, signal, oom, stdout, stderr,
truncated.`,
		Example: `  atoll run -- python3 -c 'print(6 * 7)'
  atoll run --memory 2GiB --copy ./src -- bash -c 'cd src && make test'
  tar c . | atoll run -- tar tv`,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.args = args
			return asOwn(runRun(cmd.Context(), o, io))
		},
	}
	cmd.Flags().SetInterspersed(false)
	o.sandboxOptions.addFlags(cmd.Flags(), "session", `longest lifetime, like "90s" or "15m"; "session": until the command ends`)
	cmd.Flags().StringVar(&o.cwd, "cwd", "", "working directory of the command")
	cmd.Flags().BoolVarP(&o.noStdin, "no-stdin", "n", false, "give the command an empty stdin")
	cmd.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "print nothing but the command's output and errors")
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return asOwn(&usageError{err}) })
	return cmd
}

func runRun(ctx context.Context, o *runOptions, io IO) error {
	if len(o.args) == 0 {
		return usage("a command is missing: atoll run -- command [args...]")
	}
	sb, err := open(ctx, o.global, &o.sandboxOptions, io)
	if err != nil {
		return err
	}
	defer end(sb)
	return runCommand(ctx, sb, command{
		name: o.args[0], args: o.args[1:], cwd: o.cwd, noStdin: o.noStdin, json: o.json,
	}, io)
}

type execOptions struct {
	*global
	env     []string
	cwd     string
	noStdin bool
	quiet   bool
	id      string
	args    []string
}

func newExec(g *global, io IO) *cobra.Command {
	o := &execOptions{global: g}
	cmd := &cobra.Command{
		Use:   "exec [flags] <id> [flags] [--] command [args...]",
		Short: "Run a command in a running sandbox",
		Long: `Exec runs a command in a running sandbox, with this one's stdin, stdout and
stderr, and exits with its code. The sandbox goes on. See "atoll run" for
signals and --json.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.take(cmd, args); err != nil {
				return asOwn(err)
			}
			return asOwn(runExec(cmd.Context(), o, io))
		},
	}
	cmd.Flags().SetInterspersed(false)
	cmd.Flags().StringArrayVarP(&o.env, "env", "e", nil, "environment as KEY=value, or KEY to pass this one's on; repeatable")
	cmd.Flags().StringVar(&o.cwd, "cwd", "", "working directory of the command")
	cmd.Flags().BoolVarP(&o.noStdin, "no-stdin", "n", false, "give the command an empty stdin")
	cmd.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "print nothing but the command's output and errors")
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return asOwn(&usageError{err}) })
	return cmd
}

// take reads the id, and flags between it and the command.
func (o *execOptions) take(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return usage("a sandbox id is missing: atoll exec <id> -- command [args...]")
	}
	o.id = args[0]
	if err := cmd.Flags().Parse(args[1:]); err != nil {
		return &usageError{err}
	}
	if o.args = cmd.Flags().Args(); len(o.args) == 0 {
		return usage("a command is missing: atoll exec <id> -- command [args...]")
	}
	return nil
}

func runExec(ctx context.Context, o *execOptions, io IO) error {
	env, err := parsePairs("--env", o.env, io.Getenv)
	if err != nil {
		return &usageError{err}
	}
	c, err := o.client(io.Getenv)
	if err != nil {
		return err
	}
	sb, err := c.Sandboxes.Connect(ctx, o.id)
	if err != nil {
		return err
	}
	defer sb.Close()
	return runCommand(ctx, sb, command{
		name: o.args[0], args: o.args[1:], env: env, cwd: o.cwd, noStdin: o.noStdin, json: o.json,
	}, io)
}

// command is what runs in a sandbox on behalf of this process.
type command struct {
	name    string
	args    []string
	env     map[string]string
	cwd     string
	noStdin bool
	json    bool
}

const (
	// outputIdle is how long output may pause after the command itself ended
	// while something it left behind keeps the stream open.
	outputIdle = 2 * time.Second
	// jsonOutput bounds each collected stream, in bytes.
	jsonOutput = 16 << 20
)

// runCommand runs a command with this process's streams and signals.
func runCommand(ctx context.Context, sb *client.Sandbox, c command, io IO) error {
	// From here on signals belong to the command, not to ctx.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	defer signal.Stop(signals)

	collected := &collected{}
	o := client.SpawnOptions{
		Args: c.args, Env: c.env, Cwd: c.cwd,
		Stdin: io.In, Stdout: io.Out, Stderr: io.Err, WaitDelay: outputIdle,
	}
	if c.noStdin {
		o.Stdin = nil
	}
	if c.json {
		o.Stdout, o.Stderr = &collected.stdout, &collected.stderr
	}
	p, err := sb.Spawn(ctx, c.name, o)
	if err != nil {
		return spawnError(c.name, err)
	}
	done := make(chan struct{})
	defer close(done)
	wait, abandon := context.WithCancel(context.WithoutCancel(ctx))
	defer abandon()
	go passSignals(p, signals, done, abandon)
	status, err := p.Wait(wait)
	if wait.Err() != nil && errors.Is(err, context.Canceled) {
		return asOwn(errUnanswered)
	}
	if err != nil {
		return asOwn(endOf(err))
	}
	if c.json {
		if err := printJSON(io.Out, collected.result(sb.ID(), status)); err != nil {
			return asOwn(err)
		}
	}
	return statusError(status)
}

// signalTimeout is how long a sandbox may take to accept a signal.
const signalTimeout = 5 * time.Second

var errUnanswered = errors.New("the sandbox did not take the signal: its command was given up")

// passSignals ends with done. A sandbox that doesn't take a signal is given
// up: what runs in there must not decide whether this process can be ended.
func passSignals(p killer, signals <-chan os.Signal, done <-chan struct{}, abandon func()) {
	for count := 1; ; count++ {
		name := ""
		select {
		case <-done:
			return
		case sig := <-signals:
			name = map[os.Signal]string{syscall.SIGINT: "SIGINT", syscall.SIGTERM: "SIGTERM"}[sig]
		}
		if count >= 3 {
			name = "SIGKILL"
		}
		ctx, cancel := context.WithTimeout(context.Background(), signalTimeout)
		if err := p.Kill(ctx, name); errors.Is(err, context.DeadlineExceeded) {
			abandon()
		}
		cancel()
	}
}

// killer is the process that gets the signals.
type killer interface {
	Kill(ctx context.Context, signal string) error
}

// endOf explains why a sandbox left its command.
func endOf(err error) error {
	closed, ok := errors.AsType[*client.CloseError](err)
	if !ok {
		return err
	}
	switch closed.Reason { // the texts are those of docs/protocol.md
	case "sandbox timeout":
		return withHint(errors.New("the sandbox reached the end of its lifetime"), `ask for more with --timeout or "atoll extend"`)
	case "sandbox out of memory":
		return withHint(errors.New("the sandbox ran out of memory"), "give it more with --memory")
	case "sandbox killed":
		return errors.New("the sandbox was killed")
	case "sandbox paused":
		return withHint(errors.New("the sandbox was paused to disk; its command stands still, too"),
			`any connection resumes it, but not the command's streams`)
	case "sandbox paused too long":
		return errors.New("the sandbox was paused for longer than the server lets it, and has stopped")
	case "server restarting":
		return withHint(errors.New("the server stopped; the sandbox goes on without it"),
			`"atoll list" shows it once the server is back, unless it was one of "atoll run"`)
	}
	return err
}

// collected keeps the output of a command for --json.
type collected struct{ stdout, stderr limitedBuffer }

// commandResult is what run and exec print with --json.
type commandResult struct {
	SandboxID string `json:"sandboxId"`
	Code      int    `json:"code"`
	Signal    string `json:"signal"`
	OOM       bool   `json:"oom"`
	Stdout    string `json:"stdout"`
	Stderr    string `json:"stderr"`
	Truncated bool   `json:"truncated"`
}

func (c *collected) result(id string, s client.Status) commandResult {
	return commandResult{
		SandboxID: id, Code: s.Code, Signal: s.Signal, OOM: s.OOM,
		Stdout: c.stdout.String(), Stderr: c.stderr.String(), Truncated: c.stdout.cut || c.stderr.cut,
	}
}

// limitedBuffer keeps the first jsonOutput bytes and swallows the rest.
type limitedBuffer struct {
	buf bytes.Buffer
	cut bool
}

func (b *limitedBuffer) String() string { return b.buf.String() }

func (b *limitedBuffer) Write(p []byte) (int, error) {
	keep := min(len(p), jsonOutput-b.buf.Len())
	b.cut = b.cut || keep < len(p)
	b.buf.Write(p[:keep])
	return len(p), nil
}
