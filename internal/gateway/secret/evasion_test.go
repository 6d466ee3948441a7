package secret

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
)

// A server that plays with the guest sends the value where nobody looks.

// TestTrailersOfEmptyBodies: over HTTP/2 a response may have a trailer and no
// body, whatever its status and its length.
func TestTrailersOfEmptyBodies(t *testing.T) {
	for name, change := range map[string]func(*http.Response){
		"length 0": func(r *http.Response) { r.ContentLength = 0 },
		"204":      func(r *http.Response) { r.StatusCode = 204 },
		"304":      func(r *http.Response) { r.StatusCode = 304 },
	} {
		set := newSet(t, nil)
		resp := newResponse("", "", false)
		change(resp)
		resp.Trailer = http.Header{"X-Late": nil}
		resp.Body = &atEnd{strings.NewReader(""), func() { resp.Trailer["X-Late"] = []string{value} }}
		if err := respond(t, set, "GET", resp); err != nil {
			t.Fatal(err)
		}
		readAll(t, resp.Body)
		if got := resp.Trailer.Get("X-Late"); got != set.Env()["KEY"] {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// atEnd calls a function when its reader ends, as net/http does to fill a
// trailer.
type atEnd struct {
	io.Reader
	end func()
}

func (r *atEnd) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if errors.Is(err, io.EOF) {
		r.end()
	}
	return n, err
}

func (*atEnd) Close() error { return nil }
