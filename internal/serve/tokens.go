package serve

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"

	"github.com/atollhq/atoll/internal/auth"
	"github.com/atollhq/atoll/internal/config"
	"github.com/atollhq/atoll/internal/errs"
	"github.com/atollhq/atoll/internal/store"
)

// Tokens gives access to the tokens in a data directory, whether or not its
// server runs.
type Tokens struct {
	*auth.Keeper
	store *store.Store
}

// OpenTokens opens the data directory of a server that has run before.
func OpenTokens(ctx context.Context, cfg config.Server, log *slog.Logger) (*Tokens, error) {
	path := cfg.Data().Database()
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, errs.New(errs.NotFound, "NO_DATA_DIRECTORY", "there is no database in %s: start the server once, or name its data directory", cfg.DataDir)
	} else if errors.Is(err, fs.ErrPermission) {
		return nil, errs.Wrap(err, errs.Denied, "NO_ACCESS", "%s is not readable for you: run this as the user that the server runs as", cfg.DataDir)
	}
	s, err := store.Open(ctx, path)
	if err != nil {
		return nil, err
	}
	return &Tokens{Keeper: auth.NewKeeper(s, log), store: s}, nil
}

// Close closes the database.
func (t *Tokens) Close() error { return t.store.Close() }
