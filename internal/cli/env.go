package cli

import (
	"fmt"
	"path"
	"strings"

	"github.com/spf13/cobra"
)

type envOptions struct {
	*global
	shell string
}

func newEnv(g *global, io IO) *cobra.Command {
	o := &envOptions{global: g}
	cmd := &cobra.Command{
		Use:   "env",
		Short: "Print the variables that point the SDKs at this server",
		Long: `Env prints the three variables that point the official SDKs at the server on
this host, read from its data directory. Use it as

    eval "$(atoll env)"

The output holds the server's token: keep it to yourself.`,
		Args: args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error { return runEnv(o, io) },
	}
	cmd.Flags().StringVar(&o.shell, "shell", "", `"sh" or "fish" (default: by SHELL)`)
	return cmd
}

func runEnv(o *envOptions, io IO) error {
	a := access{o.endpoint, o.token}
	if a.endpoint == "" || a.token == "" {
		local, err := o.local(io.Getenv, "")
		if err != nil {
			return err
		}
		if a.token = local.token; a.endpoint == "" {
			a.endpoint = local.endpoint
		}
	}
	vars := [][2]string{
		{"DENO_DEPLOY_TOKEN", a.token},
		{"DENO_SANDBOX_ENDPOINT", a.endpoint},
		{"DENO_DEPLOY_ENDPOINT", a.endpoint},
	}
	if o.json {
		out := map[string]string{}
		for _, v := range vars {
			out[v[0]] = v[1]
		}
		return printJSON(io.Out, out)
	}
	format, err := shellFormat(o.shell, io.Getenv("SHELL"))
	if err != nil {
		return err
	}
	for _, v := range vars {
		fmt.Fprintf(io.Out, format, v[0], quote(v[1]))
	}
	return nil
}

func shellFormat(asked, running string) (string, error) {
	if asked == "" && path.Base(running) == "fish" {
		asked = "fish"
	}
	switch asked {
	case "", "sh", "bash", "zsh":
		return "export %s=%s\n", nil
	case "fish":
		return "set -gx %s %s\n", nil
	}
	return "", usage("--shell: known are sh and fish")
}

// quote makes a word that sh and fish read as s.
func quote(s string) string {
	return "'" + strings.NewReplacer(`'`, `'"'"'`).Replace(s) + "'"
}
