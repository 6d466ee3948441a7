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

// TestNamesOfHeaders: a value that is a token can be the name of a header.
func TestNamesOfHeaders(t *testing.T) {
	set := newSet(t, func(s *Spec) { s.Value = "sk-Token-0123456789" })
	resp := newResponse("text/plain", "x", false)
	for _, name := range []string{"X-sk-Token-0123456789", "x-736b2d546f6b656e2d30313233343536373839", "X-Harmless"} {
		resp.Header.Set(name, "1")
	}
	resp.Trailer = http.Header{"Sk-Token-0123456789": nil}
	resp.Body = &atEnd{resp.Body, func() { resp.Trailer.Set("SK-TOKEN-0123456789", "1") }}
	if err := respond(t, set, "GET", resp); err != nil {
		t.Fatal(err)
	}
	if len(resp.Trailer) > 0 {
		t.Errorf("announced %v", resp.Trailer)
	}
	readAll(t, resp.Body)
	if len(resp.Header) != 2 || resp.Header.Get("X-Harmless") != "1" || len(resp.Trailer) > 0 {
		t.Errorf("%v %v", resp.Header, resp.Trailer)
	}
}

// TestHeadsOfMessages: what claims to be gRPC may have a value where the head
// of a message should be, or half of one there.
func TestHeadsOfMessages(t *testing.T) {
	const token = "rk-token-0123456789"
	for _, c := range []struct{ kind, body string }{
		{"application/grpc", token},
		{"application/grpc", message(0, "a"+token[:9]) + token[9:]},
		{"application/grpc", "\x00\x00\x00\x00\x0f" + token}, // its end is less than a head
		{"application/grpc-web", "\x00\x00\x00\x00\x0f" + token},
	} {
		set := newSet(t, func(s *Spec) { s.Value = token })
		resp := newResponse(c.kind, c.body, false)
		if err := respond(t, set, "POST", resp); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		if strings.Contains(string(got), token) {
			t.Errorf("%s: %q (%v)", c.kind, got, err)
		}
	}
}

// TestTrailersOfGRPCWeb are its last message, with a flag of their own.
func TestTrailersOfGRPCWeb(t *testing.T) {
	set := newSet(t, nil)
	sent := message(0, "abc") + message(0x80, "grpc-status: 0\r\n")
	resp := newResponse("application/grpc-web+proto", sent, false)
	if err := respond(t, set, "POST", resp); err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, resp.Body); got != sent {
		t.Errorf("%q", got)
	}
}

// TestOtherNames: servers with CGI's variables take underscores for dashes,
// and some take headers from parameters.
func TestOtherNames(t *testing.T) {
	set := newSet(t, func(s *Spec) { s.Exclusive = true })
	for _, name := range []string{"X_Api_Key", "x-api_key"} {
		r := newRequest(t, "GET", "https://api.example.com/", "")
		r.Header[http.CanonicalHeaderKey(name)] = []string{"mine"}
		_, err := set.Begin(api, r)
		wantRefusal(t, err, CodeExclusive)
	}
	_, err := set.Begin(api, newRequest(t, "GET", "https://api.example.com/?%24httpHeaders=Authorization:mine", ""))
	wantRefusal(t, err, CodeExclusive)
	set = newSet(t, func(s *Spec) { s.Methods, s.Paths = []string{"GET"}, []string{"/**"} })
	for _, query := range []string{"$httpMethod=DELETE", "%24HTTPMETHOD=delete", "$httpHeaders=X-HTTP-Method-Override:DELETE", "_METHOD=DELETE"} {
		r := newRequest(t, "GET", "https://api.example.com/?"+query, "")
		r.Header.Set("Authorization", set.Env()["KEY"])
		begin(t, set, api, r)
		if r.Header.Get("Authorization") != set.Env()["KEY"] {
			t.Errorf("sent with %s", query)
		}
	}
	for name, with := range map[string]string{"X_Http_Method_Override": "DELETE", "X_original-Url": "/admin"} {
		r := newRequest(t, "GET", "https://api.example.com/", "")
		r.Header[http.CanonicalHeaderKey(name)] = []string{with}
		r.Header.Set("Authorization", set.Env()["KEY"])
		begin(t, set, api, r)
		if r.Header.Get("Authorization") != set.Env()["KEY"] {
			t.Errorf("sent with %s", name)
		}
	}
}

// TestTrailersDontAuthenticate: some servers add a trailer to the header.
func TestTrailersDontAuthenticate(t *testing.T) {
	for _, size := range []int64{-1, 4} {
		set := newSet(t, func(s *Spec) { s.Exclusive = true })
		r := newRequest(t, "POST", "https://api.example.com/", "")
		r.ContentLength = size
		r.Trailer = http.Header{"X-Sum": nil, "X_api_key": nil}
		r.Body = &atEnd{strings.NewReader("body"), func() {
			r.Trailer = http.Header{"X-Sum": {"1"}, "X_api_key": {"mine"}, "Authorization": {"mine"}}
		}}
		begin(t, set, api, r)
		readAll(t, r.Body)
		if len(r.Trailer) != 1 || r.Trailer.Get("X-Sum") != "1" {
			t.Errorf("%v", r.Trailer)
		}
	}
}

// TestOtherRanges: some servers have other names for Range.
func TestOtherRanges(t *testing.T) {
	set := newSet(t, nil)
	r := newRequest(t, "GET", "https://api.example.com/", "")
	for _, name := range []string{"Request-Range", "X-Ms-Range"} {
		r.Header.Set(name, "bytes=0-3")
	}
	begin(t, set, api, r)
	if r.Header.Get("Request-Range")+r.Header.Get("X-Ms-Range") != "" {
		t.Errorf("%v", r.Header)
	}
}
