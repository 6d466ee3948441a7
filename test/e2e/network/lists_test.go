//go:build e2e

package network

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/atollhq/atoll/test/e2e/harness"
)

// An empty list is no network at all: nothing is asked, nothing is reached.
func TestEmptyAllowList(t *testing.T) {
	s := harness.New(t)
	ctx := harness.Context(t, 2*harness.TestLimit)
	c := s.MustCreate(ctx, t, map[string]any{"allow_net": []string{}})
	before := len(s.Internet.Seen())
	for _, script := range []string{
		"curl -sS --max-time 5 http://" + harness.WebHost + "/hello",
		"curl -sS --max-time 5 http://93.184.215.14/hello",
		"curl -sS --max-time 5 -k https://93.184.215.14/hello",
		"getent hosts " + harness.WebHost,
	} {
		if out, err := c.Shell(ctx, script); err != nil || out.Code == 0 {
			t.Errorf("%s: %+v %v", script, out, err)
		}
	}
	if seen := s.Internet.Seen(); len(seen) > before {
		t.Errorf("the outside saw %q", seen[before:])
	}
	if trapped := s.Internet.Trapped(); !slices.Equal(trapped, nil) {
		t.Errorf("trapped %q", trapped)
	}
}

// The operator's ceiling holds for sandboxes without a list of their own, and
// no list exceeds it, neither at creation nor later.
func TestCeiling(t *testing.T) {
	s := harness.New(t, "--net-ceiling", harness.WebHost+",*.wild.atoll.test")
	ctx := harness.Context(t, 2*harness.TestLimit)
	c := s.MustCreate(ctx, t, nil)
	if got := c.MustShell(ctx, t, "curl -sS --max-time 60 http://"+harness.WebHost+"/hello"); got != "hello from outside\n" {
		t.Errorf("within the ceiling: %q", got)
	}
	mark := s.Internet.Mark()
	for _, script := range []string{
		"curl -sS --max-time 5 http://" + harness.EvilHost + "/evil",
		"curl -sS --max-time 5 http://93.184.215.66/evil",
		"getent hosts " + harness.EvilHost,
	} {
		if out, err := c.Shell(ctx, script); err != nil || out.Code == 0 {
			t.Errorf("%s: %+v %v", script, out, err)
		}
	}
	if seen := s.Internet.Arrivals(mark); len(seen) > 0 {
		t.Errorf("outside the ceiling arrived %q", seen)
	}
	_, err := s.Create(ctx, map[string]any{"allow_net": []string{harness.WebHost, harness.EvilHost}})
	if no := harness.WantRefusal(t, err, http.StatusBadRequest, "OUTSIDE_CEILING"); !strings.Contains(no.Message, "allow_net[1]") {
		t.Errorf("message %q", no.Message)
	}
	_, err = s.Create(ctx, map[string]any{"secrets": map[string]any{"KEY": map[string]any{"hosts": []string{harness.EvilHost}, "value": "not-sent"}}})
	harness.WantRefusal(t, err, http.StatusBadRequest, "SECRET_HOST_EXCLUDED")
	status, raw, err := s.Do(ctx, http.MethodPatch, "/api/v3/sandbox/"+c.ID, map[string]any{"allow_net": []string{harness.EvilHost}})
	if err != nil || status != http.StatusBadRequest || !strings.Contains(string(raw), "OUTSIDE_CEILING") {
		t.Errorf("later: status %d: %s (%v)", status, raw, err)
	}
	narrower := s.MustCreate(ctx, t, map[string]any{"allow_net": []string{"a.wild.atoll.test"}})
	if out, err := narrower.Shell(ctx, "curl -sS --max-time 5 http://"+harness.WebHost+"/hello"); err != nil || out.Code == 0 {
		t.Errorf("what the own list leaves out: %+v %v", out, err)
	}
}
