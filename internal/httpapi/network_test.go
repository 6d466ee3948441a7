package httpapi_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/gateway/audit"
	"github.com/atollhq/atoll/internal/sandbox"
)

// patch sends a change and returns what was granted.
func (w *world) patch(id, body string) (got api.PatchSandboxResult) {
	w.t.Helper()
	status, _, text := w.call("PATCH", "/api/v3/sandbox/"+id, w.token, body)
	if status != 200 {
		w.t.Fatalf("%s: %d %s", body, status, text)
	}
	w.must(json.Unmarshal([]byte(text), &got))
	return got
}

func (w *world) network(id string) (p api.NetworkPolicy) {
	w.t.Helper()
	status, _, text := w.call("GET", "/api/v3/sandbox/"+id+"/network", w.token, "")
	if status != 200 {
		w.t.Fatalf("%d %s", status, text)
	}
	w.must(json.Unmarshal([]byte(text), &p))
	return p
}

func TestNetworkIsReadAndReplaced(t *testing.T) {
	w := newWorld(t)
	_, id := w.create(`{"timeout":"1m","allow_net":["Example.com"]}`)
	want := api.NetworkPolicy{AllowNet: &[]string{"example.com"}}
	if diff := cmp.Diff(want, w.network(id)); diff != "" {
		t.Error(diff)
	}
	at := time.Now().Add(5 * time.Minute).UnixMilli()
	for body, allow := range map[string]*[]string{
		`{"allow_net":["*.Example.com","192.0.2.7:443"]}`: {"*.example.com", "192.0.2.7:443"},
		`{"allow_net":[]}`:   {},
		`{"allow_net":null}`: nil,
		fmt.Sprintf(`{"allow_net":["a.test"],"stop_at_ms":%d}`, at): {"a.test"},
	} {
		want.AllowNet = allow
		granted := w.patch(id, body)
		if granted.Network == nil || (granted.StopAtMS == at) != strings.Contains(body, "stop_at_ms") {
			t.Fatalf("%s: granted %+v", body, granted)
		}
		for _, got := range []api.NetworkPolicy{*granted.Network, w.network(id)} {
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s: %s", body, diff)
			}
		}
	}
	if granted := w.patch(id, fmt.Sprintf(`{"stop_at_ms":%d}`, at)); granted.Network != nil {
		t.Errorf("an extension answers with %+v", granted)
	}
	if n := len(w.audit.find("set_network")); n != 4 {
		t.Errorf("%d changes are audited", n)
	}
}

// A change of which one part is refused changes nothing.
func TestChangesAreWhole(t *testing.T) {
	w := newWorld(t)
	_, id := w.create(`{"timeout":"1m","allow_net":["a.test"]}`)
	_, session := w.create(`{"allow_net":["a.test"]}`)
	before := w.get(id).StopAt.Time
	soon := time.Now().Add(5 * time.Minute).UnixMilli()
	for _, c := range []struct {
		id, body string
		status   int
		code     string
	}{
		{id, fmt.Sprintf(`{"allow_net":["a b"],"stop_at_ms":%d}`, soon), 400, sandbox.CodeInvalidAllowNet},
		{id, `{"allow_net":["b.test"],"stop_at_ms":5}`, 400, "INVALID_TIMEOUT"},
		{id, `{"allow_net":["b.test"],"stop_at_ms":-5}`, 400, "INVALID_TIMEOUT"},
		{id, `{"allow_net":"b.test"}`, 400, "INVALID_BODY"},
		{id, `{"allow_net":{}}`, 400, "INVALID_BODY"},
		{id, `{"allow_net":[7]}`, 400, "INVALID_BODY"},
		{session, fmt.Sprintf(`{"allow_net":["b.test"],"stop_at_ms":%d}`, soon), 409, "SESSION_LIFETIME"},
	} {
		status, h, body := w.call("PATCH", "/api/v3/sandbox/"+c.id, w.token, c.body)
		w.wantError(status, c.status, h, body, c.code)
	}
	for _, id := range []string{id, session} {
		if diff := cmp.Diff(api.NetworkPolicy{AllowNet: &[]string{"a.test"}}, w.network(id)); diff != "" {
			t.Error(diff)
		}
	}
	if after := w.get(id).StopAt.Time; !after.Equal(before) {
		t.Errorf("the end moved from %s to %s", before, after)
	}
}

func TestNetworkOfOthersAndOfStoppedOnes(t *testing.T) {
	w := newWorld(t)
	_, id := w.create(`{"timeout":"1m"}`)
	for _, path := range []string{"/network", "/audit", "/audit?follow=1"} {
		status, h, body := w.call("GET", "/api/v3/sandbox/"+id+path, w.other, "")
		w.wantError(status, 404, h, body, "SANDBOX_NOT_FOUND")
		status, h, body = w.call("GET", "/api/v3/sandbox/sbx_x"+path, w.token, "")
		w.wantError(status, 404, h, body, "SANDBOX_NOT_FOUND")
	}
	status, h, body := w.call("PATCH", "/api/v3/sandbox/"+id, w.other, `{"allow_net":[]}`)
	w.wantError(status, 404, h, body, "SANDBOX_NOT_FOUND")
	w.call("DELETE", "/api/v3/sandbox/"+id, w.token, "")
	status, h, body = w.call("GET", "/api/v3/sandbox/"+id+"/network", w.token, "")
	w.wantError(status, 404, h, body, "SANDBOX_STOPPED")
	status, h, body = w.call("PATCH", "/api/v3/sandbox/"+id, w.token, `{"allow_net":[]}`)
	w.wantError(status, 404, h, body, "SANDBOX_STOPPED")
	if status, _, body := w.call("GET", "/api/v3/sandbox/"+id+"/audit", w.token, ""); status != 200 || body != "" {
		t.Errorf("%d %s", status, body)
	}
}

