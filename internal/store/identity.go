package store

import (
	"context"
	"database/sql"
	"time"
)

// Org is an organisation: the owner of sandboxes.
type Org struct {
	ID      string // "org_…"
	Slug    string // unique, chosen by people
	Created time.Time
}

// Token is what is known of an access token, which itself is kept nowhere.
type Token struct {
	ID       string // "tok_…"
	Org      string // empty for a personal token
	Name     string
	Prefix   string // its first characters, to be recognised by
	Hash     []byte // SHA-256 of all of it
	Created  time.Time
	LastUsed time.Time // zero if never
	Revoked  time.Time // zero if it is valid
}

// CreateOrg stores a new organisation.
func (s *Store) CreateOrg(ctx context.Context, o Org) error {
	return s.exec(ctx, "create organisation", `INSERT INTO orgs (id, slug, created) VALUES (?, ?, ?)`,
		o.ID, o.Slug, millis(o.Created))
}

// Org finds an organisation by its id or slug.
func (s *Store) Org(ctx context.Context, ref string) (Org, error) {
	o, err := scanOrg(s.read.QueryRowContext(ctx, `SELECT id, slug, created FROM orgs WHERE id = ?1 OR slug = ?1`, ref))
	return o, classify(err, "find organisation")
}

// Orgs returns all organisations, oldest first.
func (s *Store) Orgs(ctx context.Context) ([]Org, error) {
	return all(ctx, s.read, scanOrg, "list organisations", `SELECT id, slug, created FROM orgs ORDER BY created, id`)
}

func scanOrg(r row) (Org, error) {
	var o Org
	var created int64
	err := r.Scan(&o.ID, &o.Slug, &created)
	o.Created = fromMillis(created)
	return o, err
}

const tokenColumns = `id, org, name, prefix, hash, created, last_used, revoked`

// CreateToken stores a new token.
func (s *Store) CreateToken(ctx context.Context, t Token) error {
	org := sql.NullString{String: t.Org, Valid: t.Org != ""}
	return s.exec(ctx, "create token", `INSERT INTO tokens (`+tokenColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
		t.ID, org, t.Name, t.Prefix, t.Hash, millis(t.Created), optMillis(t.LastUsed), optMillis(t.Revoked))
}

// TokenByHash finds a token, revoked or not.
func (s *Store) TokenByHash(ctx context.Context, hash []byte) (Token, error) {
	t, err := scanToken(s.read.QueryRowContext(ctx, `SELECT `+tokenColumns+` FROM tokens WHERE hash = ?`, hash))
	return t, classify(err, "find token")
}

// Tokens returns all tokens, oldest first.
func (s *Store) Tokens(ctx context.Context) ([]Token, error) {
	return all(ctx, s.read, scanToken, "list tokens", `SELECT `+tokenColumns+` FROM tokens ORDER BY created, id`)
}

// RevokeToken makes a token invalid from now on. A token that was revoked
// before keeps its time.
func (s *Store) RevokeToken(ctx context.Context, id string, now time.Time) error {
	return s.exec(ctx, "revoke token", `UPDATE tokens SET revoked = coalesce(revoked, ?) WHERE id = ?`, millis(now), id)
}

// TouchToken records that a token was used.
func (s *Store) TouchToken(ctx context.Context, id string, now time.Time) error {
	return s.exec(ctx, "touch token", `UPDATE tokens SET last_used = ? WHERE id = ?`, millis(now), id)
}

func scanToken(r row) (Token, error) {
	var t Token
	var org sql.NullString
	var created int64
	var used, revoked sql.NullInt64
	err := r.Scan(&t.ID, &org, &t.Name, &t.Prefix, &t.Hash, &created, &used, &revoked)
	t.Org, t.Created = org.String, fromMillis(created)
	t.LastUsed, t.Revoked = fromOptMillis(used), fromOptMillis(revoked)
	return t, err
}
