package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"github.com/atollhq/atoll/client"
	"github.com/atollhq/atoll/internal/config"
	"github.com/atollhq/atoll/internal/errs"
)

// global holds the options that every command has.
type global struct {
	endpoint string
	token    string
	org      string
	dataDir  string // "": the server's own setting
	json     bool
}

func (g *global) addFlags(f *pflag.FlagSet) {
	f.StringVar(&g.endpoint, "endpoint", "", "base URL of the server (ATOLL_ENDPOINT)")
	f.StringVar(&g.token, "token", "", "access token (ATOLL_TOKEN)")
	f.StringVar(&g.org, "org", "", "organisation, for personal tokens (DENO_DEPLOY_ORG)")
	f.StringVar(&g.dataDir, "data-dir", "", "data directory of the server on this host (ATOLL_DATA_DIR)")
	f.BoolVar(&g.json, "json", false, "print results, and errors, as JSON")
}

// server returns the settings of the server on this host, as serve would see
// them without flags. It leaves it to serve and doctor to complain.
func (g *global) server(getenv func(string) string) config.Server {
	s, _ := readSettings(config.Sources{Env: lookup(getenv)})
	if g.dataDir != "" {
		s.DataDir = g.dataDir
	}
	return s
}

// readSettings returns the defaults for settings that are wrong, but for where
// the data is.
func readSettings(from config.Sources) (config.Server, error) {
	s, err := config.Load(from)
	if err == nil {
		return s, nil
	}
	data := s.DataDir
	s = config.Default()
	s.DataDir = data
	return s, err
}

// client returns a client of the server that the options, the environment or
// the data directory name.
func (g *global) client(getenv func(string) string) (*client.Client, error) {
	o := client.Options{Endpoint: g.endpoint, Token: g.token, Org: g.org}
	if o.Endpoint == "" && getenv("ATOLL_ENDPOINT") == "" && getenv("DENO_SANDBOX_ENDPOINT") == "" {
		local, err := g.local(getenv, getenv("ATOLL_TOKEN"))
		if err != nil {
			return nil, err
		}
		o.Endpoint = local.endpoint
		if o.Token == "" {
			o.Token = local.token
		}
	}
	c, err := client.New(o)
	if errors.Is(err, client.ErrNoToken) {
		err = withHint(err, `pass --token; "atoll env" prints what a server on this host wants`)
	}
	return c, err
}

// access is how to reach a server.
type access struct{ endpoint, token string }

// local reads what the server on this host wrote into its data directory. A
// token found elsewhere is not mixed with it, except one given for Atoll.
func (g *global) local(getenv func(string) string, token string) (access, error) {
	d := g.server(getenv).Data()
	endpoint, err := readLine(d.EndpointFile())
	if err != nil {
		return access{}, withHint(
			errs.Wrap(err, errs.Unavailable, "NO_SERVER", "no server is configured, and there is none in %s", d.Dir),
			`start one with "atoll serve", or set ATOLL_ENDPOINT and ATOLL_TOKEN`)
	}
	if g.token != "" {
		token = g.token
	}
	if token != "" {
		return access{endpoint, token}, nil
	}
	if token, err = readLine(d.TokenFile()); errors.Is(err, fs.ErrPermission) {
		return access{}, withHint(fmt.Errorf("read the server's token: %w", err),
			"only its owner may: use sudo, or set ATOLL_TOKEN")
	} else if err != nil {
		return access{}, withHint(fmt.Errorf("read the server's token: %w", err),
			`make one with "atoll token create" and set ATOLL_TOKEN`)
	}
	return access{endpoint, token}, nil
}

func readLine(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	line := strings.TrimSpace(string(data))
	if line == "" {
		return "", fmt.Errorf("%s is empty", path)
	}
	return line, nil
}

// printJSON prints a result.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
