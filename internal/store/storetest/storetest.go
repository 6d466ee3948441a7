// Package storetest is the conformance suite of stores: what every database
// behind the server must do.
package storetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/atollhq/atoll/internal/errs"
	"github.com/atollhq/atoll/internal/store"
)

// Store is everything that the server asks of a database.
type Store interface {
	CreateOrg(context.Context, store.Org) error
	Org(ctx context.Context, ref string) (store.Org, error)
	Orgs(context.Context) ([]store.Org, error)

	CreateToken(context.Context, store.Token) error
	TokenByHash(ctx context.Context, hash []byte) (store.Token, error)
	Tokens(context.Context) ([]store.Token, error)
	RevokeToken(ctx context.Context, id string, now time.Time) error
	TouchToken(ctx context.Context, id string, now time.Time) error

	CreateSandbox(context.Context, store.Sandbox) error
	SetRunning(ctx context.Context, ids ...string) error
	SetStill(ctx context.Context, id, power string, since time.Time, remaining time.Duration) error
	SetRemaining(ctx context.Context, id string, remaining time.Duration) error
	SetAwake(ctx context.Context, id string, stopAt time.Time) error
	SetIdle(ctx context.Context, id string, after time.Duration, toDisk bool) error
	SetStopAt(ctx context.Context, id string, at time.Time) error
	SetStopping(ctx context.Context, id, reason string, now time.Time) error
	SetStopped(ctx context.Context, id string) error
	Sandbox(ctx context.Context, id string) (store.Sandbox, error)
	LiveSandboxes(context.Context) ([]store.Sandbox, error)
	Sandboxes(context.Context, store.SandboxFilter) ([]store.Sandbox, error)
	PurgeSandboxes(ctx context.Context, before time.Time) (int64, error)
}

var start = time.UnixMilli(1_700_000_000_123).UTC()

