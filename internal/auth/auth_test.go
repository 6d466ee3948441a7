package auth

import (
	"log/slog"
	"regexp"
	"strings"
	"testing"

	"github.com/atollhq/atoll/internal/errs"
	"github.com/atollhq/atoll/internal/store"
	"github.com/atollhq/atoll/internal/store/storetest"
)

func newKeeper(t *testing.T) (*Keeper, *storetest.Memory) {
	t.Helper()
	s := storetest.NewMemory()
	k := NewKeeper(s, slog.New(slog.DiscardHandler))
	for _, want := range []bool{true, false} {
		if made, err := k.EnsureOrg(t.Context()); err != nil || made != want {
			t.Fatalf("ensure organisation: %v %v", made, err)
		}
	}
	if err := s.CreateOrg(t.Context(), store.Org{ID: "org_2", Slug: "second"}); err != nil {
		t.Fatal(err)
	}
	return k, s
}

func create(t *testing.T, k *Keeper, org string, personal bool) (string, store.Token) {
	t.Helper()
	text, tok, err := k.Create(t.Context(), org, "test", personal)
	if err != nil {
		t.Fatal(err)
	}
	return text, tok
}

func TestTokenForm(t *testing.T) {
	k, _ := newKeeper(t)
	text, tok := create(t, k, DefaultOrg, false)
	if !regexp.MustCompile(`^ddo_[0-9A-Za-z]{40}$`).MatchString(text) || !strings.HasPrefix(text, tok.Prefix) || len(tok.Prefix) != 8 {
		t.Errorf("token %q, prefix %q", text, tok.Prefix)
	}
	if text, _ := create(t, k, "", true); !strings.HasPrefix(text, "ddp_") {
		t.Errorf("personal token %q", text)
	}
}

func TestAuthenticate(t *testing.T) {
	k, s := newKeeper(t)
	first, err := s.Org(t.Context(), DefaultOrg)
	if err != nil {
		t.Fatal(err)
	}
	orgToken, row := create(t, k, DefaultOrg, false)
	personal, _ := create(t, k, "", true)
	revoked, old := create(t, k, DefaultOrg, false)
	if _, err := k.Revoke(t.Context(), old.ID); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, token, org, want, code string }{
		{"organisation token", orgToken, "", first.ID, ""},
		{"with its organisation", orgToken, DefaultOrg, first.ID, ""},
		{"with another organisation", orgToken, "second", "", "ORG_NOT_ALLOWED"},
		{"personal by slug", personal, "second", "org_2", ""},
		{"personal by id", personal, "org_2", "org_2", ""},
		{"personal without", personal, "", "", "MISSING_ORG"},
		{"personal with unknown", personal, "nobody", "", "ORG_NOT_ALLOWED"},
		{"revoked", revoked, "", "", "INVALID_TOKEN"},
		{"none", "", "", "", "INVALID_TOKEN"},
		{"unknown", "ddo_" + strings.Repeat("a", 40), "", "", "INVALID_TOKEN"},
		{"huge", strings.Repeat("a", 1<<20), "", "", "INVALID_TOKEN"},
		{"truncated", orgToken[:43], "", "", "INVALID_TOKEN"},
	} {
		id, err := k.Authenticate(t.Context(), c.token, c.org)
		if c.code != "" {
			if err == nil || errs.Public(err).Code != c.code {
				t.Errorf("%s: error %v, want %s", c.name, err, c.code)
			}
			continue
		}
		if err != nil || id.Org != c.want {
			t.Errorf("%s: %+v %v, want %s", c.name, id, err, c.want)
		}
	}
	got, err := s.TokenByHash(t.Context(), row.Hash)
	if err != nil || got.LastUsed.IsZero() {
		t.Errorf("use was not recorded: %+v %v", got, err)
	}
}

func TestRevokeByPrefix(t *testing.T) {
	k, _ := newKeeper(t)
	text, tok := create(t, k, DefaultOrg, false)
	if got, err := k.Revoke(t.Context(), tok.Prefix); err != nil || got.ID != tok.ID {
		t.Errorf("%v %v", got, err)
	}
	if _, err := k.Authenticate(t.Context(), text, ""); err == nil {
		t.Error("a revoked token is accepted")
	}
	if _, err := k.Revoke(t.Context(), "ddo_nope"); errs.Public(err).Code != "TOKEN_NOT_FOUND" {
		t.Errorf("error = %v", err)
	}
}

func TestCreateRefuses(t *testing.T) {
	k, _ := newKeeper(t)
	if _, _, err := k.Create(t.Context(), "nobody", "", false); errs.Public(err).Code != "ORG_NOT_FOUND" {
		t.Errorf("error = %v", err)
	}
	if _, _, err := k.Create(t.Context(), DefaultOrg, "a\nb", false); errs.Public(err).Code != "INVALID_TOKEN_NAME" {
		t.Errorf("error = %v", err)
	}
}
