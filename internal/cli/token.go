package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/atollhq/atoll/internal/auth"
	"github.com/atollhq/atoll/internal/errs"
	"github.com/atollhq/atoll/internal/store"
)

func newToken(g *global, io IO) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make, list and revoke access tokens",
		Long: `Token works on the store of the server on this host, whether or not that runs.
It needs the right to write its data directory.`,
	}
	needsVerb(cmd)
	cmd.AddCommand(newTokenCreate(g, io), newTokenList(g, io), newTokenRevoke(g, io))
	return cmd
}

// withKeeper runs f on the tokens of the server on this host.
func withKeeper(ctx context.Context, g *global, io IO, f func(*auth.Keeper, *store.Store) error) error {
	data := g.server(io.Getenv).Data()
	if _, err := os.Stat(data.Database()); errors.Is(err, fs.ErrNotExist) {
		return withHint(
			errs.Wrap(err, errs.NotFound, "NO_SERVER_DATA", "there is no server's data in %s", data.Dir),
			`"atoll serve" makes it; name another directory with --data-dir`)
	} else if errors.Is(err, fs.ErrPermission) {
		return errs.Wrap(err, errs.Denied, "NO_ACCESS", "%s is not readable for you: use sudo, or be the user that the server runs as", data.Dir)
	} else if err != nil {
		return fmt.Errorf("open the server's data: %w", err)
	}
	s, err := store.Open(ctx, data.Database())
	if err != nil {
		return err
	}
	return errors.Join(f(auth.NewKeeper(s, slog.New(slog.DiscardHandler)), s), s.Close())
}

// tokenView is how a token is shown with --json.
type tokenView struct {
	ID       string     `json:"id"`
	Name     string     `json:"name"`
	Prefix   string     `json:"prefix"`
	Org      *string    `json:"org"` // slug; null for a personal token
	Created  time.Time  `json:"createdAt"`
	LastUsed *time.Time `json:"lastUsedAt"`
	Revoked  *time.Time `json:"revokedAt"`
	Token    string     `json:"token,omitempty"` // on creation only
}

func viewToken(t store.Token, orgs map[string]string) tokenView {
	v := tokenView{ID: t.ID, Name: t.Name, Prefix: t.Prefix, Created: t.Created}
	if t.Org != "" {
		slug := cmp.Or(orgs[t.Org], t.Org)
		v.Org = &slug
	}
	if !t.LastUsed.IsZero() {
		v.LastUsed = &t.LastUsed
	}
	if !t.Revoked.IsZero() {
		v.Revoked = &t.Revoked
	}
	return v
}

// slugs maps the ids of organisations to what people call them.
func slugs(ctx context.Context, s *store.Store) (map[string]string, error) {
	orgs, err := s.Orgs(ctx)
	out := make(map[string]string, len(orgs))
	for _, o := range orgs {
		out[o.ID] = o.Slug
	}
	return out, err
}

type tokenCreateOptions struct {
	*global
	name     string
	personal bool
}

func newTokenCreate(g *global, io IO) *cobra.Command {
	o := &tokenCreateOptions{global: g}
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make a token and print it",
		Long: `Create makes a token and prints it. This is the only time that it is shown:
the server keeps a hash.`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return runTokenCreate(cmd.Context(), o, io) },
	}
	cmd.Flags().StringVar(&o.name, "name", "", "what the token is for")
	cmd.Flags().BoolVar(&o.personal, "personal", false, "a token for every organisation, which requests must then name")
	return cmd
}

func runTokenCreate(ctx context.Context, o *tokenCreateOptions, io IO) error {
	return withKeeper(ctx, o.global, io, func(k *auth.Keeper, s *store.Store) error {
		secret, t, err := k.Create(ctx, cmp.Or(o.org, auth.DefaultOrg), o.name, o.personal)
		if err != nil {
			return err
		}
		if !o.json {
			_, err := fmt.Fprintln(io.Out, secret)
			return err
		}
		orgs, err := slugs(ctx, s)
		if err != nil {
			return err
		}
		v := viewToken(t, orgs)
		v.Token = secret
		return printJSON(io.Out, v)
	})
}

func newTokenList(g *global, io IO) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List tokens, without their secrets",
		Args:    args(cobra.NoArgs),
		RunE:    func(cmd *cobra.Command, _ []string) error { return runTokenList(cmd.Context(), g, io) },
	}
}

func runTokenList(ctx context.Context, g *global, io IO) error {
	views := []tokenView{}
	err := withKeeper(ctx, g, io, func(k *auth.Keeper, s *store.Store) error {
		orgs, err := slugs(ctx, s)
		if err != nil {
			return err
		}
		tokens, err := k.List(ctx)
		for _, t := range tokens {
			views = append(views, viewToken(t, orgs))
		}
		return err
	})
	if err != nil {
		return err
	}
	if g.json {
		return printJSON(io.Out, views)
	}
	return printTokens(views, io, time.Now())
}

func printTokens(views []tokenView, io IO, now time.Time) error {
	w := tabwriter.NewWriter(io.Out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tTOKEN\tORG\tNAME\tAGE\tUSED\tSTATUS")
	for _, v := range views {
		org, used, status := "(personal)", "never", "valid"
		if v.Org != nil {
			org = *v.Org
		}
		if v.LastUsed != nil {
			used = age(now.Sub(*v.LastUsed)) + " ago"
		}
		if v.Revoked != nil {
			status = "revoked"
		}
		fmt.Fprintf(w, "%s\t%s…\t%s\t%s\t%s\t%s\t%s\n",
			v.ID, v.Prefix, org, cmp.Or(v.Name, "-"), age(now.Sub(v.Created)), used, status)
	}
	return w.Flush()
}

func newTokenRevoke(g *global, io IO) *cobra.Command {
	return &cobra.Command{
		Use:   "revoke <id or prefix>...",
		Short: "Make tokens invalid at once",
		Args:  args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, refs []string) error {
			return runTokenRevoke(cmd.Context(), g, refs, io)
		},
	}
}

func runTokenRevoke(ctx context.Context, g *global, refs []string, io IO) error {
	revoked := []string{}
	err := withKeeper(ctx, g, io, func(k *auth.Keeper, _ *store.Store) error {
		for _, ref := range refs {
			t, err := k.Revoke(ctx, ref)
			if err != nil {
				return err
			}
			revoked = append(revoked, t.ID)
		}
		return nil
	})
	if g.json {
		return errors.Join(err, printJSON(io.Out, map[string][]string{"revoked": revoked}))
	}
	for _, id := range revoked {
		fmt.Fprintln(io.Out, id)
	}
	return err
}
