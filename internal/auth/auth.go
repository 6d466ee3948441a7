// Package auth knows who is asking: it makes access tokens, and tells from
// one which organisation a request acts for.
//
// A token is "ddo_" (of an organisation) or "ddp_" (of a person, who names
// the organisation in each request) and 40 random characters. The store keeps
// its SHA-256 only: the token has 238 random bits, so a slow hash would gain
// nothing. Looking a token up by its hash leaks no useful timing, and the
// stored hash is compared in constant time all the same.
package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/atollhq/atoll/internal/errs"
	"github.com/atollhq/atoll/internal/store"
)

// Prefixes of tokens.
const (
	OrgPrefix      = "ddo_"
	PersonalPrefix = "ddp_"
)

// DefaultOrg is the slug of the organisation made on first start.
const DefaultOrg = "default"

const (
	alphabet    = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	tokenRandom = 40 // characters
	shownPrefix = 8  // characters of a token that are kept to know it by
	maxToken    = 256
	maxName     = 100         // bytes
	touchEvery  = time.Minute // how exact "last used" is
)

// Store is what is kept of organisations and tokens.
type Store interface {
	CreateOrg(ctx context.Context, o store.Org) error
	Org(ctx context.Context, ref string) (store.Org, error)
	CreateToken(ctx context.Context, t store.Token) error
	TokenByHash(ctx context.Context, hash []byte) (store.Token, error)
	Tokens(ctx context.Context) ([]store.Token, error)
	RevokeToken(ctx context.Context, id string, now time.Time) error
	TouchToken(ctx context.Context, id string, now time.Time) error
}

// Keeper makes and checks tokens. Its methods may be called concurrently.
type Keeper struct {
	store Store
	log   *slog.Logger

	mu      sync.Mutex           // guards touched
	touched map[string]time.Time // when a token's use was last recorded, by token id
}

// NewKeeper returns a keeper of the tokens in a store.
func NewKeeper(s Store, log *slog.Logger) *Keeper {
	return &Keeper{store: s, log: log, touched: map[string]time.Time{}}
}

// Identity is who a request acts for.
type Identity struct {
	Org   string // id of the organisation
	Token string // id of the token, for the audit record
}

var errInvalid = errs.New(errs.Unauthorized, "INVALID_TOKEN", "the access token is missing, unknown or revoked: send it as \"Authorization: Bearer …\"")

// Authenticate finds the identity behind a token. The organisation, by id or
// slug, is needed for personal tokens and must match for the others.
func (k *Keeper) Authenticate(ctx context.Context, token, org string) (Identity, error) {
	if token == "" || len(token) > maxToken {
		return Identity{}, errInvalid
	}
	hash := sha256.Sum256([]byte(token))
	t, err := k.store.TokenByHash(ctx, hash[:])
	switch {
	case errors.Is(err, errs.NotFound):
		return Identity{}, errInvalid
	case err != nil:
		return Identity{}, err
	case subtle.ConstantTimeCompare(t.Hash, hash[:]) != 1 || !t.Revoked.IsZero():
		return Identity{}, errInvalid
	}
	id := Identity{Org: t.Org, Token: t.ID}
	if t.Org == "" || org != "" {
		if id.Org, err = k.chooseOrg(ctx, t, org); err != nil {
			return Identity{}, err
		}
	}
	k.touch(ctx, t.ID)
	return id, nil
}

// chooseOrg finds the organisation that a request names.
func (k *Keeper) chooseOrg(ctx context.Context, t store.Token, ref string) (string, error) {
	if ref == "" {
		return "", errs.New(errs.Invalid, "MISSING_ORG", "a personal token needs an organisation: send its name in the header X-Deno-Org")
	}
	o, err := k.store.Org(ctx, ref)
	if errors.Is(err, errs.NotFound) || err == nil && t.Org != "" && t.Org != o.ID {
		return "", errs.New(errs.Denied, "ORG_NOT_ALLOWED", "the token gives no access to the organisation that X-Deno-Org names")
	}
	return o.ID, err
}

