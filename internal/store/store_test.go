package store_test

import (
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/atollhq/atoll/internal/errs"
	"github.com/atollhq/atoll/internal/store"
	"github.com/atollhq/atoll/internal/store/storetest"
)

func open(t *testing.T, path string) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Store {
		return open(t, filepath.Join(t.TempDir(), "atoll.db"))
	})
}

func TestOddPathAndMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a b?c#d%41.db")
	open(t, path)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode = %v, want 0600", info.Mode())
	}
}

func TestReopenKeepsRows(t *testing.T) {
	path := filepath.Join(t.TempDir(), "atoll.db")
	first := open(t, path)
	if err := first.CreateOrg(t.Context(), store.Org{ID: "org_1", Slug: "default"}); err != nil {
		t.Fatal(err)
	}
	second := open(t, path) // while the first is open, as `atoll token` does
	if _, err := second.Org(t.Context(), "default"); err != nil {
		t.Fatal(err)
	}
}

// What stood still when the server was upgraded is taken to stand still since
// then.
func TestUpgradeWithPausedSandboxes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "atoll.db")
	s := open(t, path)
	for _, err := range []error{
		s.CreateOrg(t.Context(), store.Org{ID: "org_1", Slug: "default"}),
		s.CreateSandbox(t.Context(), store.Sandbox{ID: "running", Org: "org_1", Status: store.Running}),
		s.CreateSandbox(t.Context(), store.Sandbox{ID: "paused", Org: "org_1", Status: store.Running, Power: "paused"}),
		s.Close(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(`ALTER TABLE sandboxes DROP COLUMN still_since; DELETE FROM goose_db_version WHERE version_id >= 3`); err != nil {
		t.Fatal(err)
	}
	before := time.Now().Truncate(time.Millisecond)
	s = open(t, path)
	for id, paused := range map[string]bool{"running": false, "paused": true} {
		sb, err := s.Sandbox(t.Context(), id)
		since := sb.StillSince
		if err != nil || since.IsZero() == paused || paused && (since.Before(before) || since.After(time.Now())) {
			t.Errorf("%s: since %v (%v)", id, since, err)
		}
	}
}

func TestNewerDatabaseIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "atoll.db")
	open(t, path)
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, 1)`); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Open(t.Context(), path); !errors.Is(err, errs.Precondition) {
		t.Errorf("error = %v, want precondition", err)
	}
}
