package secret

import (
	"net/http"
	"strings"
	"testing"
)

// TestBodiesHeldAreBounded sends more bodies at a time than are held whole:
// text streams, other types pass, and room comes back when bodies are closed.
func TestBodiesHeldAreBounded(t *testing.T) {
	set := newSet(t, nil)
	key := set.Env()["KEY"]
	send := func(kind string) (*Exchange, func() string, int64) {
		r := newRequest(t, "POST", "https://api.example.com/", key+strings.Repeat("x", maxWhole-len(key)))
		r.Header.Set("Content-Type", kind)
		x := begin(t, set, api, r)
		return x, func() string {
			defer r.Body.Close()
			return readAll(t, r.Body)[:10]
		}, r.ContentLength
	}
	var open []func() string
	for range maxTogether / maxWhole {
		_, read, _ := send("text/plain")
		open = append(open, read)
	}
	if _, read, length := send("text/plain"); length != -1 || !strings.HasPrefix(read(), value[:8]) {
		t.Errorf("length %d", length)
	}
	if x, read, length := send("image/png"); length != maxWhole || read() != key[:10] || !strings.Contains(x.Note(), "wasn't searched") {
		t.Errorf("length %d, %q", length, x.Note())
	}
	resp := newResponse("text/plain", value+" ", true)
	if err := respond(t, set, "GET", resp); err != nil || resp.ContentLength != int64(len(value))+1 {
		t.Errorf("%v, length %d", err, resp.ContentLength)
	}
	if got := readAll(t, resp.Body); got != key[:len(value)]+" " {
		t.Errorf("%q", got)
	}
	for _, read := range open {
		read()
	}
	r := newRequest(t, "POST", "https://api.example.com/", "body")
	r.Trailer = http.Header{"X-Key": {key}}
	if _, err := set.Begin(Dest{Name: "api.example.com"}, r); err == nil {
		t.Error("an unverified connection gets a value")
	}
	if used := set.whole.used.Load(); used != 0 {
		t.Errorf("%d bytes count as used", used)
	}
	if _, _, length := send("text/plain"); length == -1 {
		t.Error("closed bodies still count")
	}
}