// recordOf writes what the shim of a sandbox would.
func (w *world) recordOf(id string, limit int64) *audit.File {
	w.t.Helper()
	w.must(os.MkdirAll(w.data.Audits(), 0o700))
	f := audit.NewFile(audit.FileConfig{Path: w.data.Audit(id), Older: w.data.OlderAudit(id), Max: limit, Sandbox: id})
	w.must(f.Open())
	w.t.Cleanup(func() { _ = f.Close() })
	return f
}

func name(i int) audit.Record {
	return audit.Record{Kind: audit.Name, Name: fmt.Sprintf("%d.test", i), Protocol: "dns", Decision: audit.Refuse, Rule: "not in the list"}
}

// names are those of the records in the body of an answer.
func names(t *testing.T, body io.Reader) (out []string) {
	t.Helper()
	for in := bufio.NewScanner(body); in.Scan(); {
		var r api.AuditRecord
		if err := json.Unmarshal(in.Bytes(), &r); err != nil || r.Kind != api.AuditName || r.Decision != api.AuditRefuse {
			t.Fatalf("%s: %v", in.Bytes(), err)
		}
		out = append(out, strings.TrimSuffix(r.Name, ".test"))
	}
	return out
}

func TestAuditIsRead(t *testing.T) {
	w := newWorld(t)
	_, id := w.create(`{"timeout":"1m"}`)
	f := w.recordOf(id, 1<<20)
	f.Add(name(0))
	early := name(1)
	early.Time = time.Now().Add(-time.Hour)
	f.Add(early)
	late := early // began early, ended late
	late.Name, late.Millis = "2.test", time.Hour.Milliseconds()+60_000
	f.Add(late)
	w.must(f.Close())
	since := "?since=" + time.Now().Add(-time.Minute).UTC().Format(time.RFC3339)
	for query, want := range map[string]string{"": "[0 1 2]", since: "[0 2]", "?follow=0": "[0 1 2]"} {
		status, h, body := w.call("GET", "/api/v3/sandbox/"+id+"/audit"+query, w.token, "")
		if got := fmt.Sprint(names(t, strings.NewReader(body))); status != 200 || got != want || h.Get("Content-Type") != "application/x-ndjson" {
			t.Errorf("%s: %d %v %s", query, status, h, body)
		}
	}
	for _, query := range []string{"?follow=x", "?since=yesterday"} {
		status, h, body := w.call("GET", "/api/v3/sandbox/"+id+"/audit"+query, w.token, "")
		w.wantError(status, 400, h, body, "INVALID_FILTER")
	}
	if status, _, body := w.call("HEAD", "/api/v3/sandbox/"+id+"/audit?follow=1", w.token, ""); status != 200 || body != "" {
		t.Errorf("HEAD: %d %s", status, body)
	}
}

// Who follows gets everything that comes, across rotations, and the end.
func TestAuditIsFollowed(t *testing.T) {
	w := newWorld(t)
	_, id := w.create(`{"timeout":"1m"}`)
	f := w.recordOf(id, 100) // one record each
	f.Add(name(0))
	resp := w.follow(t.Context(), id)
	defer resp.Body.Close()
	in := bufio.NewReader(resp.Body)
	for i := range 4 {
		line, err := in.ReadString('\n')
		if err != nil || !strings.Contains(line, fmt.Sprintf(`"%d.test"`, i)) {
			t.Fatalf("%d: %s %v", i, line, err)
		}
		f.Add(name(i + 1))
	}
	w.must(f.Close())
	w.call("DELETE", "/api/v3/sandbox/"+id, w.token, "")
	if got := fmt.Sprint(names(t, in)); got != "[4]" {
		t.Errorf("the end is %s", got)
	}
}

// follow begins to follow, for as long as ctx lives.
func (w *world) follow(ctx context.Context, id string) *http.Response {
	w.t.Helper()
	req, err := http.NewRequestWithContext(ctx, "GET", w.url+"/api/v3/sandbox/"+id+"/audit?follow=1", nil)
	w.must(err)
	req.Header.Set("Authorization", "Bearer "+w.token)
	resp, err := http.DefaultClient.Do(req)
	w.must(err)
	return resp
}

// A follower who leaves is noticed, or the world's end would wait for it.
func TestFollowersLeave(t *testing.T) {
	w := newWorld(t)
	_, id := w.create(`{"timeout":"1m"}`)
	_ = w.follow(t.Context(), id).Body.Close()
}

// The server's end is the end for those who follow.
func TestFollowersAreLetGo(t *testing.T) {
	ended := make(chan error, 1)
	t.Cleanup(func() {
		if err := <-ended; err != nil { // after the server's end
			t.Error(err)
		}
	})
	w := newWorld(t)
	_, id := w.create(`{"timeout":"1m"}`)
	body := w.follow(context.WithoutCancel(t.Context()), id).Body
	go func() {
		_, err := io.Copy(io.Discard, body)
		_ = body.Close()
		ended <- err
	}()
}

// The wire type is the record's form.
func TestAuditRecordsHaveOneForm(t *testing.T) {
	form := func(v any) (out []string) {
		for f := range reflect.TypeOf(v).Fields() {
			out = append(out, fmt.Sprint(f.Name, " ", f.Type.Kind(), " ", f.Tag))
		}
		return out
	}
	if diff := cmp.Diff(form(audit.Record{}), form(api.AuditRecord{})); diff != "" {
		t.Error(diff)
	}
}
