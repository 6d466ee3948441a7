// Package cli is the atoll command: what the words and flags of the command
// line mean. It exists so that cmd/atoll is only wiring and the commands can
// be tested as stories against an in-memory server.
//
// Each command has a constructor, which declares its flags into an options
// struct, and a run function of (ctx, options, IO) that holds the logic.
// There are no package variables. Results go to IO.Out, everything else to
// IO.Err. Everything that concerns sandboxes goes through package client.
//
// A command runs in one goroutine unless it says otherwise; IO.Out and IO.Err
// are written by one goroutine at a time, except by run and exec, whose two
// output streams are copied side by side.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// IO is the world of a command.
type IO struct {
	In       io.Reader
	Out      io.Writer // results
	Err      io.Writer // all else
	Getenv   func(string) string
	Terminal bool   // Err is a terminal: progress may be drawn
	Version  string // of this build

	// Serve is the server itself, which this package does not know. Without
	// it there is no serve command.
	Serve ServeFunc
}

// Main runs the command line and returns the exit code. ctx ends when the
// process is asked to stop.
func Main(ctx context.Context, args []string, io IO) int {
	g := &global{}
	root := newRoot(g, io)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	return report(err, g.json, io)
}

// newRoot assembles the commands.
func newRoot(g *global, io IO) *cobra.Command {
	root := &cobra.Command{
		Use:   "atoll",
		Short: "Run untrusted code in isolated Linux sandboxes",
		Long: `Atoll runs untrusted code in isolated Linux sandboxes.

Start a server with "atoll serve", then try "atoll run -- echo hello".
Commands find the server by --endpoint and --token, by ATOLL_ENDPOINT and
ATOLL_TOKEN, by the DENO_* variables that the SDKs use, or else in the data
directory of a server on this host.`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	needsVerb(root)
	root.SetOut(io.Out)
	root.SetErr(io.Err)
	root.SetIn(io.In)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	g.addFlags(root.PersistentFlags())
	root.AddCommand(
		newRun(g, io), newCreate(g, io), newList(g, io), newExec(g, io), newCopy(g, io),
		newKill(g, io), newExtend(g, io), newPause(g, io), newResume(g, io), newIdle(g, io), newFork(g, io), newPolicy(g, io), newAudit(g, io), newEnv(g, io), newToken(g, io), newImage(g, io), newTemplate(g, io), newDoctor(g, io), newVersion(g, io),
		newExitCodesTopic(),
	)
	if io.Serve != nil {
		root.AddCommand(newServe(io))
	}
	return root
}

// needsVerb makes a command explain itself when it is called on its own.
func needsVerb(cmd *cobra.Command) {
	cmd.Args = cobra.ArbitraryArgs
	cmd.SuggestionsMinimumDistance = 2
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknownCommand(cmd, args[0])
		}
		return cmd.Help()
	}
}

func unknownCommand(parent *cobra.Command, name string) error {
	text := fmt.Sprintf("unknown command %q", strings.TrimPrefix(parent.CommandPath()+" "+name, parent.Root().Name()+" "))
	if near := parent.SuggestionsFor(name); len(near) > 0 {
		text += "; did you mean " + strings.Join(near, " or ") + "?"
	}
	return usage(text)
}

// usageError is a command line that cannot be understood.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usage(text string) error { return &usageError{errors.New(text)} }

// args checks positional arguments with a cobra rule, as a usage error.
func args(rule cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, given []string) error {
		if err := rule(cmd, given); err != nil {
			return &usageError{fmt.Errorf("%w: write %s", err, cmd.UseLine())}
		}
		return nil
	}
}
