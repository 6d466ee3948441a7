//go:build e2e

package network

import (
	"slices"
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
