//go:build e2e

package egress

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/atollhq/atoll/test/e2e/harness"
)

// using asks a secret's host without end, with the secret in small requests and
// in bodies that are under way when everything stops.
const using = `
import http.client, ssl, threading, itertools
def ask():
    while True:
        try:
            c = http.client.HTTPSConnection(API, timeout=20)
            for n in range(20):
                c.request("POST", "/stopped", b"body " + KEY.encode(), {"Authorization": "Bearer " + KEY, "Content-Type": "text/plain"})
                c.getresponse().read()
        except OSError:
            pass
def pour():
    while True:
        try:
            c = http.client.HTTPSConnection(API, timeout=20)
            parts = (KEY.encode() for _ in itertools.count())
            c.request("POST", "/stopped", parts, {"Content-Type": "text/plain"}, encode_chunked=True)
        except OSError:
            pass
KEY = os.environ["KEY"]
for f in [ask, pour] * 3:
    threading.Thread(target=f).start()`

// A sandbox that is ended while it uses its secrets: each request that arrived
// carried the value whole or not at all, and nothing of the sandbox stays.
func TestSecretsInUseWhenTheSandboxStops(t *testing.T) {
	t.Parallel()
	l := newLane(t)
	ctx := harness.Context(t, 3*harness.TestLimit)
	before, err := l.Count(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		value := newValue("sk_stop_")
		stopWhileUsing(ctx, t, l, value)
	}
	if err := l.AwaitCensus(ctx, before, harness.Slack{FDs: 5, Goroutines: 20, HeapBytes: 16 << 20}); err != nil {
		t.Error(err)
	}
}

func stopWhileUsing(ctx context.Context, t *testing.T, l *lane, value string) {
	t.Helper()
	c := l.create(ctx, t, map[string]any{"secrets": map[string]any{"KEY": map[string]any{"hosts": []string{harness.APIHost}, "value": value}}})
	mark := l.Internet.Mark()
	l.spawn(ctx, t, c, using)
	for len(l.Internet.Requests(mark)) < 20 {
		select {
		case <-ctx.Done():
			t.Fatal("the sandbox doesn't use its secret")
		case <-time.After(10 * time.Millisecond):
		}
	}
	if err := l.Delete(ctx, c.ID); err != nil {
		t.Fatal(err)
	}
	l.AwaitStopped(ctx, t, c.ID)
	for _, r := range l.Internet.Requests(mark) {
		if auth := r.Header.Get("Authorization"); auth != "" && auth != "Bearer "+value {
			t.Errorf("arrived with %q", auth)
		}
		// The last piece may have been cut anywhere; the ones before it not.
		if rest := strings.ReplaceAll(strings.TrimPrefix(string(r.Body), "body "), value, ""); !strings.HasPrefix(value, rest) {
			t.Errorf("a body held %.100q", rest)
		}
	}
}