// Run runs the suite. Each call of open must give an empty store.
func Run(t *testing.T, open func(t *testing.T) Store) {
	for name, test := range map[string]func(*testing.T, Store){
		"orgs":       testOrgs,
		"tokens":     testTokens,
		"lifecycle":  testLifecycle,
		"stop early": testStopEarly,
		"power":      testPower,
		"together":   testTogether,
		"list":       testList,
		"labels":     testLabels,
		"purge":      testPurge,
		"writers":    testWriters,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantClass(t *testing.T, err error, class errs.Class) {
	t.Helper()
	if !errors.Is(err, class) {
		t.Errorf("error = %v, want class %q", err, class)
	}
}

func wantEqual(t *testing.T, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func addOrg(t *testing.T, s Store, slug string) store.Org {
	t.Helper()
	o := store.Org{ID: "org_" + slug, Slug: slug, Created: start}
	must(t, s.CreateOrg(t.Context(), o))
	return o
}

func addSandbox(t *testing.T, s Store, sb store.Sandbox) store.Sandbox {
	t.Helper()
	if sb.Created.IsZero() {
		sb.Created = start
	}
	sb.Region, sb.MemoryMiB, sb.Isolation, sb.Status = "ord", 1280, "fake", store.Creating
	if sb.Labels == nil {
		sb.Labels = map[string]string{}
	}
	must(t, s.CreateSandbox(t.Context(), sb))
	return sb
}

func testOrgs(t *testing.T, s Store) {
	o := addOrg(t, s, "default")
	for _, ref := range []string{o.ID, o.Slug} {
		got, err := s.Org(t.Context(), ref)
		must(t, err)
		wantEqual(t, o, got)
	}
	_, err := s.Org(t.Context(), "nobody")
	wantClass(t, err, errs.NotFound)
	wantClass(t, s.CreateOrg(t.Context(), store.Org{ID: "org_2", Slug: "default", Created: start}), errs.AlreadyExists)
	list, err := s.Orgs(t.Context())
	must(t, err)
	wantEqual(t, []store.Org{o}, list)
}

func testTokens(t *testing.T, s Store) {
	o := addOrg(t, s, "default")
	tok := store.Token{ID: "tok_1", Org: o.ID, Name: "ci", Prefix: "ddo_abcd", Hash: []byte("hash one"), Created: start}
	personal := store.Token{ID: "tok_2", Name: "me", Prefix: "ddp_abcd", Hash: []byte("hash two"), Created: start}
	must(t, s.CreateToken(t.Context(), tok))
	must(t, s.CreateToken(t.Context(), personal))
	double := tok
	double.ID = "tok_3"
	wantClass(t, s.CreateToken(t.Context(), double), errs.AlreadyExists)

	_, err := s.TokenByHash(t.Context(), []byte("other"))
	wantClass(t, err, errs.NotFound)
	tok.LastUsed = start.Add(time.Minute)
	must(t, s.TouchToken(t.Context(), tok.ID, tok.LastUsed))
	tok.Revoked = start.Add(time.Hour)
	must(t, s.RevokeToken(t.Context(), tok.ID, tok.Revoked))
	must(t, s.RevokeToken(t.Context(), tok.ID, start.Add(2*time.Hour)))
	wantClass(t, s.RevokeToken(t.Context(), "tok_none", start), errs.NotFound)

	got, err := s.TokenByHash(t.Context(), tok.Hash)
	must(t, err)
	wantEqual(t, tok, got)
	list, err := s.Tokens(t.Context())
	must(t, err)
	wantEqual(t, []store.Token{tok, personal}, list)
}

func testLifecycle(t *testing.T, s Store) {
	o := addOrg(t, s, "default")
	sb := addSandbox(t, s, store.Sandbox{ID: "sbx_1", Org: o.ID, StopAt: start.Add(time.Minute), Labels: map[string]string{"a": "b"}})
	wantClass(t, s.CreateSandbox(t.Context(), sb), errs.AlreadyExists)
	wantClass(t, s.SetStopAt(t.Context(), sb.ID, start), errs.NotFound) // it does not run yet
	wantClass(t, s.SetStopped(t.Context(), sb.ID), errs.NotFound)

	must(t, s.SetRunning(t.Context(), sb.ID))
	sb.Status, sb.StopAt = store.Running, start.Add(time.Hour)
	must(t, s.SetStopAt(t.Context(), sb.ID, sb.StopAt))
	checkSandbox(t, s, sb)
	live, err := s.LiveSandboxes(t.Context())
	must(t, err)
	wantEqual(t, []store.Sandbox{sb}, live)

	sb.Status, sb.Reason, sb.Stopped = store.Stopping, "killed", start.Add(time.Second)
	must(t, s.SetStopping(t.Context(), sb.ID, sb.Reason, sb.Stopped))
	wantClass(t, s.SetStopping(t.Context(), sb.ID, "timeout", start), errs.NotFound) // the first reason stays
	checkSandbox(t, s, sb)
	sb.Status = store.Stopped
	must(t, s.SetStopped(t.Context(), sb.ID))
	must(t, s.SetStopped(t.Context(), sb.ID))
	checkSandbox(t, s, sb)
	wantClass(t, s.SetRunning(t.Context(), sb.ID), errs.NotFound)
	live, err = s.LiveSandboxes(t.Context())
	must(t, err)
	if len(live) != 0 {
		t.Errorf("a stopped sandbox is live: %v", live)
	}
	_, err = s.Sandbox(t.Context(), "sbx_none")
	wantClass(t, err, errs.NotFound)
}

func checkSandbox(t *testing.T, s Store, want store.Sandbox) {
	t.Helper()
	got, err := s.Sandbox(t.Context(), want.ID)
	must(t, err)
	wantEqual(t, want, got)
}

func testStopEarly(t *testing.T, s Store) {
	o := addOrg(t, s, "default")
	sb := addSandbox(t, s, store.Sandbox{ID: "sbx_1", Org: o.ID})
	must(t, s.SetStopping(t.Context(), sb.ID, "start_failed", start))
	wantClass(t, s.SetRunning(t.Context(), sb.ID), errs.NotFound)
}

func testPower(t *testing.T, s Store) {
	o := addOrg(t, s, "default")
	sb := addSandbox(t, s, store.Sandbox{
		ID: "sbx_1", Org: o.ID, StopAt: start.Add(time.Minute), IdlePause: 90 * time.Second, IdleToDisk: true, ForkedFrom: "sbx_0",
		CPUs: 2, DiskBytes: 10 << 30, Image: "/images/a.erofs",
	})
	wantClass(t, s.SetStill(t.Context(), sb.ID, "paused", start, time.Second), errs.NotFound) // it does not run yet
	wantClass(t, s.SetAwake(t.Context(), sb.ID, start), errs.NotFound)
	wantClass(t, s.SetIdle(t.Context(), sb.ID, 0, false), errs.NotFound)

	must(t, s.SetRunning(t.Context(), sb.ID))
	sb.Status = store.Running
	checkSandbox(t, s, sb)
	wantClass(t, s.SetRemaining(t.Context(), sb.ID, time.Second), errs.NotFound) // time passes
	sb.Power, sb.StillSince, sb.Remaining = "paused", start.Add(time.Second), 1234*time.Millisecond
	must(t, s.SetStill(t.Context(), sb.ID, sb.Power, sb.StillSince, sb.Remaining))
	checkSandbox(t, s, sb)
	sb.Remaining = time.Hour
	must(t, s.SetRemaining(t.Context(), sb.ID, sb.Remaining))
	checkSandbox(t, s, sb)
	sb.IdlePause, sb.IdleToDisk = 0, false
	must(t, s.SetIdle(t.Context(), sb.ID, 0, false))
	checkSandbox(t, s, sb)
	sb.Power, sb.StillSince, sb.Remaining, sb.StopAt = "", time.Time{}, 0, start.Add(time.Hour)
	must(t, s.SetAwake(t.Context(), sb.ID, sb.StopAt))
	checkSandbox(t, s, sb)
	sb.StopAt = time.Time{} // the lifetime "session"
	must(t, s.SetAwake(t.Context(), sb.ID, sb.StopAt))
	checkSandbox(t, s, sb)

	must(t, s.SetStopping(t.Context(), sb.ID, "killed", start))
	wantClass(t, s.SetStill(t.Context(), sb.ID, "paused", start, 0), errs.NotFound)
}

func testTogether(t *testing.T, s Store) {
	o := addOrg(t, s, "default")
	for _, id := range []string{"sbx_1", "sbx_2", "sbx_3"} {
		addSandbox(t, s, store.Sandbox{ID: id, Org: o.ID})
	}
	must(t, s.SetStopping(t.Context(), "sbx_3", "start_failed", start))
	wantClass(t, s.SetRunning(t.Context(), "sbx_1", "sbx_2", "sbx_3"), errs.NotFound)
	wantEqual(t, []string{}, list(t, s, store.SandboxFilter{Org: o.ID, Running: true}))
	must(t, s.SetRunning(t.Context(), "sbx_1", "sbx_2"))
	wantEqual(t, []string{"sbx_1", "sbx_2"}, list(t, s, store.SandboxFilter{Org: o.ID, Running: true}))
}

func list(t *testing.T, s Store, f store.SandboxFilter) []string {
	t.Helper()
	if f.Limit == 0 {
		f.Limit = 100
	}
	rows, err := s.Sandboxes(t.Context(), f)
	must(t, err)
	ids := []string{}
	for _, sb := range rows {
		ids = append(ids, sb.ID)
	}
	return ids
}

func testList(t *testing.T, s Store) {
	a, b := addOrg(t, s, "a"), addOrg(t, s, "b")
	for i, id := range []string{"creating", "old", "new", "stopped"} {
		addSandbox(t, s, store.Sandbox{ID: id, Org: a.ID, Created: start.Add(time.Duration(i) * time.Second)})
	}
	addSandbox(t, s, store.Sandbox{ID: "foreign", Org: b.ID})
	for _, id := range []string{"old", "new", "stopped", "foreign"} {
		must(t, s.SetRunning(t.Context(), id))
	}
	must(t, s.SetStopping(t.Context(), "stopped", "killed", start.Add(time.Hour)))

	wantEqual(t, []string{"new", "old"}, list(t, s, store.SandboxFilter{Org: a.ID, Running: true}))
	wantEqual(t, []string{"new", "old", "stopped"}, list(t, s, store.SandboxFilter{Org: a.ID, Running: true, StoppedAfter: start}))
	wantEqual(t, []string{"stopped"}, list(t, s, store.SandboxFilter{Org: a.ID, StoppedAfter: start}))
	wantEqual(t, []string{}, list(t, s, store.SandboxFilter{Org: a.ID, StoppedAfter: start.Add(time.Hour)}))
	wantEqual(t, []string{"new"}, list(t, s, store.SandboxFilter{Org: a.ID, Running: true, Limit: 1}))
	wantEqual(t, []string{"foreign"}, list(t, s, store.SandboxFilter{Org: b.ID, Running: true}))
}

func testLabels(t *testing.T, s Store) {
	o := addOrg(t, s, "default")
	odd := `a".$[0]' ü`
	addSandbox(t, s, store.Sandbox{ID: "sbx_1", Org: o.ID, Labels: map[string]string{"env": "prod", odd: odd}})
	addSandbox(t, s, store.Sandbox{ID: "sbx_2", Org: o.ID, Labels: map[string]string{"env": "test", "n": "1"}})
	must(t, s.SetRunning(t.Context(), "sbx_1"))
	must(t, s.SetRunning(t.Context(), "sbx_2"))
	for _, c := range []struct {
		labels map[string]string
		want   []string
	}{
		{nil, []string{"sbx_1", "sbx_2"}},
		{map[string]string{"env": "prod"}, []string{"sbx_1"}},
		{map[string]string{"env": "test", "n": "1"}, []string{"sbx_2"}},
		{map[string]string{"env": "prod", "n": "1"}, []string{}},
		{map[string]string{odd: odd}, []string{"sbx_1"}},
		{map[string]string{"env": ""}, []string{}},
	} {
		wantEqual(t, c.want, list(t, s, store.SandboxFilter{Org: o.ID, Running: true, Labels: c.labels}))
	}
}

func testPurge(t *testing.T, s Store) {
	o := addOrg(t, s, "default")
	for i, id := range []string{"sbx_old", "sbx_new", "sbx_stopping", "sbx_live"} {
		addSandbox(t, s, store.Sandbox{ID: id, Org: o.ID})
		if id != "sbx_live" {
			must(t, s.SetStopping(t.Context(), id, "killed", start.Add(time.Duration(i%2)*time.Hour)))
		}
	}
	must(t, s.SetStopped(t.Context(), "sbx_old"))
	must(t, s.SetStopped(t.Context(), "sbx_new"))
	n, err := s.PurgeSandboxes(t.Context(), start.Add(time.Minute))
	must(t, err)
	if n != 1 {
		t.Errorf("purged %d, want 1", n)
	}
	_, err = s.Sandbox(t.Context(), "sbx_old")
	wantClass(t, err, errs.NotFound)
}

// testWriters has many goroutines write and read at once.
func testWriters(t *testing.T, s Store) {
	o := addOrg(t, s, "default")
	const n = 32
	errors := make(chan error, n)
	for i := range n {
		id := "sbx_" + string(rune('A'+i))
		go func() {
			err := s.CreateSandbox(t.Context(), store.Sandbox{ID: id, Org: o.ID, Status: store.Creating, Created: start})
			if err == nil {
				err = s.SetRunning(t.Context(), id)
			}
			if err == nil {
				_, err = s.Sandbox(t.Context(), id)
			}
			errors <- err
		}()
	}
	for range n {
		must(t, <-errors)
	}
	if got := len(list(t, s, store.SandboxFilter{Org: o.ID, Running: true})); got != n {
		t.Errorf("%d rows, want %d", got, n)
	}
}
