// Package store keeps what must survive the daemon: organisations, tokens and
// sandboxes. It is the only package that knows SQL.
//
// The database is SQLite in WAL mode. All writes go through one connection,
// reads through a few others, so that a writer never meets a locked database
// inside this process; another process (`atoll token`) may use the same file
// and waits its turn for up to ten seconds. Values are plain structs; a
// missing row is errs.NotFound, a taken key errs.AlreadyExists.
//
// Secrets never come here. Tokens are kept as a SHA-256 hash.
package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/atollhq/atoll/internal/errs"
)

//go:embed migrations/*.sql
var migrations embed.FS

const (
	busyTimeout = 10 * time.Second
	readers     = 4
)

// Store is an open database. Its methods may be called concurrently.
type Store struct {
	write *sql.DB // one connection
	read  *sql.DB
}

// Open opens the database file, makes it if it is missing, and brings its
// schema up to date. A database made by a newer server is refused.
func Open(ctx context.Context, path string) (*Store, error) {
	if err := makePrivate(path); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	write, err := connect(path, "immediate", 1)
	if err != nil {
		return nil, err
	}
	if err := migrate(ctx, write); err != nil {
		_ = write.Close()
		return nil, err
	}
	read, err := connect(path, "deferred", readers)
	if err != nil {
		_ = write.Close()
		return nil, err
	}
	return &Store{write: write, read: read}, nil
}

// makePrivate makes the file, readable by its owner only, if it is missing:
// SQLite would let the umask decide.
func makePrivate(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

func connect(path, lock string, conns int) (*sql.DB, error) {
	q := url.Values{}
	for _, p := range []string{
		fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds()),
		"journal_mode(WAL)",
		"synchronous(NORMAL)",
		"foreign_keys(ON)",
	} {
		q.Add("_pragma", p)
	}
	q.Set("_txlock", lock)
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?"+q.Encode())
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	return db, nil
}

func migrate(ctx context.Context, db *sql.DB) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("migrate store: %w", err)
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, files)
	if err != nil {
		return fmt.Errorf("migrate store: %w", err)
	}
	current, target, err := p.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("migrate store: %w", err)
	}
	if current > target {
		return errs.New(errs.Precondition, "STORE_TOO_NEW",
			"the database has schema version %d and this server knows %d: use the newer server, or restore a backup", current, target)
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("migrate store: %w", err)
	}
	return nil
}

// Close closes the database.
func (s *Store) Close() error { return errors.Join(s.read.Close(), s.write.Close()) }

// classify gives database errors their class.
func classify(err error, what string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, sql.ErrNoRows):
		return fmt.Errorf("%s: %w", what, errs.NotFound)
	case strings.Contains(err.Error(), "UNIQUE constraint failed"):
		return fmt.Errorf("%s: %w", what, errs.AlreadyExists)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// exec runs one write and fails with errs.NotFound when it changed nothing.
func (s *Store) exec(ctx context.Context, what, query string, args ...any) error {
	return execIn(ctx, s.write, what, query, args...)
}

// execer is what *sql.DB and *sql.Tx have in common.
type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

func execIn(ctx context.Context, db execer, what, query string, args ...any) error {
	res, err := db.ExecContext(ctx, query, args...)
	if err != nil {
		return classify(err, what)
	}
	if n, err := res.RowsAffected(); err == nil && n == 0 {
		return fmt.Errorf("%s: %w", what, errs.NotFound)
	}
	return nil
}

// all runs a query and scans each row.
func all[T any](ctx context.Context, db *sql.DB, scan func(row) (T, error), what, query string, args ...any) ([]T, error) {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, classify(err, what)
	}
	defer rows.Close()
	var out []T
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, classify(err, what)
		}
		out = append(out, v)
	}
	return out, classify(rows.Err(), what)
}

// row is what *sql.Row and *sql.Rows have in common.
type row interface{ Scan(dest ...any) error }

func millis(t time.Time) int64 { return t.UnixMilli() }

func optMillis(t time.Time) sql.NullInt64 {
	return sql.NullInt64{Int64: t.UnixMilli(), Valid: !t.IsZero()}
}

func fromMillis(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

func fromOptMillis(ms sql.NullInt64) time.Time {
	if !ms.Valid {
		return time.Time{}
	}
	return fromMillis(ms.Int64)
}