// touch records the use of a token now and then. A failure is not the
// request's.
func (k *Keeper) touch(ctx context.Context, id string) {
	now := time.Now()
	k.mu.Lock()
	due := now.Sub(k.touched[id]) >= touchEvery
	if due {
		k.touched[id] = now
	}
	k.mu.Unlock()
	if !due {
		return
	}
	if err := k.store.TouchToken(ctx, id, now.UTC()); err != nil && ctx.Err() == nil {
		k.log.Warn("record the use of a token", "token", id, "error", err)
	}
}

// Create makes a token and returns it: the only time that it is seen. With
// personal set it belongs to no organisation, else to the named one.
func (k *Keeper) Create(ctx context.Context, org, name string, personal bool) (string, store.Token, error) {
	if len(name) > maxName || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return "", store.Token{}, errs.New(errs.Invalid, "INVALID_TOKEN_NAME", "the name of a token has at most %d bytes and no control characters", maxName)
	}
	t := store.Token{ID: "tok_" + randomText(20), Name: name, Created: time.Now().UTC().Truncate(time.Millisecond)}
	prefix := PersonalPrefix
	if !personal {
		o, err := k.store.Org(ctx, org)
		if errors.Is(err, errs.NotFound) {
			return "", t, errs.New(errs.NotFound, "ORG_NOT_FOUND", "there is no organisation %q", org)
		}
		if err != nil {
			return "", t, err
		}
		t.Org, prefix = o.ID, OrgPrefix
	}
	token := prefix + randomText(tokenRandom)
	hash := sha256.Sum256([]byte(token))
	t.Hash, t.Prefix = hash[:], token[:shownPrefix]
	return token, t, k.store.CreateToken(ctx, t)
}

// List returns all tokens, oldest first.
func (k *Keeper) List(ctx context.Context) ([]store.Token, error) { return k.store.Tokens(ctx) }

// Revoke makes a token invalid. It is named by its id or by its shown prefix,
// if only one valid token has it.
func (k *Keeper) Revoke(ctx context.Context, ref string) (store.Token, error) {
	tokens, err := k.store.Tokens(ctx)
	if err != nil {
		return store.Token{}, err
	}
	var found []store.Token
	for _, t := range tokens {
		if t.ID == ref {
			return t, k.store.RevokeToken(ctx, t.ID, time.Now().UTC())
		}
		if t.Prefix == ref && t.Revoked.IsZero() {
			found = append(found, t)
		}
	}
	switch len(found) {
	case 0:
		return store.Token{}, errs.New(errs.NotFound, "TOKEN_NOT_FOUND", "there is no token %q: give the id or prefix that the list of tokens shows", ref)
	case 1:
		return found[0], k.store.RevokeToken(ctx, found[0].ID, time.Now().UTC())
	}
	return store.Token{}, errs.New(errs.Conflict, "TOKEN_AMBIGUOUS", "several tokens begin with %q: give the id", ref)
}

// EnsureOrg makes the default organisation on first start and reports whether
// it had to.
func (k *Keeper) EnsureOrg(ctx context.Context) (made bool, err error) {
	_, err = k.store.Org(ctx, DefaultOrg)
	if !errors.Is(err, errs.NotFound) {
		return false, err
	}
	o := store.Org{ID: "org_" + randomText(20), Slug: DefaultOrg, Created: time.Now().UTC()}
	if err := k.store.CreateOrg(ctx, o); err != nil {
		return false, fmt.Errorf("make the default organisation: %w", err)
	}
	return true, nil
}

func randomText(n int) string {
	const usable = 256 - 256%len(alphabet) // bytes from here on would be biased
	out := make([]byte, 0, n)
	var buf [64]byte
	for len(out) < n {
		_, _ = rand.Read(buf[:]) // never fails
		for _, b := range buf {
			if int(b) < usable && len(out) < n {
				out = append(out, alphabet[int(b)%len(alphabet)])
			}
		}
	}
	return string(out)
}
