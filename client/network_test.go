package client_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/client"
)

func TestNetwork(t *testing.T) {
	srv, c := newServer(t)
	sb, err := c.Sandboxes.Create(t.Context(), client.CreateOptions{
		AllowNet: &[]string{"a.test"}, Secrets: map[string]api.Secret{"KEY": {Hosts: []string{"a.test"}, Value: "hunter2"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sb.Close() })
	if srv.Secret(sb.ID(), "KEY") != "hunter2" {
		t.Error("the secret did not arrive")
	}
	want := api.NetworkPolicy{AllowNet: &[]string{"a.test"}, Secrets: []api.NetworkSecret{{Name: "KEY", Hosts: []string{"a.test"}}}}
	got, err := c.Sandboxes.Network(t.Context(), sb.ID())
	if diff := cmp.Diff(&want, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
	for _, allow := range []*[]string{{}, nil, {"b.test:443", "192.0.2.0"}} {
		want.AllowNet = allow
		got, err := c.Sandboxes.SetNetwork(t.Context(), sb.ID(), allow)
		if diff := cmp.Diff(&want, got); err != nil || diff != "" {
			t.Error(err, diff)
		}
	}
	_, err = c.Sandboxes.SetNetwork(t.Context(), sb.ID(), &[]string{""})
	if e, ok := errors.AsType[*client.APIError](err); !ok || e.Code != "INVALID_ALLOW_NET" {
		t.Error(err)
	}
	for _, id := range []string{"sbx_x", "../.."} {
		if _, err := c.Sandboxes.Network(t.Context(), id); !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
	}
}

func record(i int) api.AuditRecord {
	return api.AuditRecord{
		Time: time.Unix(int64(i), 0).UTC(), Kind: api.AuditConnection, Addr: netip.MustParseAddr("192.0.2.1"), Port: uint16(i),
		Decision: api.AuditAllow, Rule: "open",
	}
}

func TestAudit(t *testing.T) {
	srv, sb := newSandbox(t)
	c := newClient(t, srv.URL).Sandboxes
	for i := range 3 {
		srv.Record(sb.ID(), record(i))
	}
	for want, o := range map[string]client.AuditOptions{"[0 1 2]": {}, "[1 2]": {Since: time.Unix(1, 0)}} {
		var got []uint16
		for r, err := range c.Audit(t.Context(), sb.ID(), o) {
			if err != nil || r.Sandbox != sb.ID() || r.Addr != record(0).Addr {
				t.Errorf("%+v %v", r, err)
			}
			got = append(got, r.Port)
		}
		if fmt.Sprint(got) != want {
			t.Errorf("%+v: %v", o, got)
		}
	}
	var got []uint16
	for r, err := range c.Audit(t.Context(), sb.ID(), client.AuditOptions{Follow: true}) {
		if err != nil {
			t.Fatal(err)
		}
		switch got = append(got, r.Port); {
		case len(got) < 3: // there are three
		case len(got) < 6:
			srv.Record(sb.ID(), record(len(got)))
		default:
			if err := sb.Kill(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(got) != 6 || !slices.IsSorted(got) {
		t.Errorf("followed %v", got)
	}
	for _, err := range c.Audit(t.Context(), "sbx_x", client.AuditOptions{}) {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
	}
}

// Leaving the loop ends the request: the leak check would complain.
func TestAuditIsLeft(t *testing.T) {
	srv, sb := newSandbox(t)
	srv.Record(sb.ID(), record(1))
	for range newClient(t, srv.URL).Sandboxes.Audit(t.Context(), sb.ID(), client.AuditOptions{Follow: true}) {
		break
	}
}

func TestAuditThatIsNone(t *testing.T) {
	for _, body := range []string{"nonsense\n", "{\"port\":-1}\n", "[]\n"} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) }))
		t.Cleanup(srv.Close)
		failed := 0
		for _, err := range newClient(t, srv.URL).Sandboxes.Audit(t.Context(), "sbx_x", client.AuditOptions{}) {
			if err == nil {
				t.Errorf("%q: accepted", body)
			}
			failed++
		}
		if failed != 1 {
			t.Errorf("%q: %d errors", body, failed)
		}
	}
}
