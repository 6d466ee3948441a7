package secret

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/gzip"
)

var api = Dest{Name: "api.example.com", Port: 443, Verified: true}

const value = `s3cr3t/"<&'é value+1`

// newSet makes a set of KEY for api.example.com, as changed.
func newSet(t testing.TB, change func(*Spec)) *Set {
	t.Helper()
	spec := Spec{Hosts: []string{"api.example.com"}, Value: value}
	if change != nil {
		change(&spec)
	}
	set, err := New(map[string]Spec{"KEY": spec, "OTHER": {Hosts: []string{"other.example.com"}, Value: "another value"}})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func newRequest(t testing.TB, method, target, body string) *http.Request {
	t.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, target, r)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func begin(t testing.TB, set *Set, d Dest, r *http.Request) *Exchange {
	t.Helper()
	x, err := set.Begin(d, r)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func readAll(t testing.TB, r io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func wantRefusal(t testing.TB, err error, code string) {
	t.Helper()
	if refusal, ok := errors.AsType[*Refusal](err); !ok || refusal.Code != code {
		t.Errorf("%v; want %s", err, code)
	} else if strings.Contains(refusal.Reason, value) {
		t.Errorf("the reason holds the value")
	}
}

func TestHeadIsFilled(t *testing.T) {
	set := newSet(t, nil)
	key := set.Env()["KEY"]
	escaped := strings.ReplaceAll(key, "_", "%5f")
	r := newRequest(t, "GET", "https://api.example.com/a/"+key+"/"+escaped+"%2Fb?q="+key+"&"+escaped+"=1&x=%zz", "")
	r.Header = http.Header{
		"Authorization": {"Bearer " + key}, "Cookie": {"a=b; s=" + key}, "X-Two": {key + key, "x" + key + "y"},
		"X-Basic": {"bAsIc " + base64.StdEncoding.EncodeToString([]byte("me:"+key))}, "X-Plain": {"Basic of it", "Basic YQ=="},
	}
	x := begin(t, set, api, r)
	want := "/a/" + url.PathEscape(value) + "/" + url.PathEscape(value) + "%2Fb?q=" + url.QueryEscape(value) + "&" + url.QueryEscape(value) + "=1&x=%zz"
	if got := r.URL.RequestURI(); got != want {
		t.Errorf("%s; want %s", got, want)
	}
	for name, want := range map[string][]string{
		"Authorization": {"Bearer " + value}, "Cookie": {"a=b; s=" + value}, "X-Two": {value + value, "x" + value + "y"},
		"X-Basic": {"bAsIc " + base64.StdEncoding.EncodeToString([]byte("me:"+value))}, "X-Plain": {"Basic of it", "Basic YQ=="},
	} {
		if got := r.Header[name]; strings.Join(got, "|") != strings.Join(want, "|") {
			t.Errorf("%s: %q; want %q", name, got, want)
		}
	}
	if got := x.Secrets(); len(got) != 1 || got[0] != "KEY" || x.Note() != "" {
		t.Errorf("%v, %q", got, x.Note())
	}
}

func TestUserinfoIsFilled(t *testing.T) {
	set := newSet(t, nil)
	r := newRequest(t, "GET", "https://me:"+set.Env()["KEY"]+"@api.example.com/", "")
	begin(t, set, api, r)
	if user, password, _ := r.BasicAuth(); user != "me" || password != value || r.URL.User != nil {
		t.Errorf("%q, %q, %v", user, password, r.URL.User)
	}
}

// TestBodyIsFilled sends placeholders in bodies of every type, small and
// large, with and without a length.
func TestBodyIsFilled(t *testing.T) {
	set := newSet(t, nil)
	key := set.Env()["KEY"]
	for _, c := range []struct{ kind, sent, want string }{
		{"application/json", `{"a":"` + key + `"}`, `{"a":"s3cr3t/\"<&'é value+1"}`},
		{"application/vnd.api+json; charset=utf-8", `"` + strings.ReplaceAll(key, "_", `\u005f`) + `"`, `"s3cr3t/\"<&'é value+1"`},
		{"application/x-www-form-urlencoded", "a=" + strings.ReplaceAll(key, "_", "%5F") + "&b=1", "a=" + url.QueryEscape(value) + "&b=1"},
		{"multipart/form-data; boundary=b", "--b\r\n\r\n" + key + "\r\n--b--", "--b\r\n\r\n" + value + "\r\n--b--"},
		{"text/plain", key, value},
		{"application/graphql", "{a(b:" + key + ")}", "{a(b:" + value + ")}"},
		{"application/soap+xml", "<a>" + key + "</a>", "<a>s3cr3t/&#34;&lt;&amp;&#39;é value+1</a>"},
		{"application/xml", "<a>" + strings.ReplaceAll(key, "_", "&#95;") + "</a>", "<a>s3cr3t/&#34;&lt;&amp;&#39;é value+1</a>"},
	} {
		filler := strings.Repeat("x", maxWhole)
		for _, tail := range []string{"", filler} {
			for _, known := range []bool{true, false} {
				r := newRequest(t, "POST", "https://api.example.com/", c.sent+tail+c.sent)
				r.Header.Set("Content-Type", c.kind)
				if !known {
					r.ContentLength, r.Body = -1, io.NopCloser(iotest.HalfReader(r.Body))
				}
				x := begin(t, set, api, r)
				got := readAll(t, r.Body)
				if want := c.want + tail + c.want; got != want {
					t.Errorf("%s: %.300q; want %.300q", c.kind, got, want)
				}
				if exact := known && tail == ""; exact != (r.ContentLength == int64(len(got))) || !exact && r.ContentLength != -1 {
					t.Errorf("%s: length %d of %d", c.kind, r.ContentLength, len(got))
				}
				if len(x.Secrets()) != 1 || strings.Contains(x.Note(), "chunks") != (known && tail != "") {
					t.Errorf("%s: %v, %q", c.kind, x.Secrets(), x.Note())
				}
			}
		}
	}
}

func TestBinaryBodies(t *testing.T) {
	set := newSet(t, nil)
	key := set.Env()["KEY"]
	for _, c := range []struct {
		kind     string
		size     int
		known    bool
		searched bool
	}{
		{"application/octet-stream", 0, true, true},
		{"", 0, true, true},
		{"application/octet-stream", maxWhole, true, false},
		{"", 0, false, false},
		{"application/grpc", 0, true, false},
		{"application/grpc+proto", 0, false, false},
		{"application/x-protobuf", 0, true, false},
	} {
		body := key + strings.Repeat("\x00", c.size)
		r := newRequest(t, "POST", "https://api.example.com/", body)
		r.Header.Set("Content-Type", c.kind)
		if !c.known {
			r.ContentLength = -1
		}
		length := r.ContentLength
		x := begin(t, set, api, r)
		got := readAll(t, r.Body)
		if c.searched {
			if want := value + body[len(key):]; got != want || r.ContentLength != int64(len(want)) {
				t.Errorf("%+v: %.80q, length %d", c, got, r.ContentLength)
			}
			continue
		}
		if got != body || r.ContentLength != length || !strings.Contains(x.Note(), "aren't searched") {
			t.Errorf("%+v: %.80q, length %d, note %q", c, got, r.ContentLength, x.Note())
		}
	}
}

func TestCompressedBodies(t *testing.T) {
	set := newSet(t, nil)
	key := set.Env()["KEY"]
	for name, encode := range encoders {
		for _, size := range []int{10, 2 << 20} {
			filler := noise(size)
			coded := encode("x" + key + filler)
			r := newRequest(t, "POST", "https://api.example.com/", coded)
			r.Header.Set("Content-Type", "text/plain")
			r.Header.Set("Content-Encoding", name)
			r.Header.Set("Content-MD5", "…")
			begin(t, set, api, r)
			got := readAll(t, r.Body)
			if got != "x"+value+filler || r.Header.Get("Content-Encoding") != "" || r.Header.Get("Content-MD5") != "" {
				t.Errorf("%s: %.80q, %v", name, got, r.Header)
			}
			if want := int64(len(got)); size == 10 && r.ContentLength != want || size > 10 && r.ContentLength != -1 {
				t.Errorf("%s: length %d", name, r.ContentLength)
			}
		}
	}
	r := newRequest(t, "POST", "https://api.example.com/", encoders["gzip"]("nothing"))
	sent := r.ContentLength
	r.Header.Set("Content-Encoding", "gzip")
	begin(t, set, api, r)
	if got := readAll(t, r.Body); got != encoders["gzip"]("nothing") || r.Header.Get("Content-Encoding") != "gzip" || r.ContentLength != sent {
		t.Errorf("a body without a placeholder became %q, %v", got, r.Header)
	}
}

func TestUnreadableBodiesAreRefused(t *testing.T) {
	set := newSet(t, nil)
	var bomb bytes.Buffer
	w, _ := gzip.NewWriterLevel(&bomb, gzip.BestCompression)
	for range 20 {
		_, _ = w.Write(make([]byte, 1<<20))
	}
	_ = w.Close()
	for _, c := range []struct{ coding, body string }{
		{"compress", "x"}, {"gzip, dcb", "x"}, {"gzip", "no gzip at all"}, {"gzip, gzip, gzip, gzip", "x"}, {"gzip", bomb.String()},
	} {
		r := newRequest(t, "POST", "https://api.example.com/", c.body)
		r.Header.Set("Content-Type", "text/plain")
		r.Header.Set("Content-Encoding", c.coding)
		_, err := set.Begin(api, r)
		wantRefusal(t, err, CodeBodyNotReadable)
	}
	r := newRequest(t, "POST", "https://api.example.com/", "no gzip at all")
	r.ContentLength = -1
	r.Header.Set("Content-Type", "text/plain")
	r.Header.Set("Content-Encoding", "gzip")
	begin(t, set, api, r)
	_, err := io.ReadAll(r.Body)
	wantRefusal(t, err, CodeBodyNotReadable)
}

func TestBodysOwnError(t *testing.T) {
	set := newSet(t, nil)
	broken := errors.New("the guest is gone")
	for _, size := range []int64{100, -1} {
		r := newRequest(t, "POST", "https://api.example.com/", "x")
		r.Header.Set("Content-Type", "text/plain")
		r.Header.Set("Content-Encoding", "gzip")
		r.ContentLength, r.Body = size, io.NopCloser(iotest.ErrReader(broken))
		_, err := set.Begin(api, r)
		if err == nil {
			_, err = io.ReadAll(r.Body)
		}
		if !errors.Is(err, broken) {
			t.Errorf("%v; want the body's error", err)
		}
	}
}

// TestBodiesPassAtOnce writes into a pipe and reads what is settled.
func TestBodiesPassAtOnce(t *testing.T) {
	set := newSet(t, nil)
	key := set.Env()["KEY"]
	from, to := io.Pipe()
	r := newRequest(t, "POST", "https://api.example.com/", "")
	r.Header.Set("Content-Type", "text/plain")
	r.ContentLength, r.Body = -1, from
	begin(t, set, api, r)
	p := make([]byte, 1000)
	for _, c := range []struct{ send, want string }{{"one\n", "one\n"}, {key[:20] + "\n", key[:20] + "\n"}, {"two " + key[:30], "two "}, {key[30:], value}} {
		go func() { _, _ = to.Write([]byte(c.send)) }()
		if n, err := r.Body.Read(p); err != nil || string(p[:n]) != c.want {
			t.Errorf("%q, %v; want %q", p[:n], err, c.want)
		}
	}
	_ = r.Body.Close()
}

func TestTrailersAreFilled(t *testing.T) {
	set := newSet(t, nil)
	key := set.Env()["KEY"]
	for _, kind := range []string{"text/plain", "application/grpc"} {
		r := newRequest(t, "POST", "https://api.example.com/", "body")
		r.Header.Set("Content-Type", kind)
		r.ContentLength, r.Trailer = -1, http.Header{"X-Sum": nil}
		begin(t, set, api, r)
		r.Trailer["X-Sum"] = []string{key} // known once the body has been read
		_ = readAll(t, r.Body)
		if got := r.Trailer.Get("X-Sum"); got != value {
			t.Errorf("%s: %q", kind, got)
		}
	}
}

func TestScope(t *testing.T) {
	for _, c := range []struct {
		name          string
		change        func(*Spec)
		method, where string
		header        http.Header
		note          string // empty when it is replaced
	}{
		{"all", nil, "GET", "/", nil, ""},
		{"method", func(s *Spec) { s.Methods = []string{"get", "HEAD"} }, "GET", "/", nil, ""},
		{"other method", func(s *Spec) { s.Methods = []string{"POST"} }, "GET", "/", nil, "not in methods"},
		{"lower-case method", func(s *Spec) { s.Methods = []string{"GET"} }, "get", "/", nil, "not in methods"},
		{"override", func(s *Spec) { s.Methods = []string{"POST"} }, "POST", "/", http.Header{"X-Http-Method-Override": {"DELETE"}}, "not in methods"},
		{"parameter", func(s *Spec) { s.Methods = []string{"POST"} }, "POST", "/?_method=delete", nil, "not in methods"},
		{"path", func(s *Spec) { s.Paths = []string{"/v1/**"} }, "GET", "/v1/a/b", nil, ""},
		{"other path", func(s *Spec) { s.Paths = []string{"/v1/*"} }, "GET", "/v2/a", nil, "not in paths"},
		{"dots", func(s *Spec) { s.Paths = []string{"/v1/**"} }, "GET", "/v1/%2e%2e/v2", nil, "not in paths"},
		{"rewritten", func(s *Spec) { s.Paths = []string{"/v1/**"} }, "GET", "/v1/a", http.Header{"X-Original-Url": {"/v2"}}, "not in paths"},
		{"in", func(s *Spec) { s.In = []string{"query", "header"} }, "GET", "/", nil, ""},
		{"not in", func(s *Spec) { s.In = []string{"query", "body"} }, "GET", "/", nil, "not for the header"},
		{"other host", func(s *Spec) { s.Hosts = []string{"else.example.com"} }, "GET", "/", nil, "not its host"},
		{"other port", func(s *Spec) { s.Hosts = []string{"api.example.com:8443"} }, "GET", "/", nil, "not its host"},
	} {
		set := newSet(t, c.change)
		key := set.Env()["KEY"]
		r := newRequest(t, c.method, "https://api.example.com"+c.where, "")
		for name, values := range c.header {
			r.Header[name] = values
		}
		r.Header.Set("X-Key", key)
		x := begin(t, set, api, r)
		want, note := value, ""
		if c.note != "" {
			want, note = key, "placeholder of KEY left as it is: "+c.note
		}
		if got := r.Header.Get("X-Key"); got != want || x.Note() != note || (len(x.Secrets()) == 1) != (note == "") {
			t.Errorf("%s: %q, %q, %v", c.name, got, x.Note(), x.Secrets())
		}
	}
}

// TestParts puts the placeholder everywhere and allows one part each.
func TestParts(t *testing.T) {
	for _, part := range parts {
		set := newSet(t, func(s *Spec) { s.In = []string{part}; s.Value = "unescaped" })
		key := set.Env()["KEY"]
		r := newRequest(t, "POST", "https://api.example.com/"+key+"?"+key, key)
		r.Header.Set("X-Key", key)
		r.Header.Set("Content-Type", "text/plain")
		x := begin(t, set, api, r)
		for where, got := range map[string]string{"path": r.URL.Path[1:], "query": r.URL.RawQuery, "header": r.Header.Get("X-Key"), "body": readAll(t, r.Body)} {
			if want := map[bool]string{true: "unescaped", false: key}[where == part]; got != want {
				t.Errorf("in %s: %s is %q", part, where, got)
			}
		}
		if (x.TextToServer() != nil) != (part == "websocket") {
			t.Errorf("in %s: WebSocket is %v", part, x.TextToServer())
		}
	}
}

func TestOtherHostsGetPlaceholders(t *testing.T) {
	set := newSet(t, nil)
	key := set.Env()["OTHER"]
	for _, d := range []Dest{api, {Name: "nobody.example.com", Port: 443, Verified: true}} {
		r := newRequest(t, "POST", "https://x/", strings.Repeat(" ", maxWhole)+key)
		r.Header.Set("Content-Type", "text/plain")
		length := r.ContentLength
		x := begin(t, set, d, r)
		got := readAll(t, r.Body)
		if !strings.HasSuffix(got, key) || d != api && r.ContentLength != length || len(x.Secrets()) != 0 || !strings.Contains(x.Note(), "placeholder of OTHER left as it is: not its host") {
			t.Errorf("%v: %.20q, %d, %q", d, got[maxWhole:], r.ContentLength, x.Note())
		}
	}
}

// TestSmallBinaryToOtherHosts has no part of a body searched in vain.
func TestSmallBinaryToOtherHosts(t *testing.T) {
	set := newSet(t, nil)
	key := set.Env()["KEY"]
	r := newRequest(t, "POST", "https://x/", "\x00"+key)
	x := begin(t, set, Dest{Name: "x", Port: 443, Verified: true}, r)
	if got := readAll(t, r.Body); got != "\x00"+key || r.ContentLength != int64(len(got)) || x.Note() != "placeholder of KEY left as it is: not its host" {
		t.Errorf("%q, %d, %q", got, r.ContentLength, x.Note())
	}
}

func TestNothingLeavesUnverified(t *testing.T) {
	set := newSet(t, nil)
	key := set.Env()["KEY"]
	plain := Dest{Name: "api.example.com", Port: 80}
	r := newRequest(t, "POST", "http://api.example.com/"+key, "")
	_, err := set.Begin(plain, r)
	wantRefusal(t, err, CodeNeedsTLS)
	r = newRequest(t, "POST", "http://api.example.com/", key)
	r.Header.Set("Content-Type", "text/plain")
	_, err = set.Begin(plain, r)
	wantRefusal(t, err, CodeNeedsTLS)
	r = newRequest(t, "POST", "http://api.example.com/", key)
	r.Header.Set("Content-Type", "text/plain")
	r.ContentLength = -1
	x := begin(t, set, plain, r)
	_, err = io.ReadAll(r.Body)
	wantRefusal(t, err, CodeNeedsTLS)
	_, err = x.TextToServer().Rewrite(nil, []byte(key), true)
	wantRefusal(t, err, CodeNeedsTLS)
	begin(t, set, plain, newRequest(t, "GET", "http://api.example.com/", "")) // needs no value
}

func TestExclusive(t *testing.T) {
	set := newSet(t, func(s *Spec) { s.Exclusive = true })
	key := set.Env()["KEY"]
	basic := func(s string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(s)) }
	for _, c := range []struct {
		header, value, query string
		ok                   bool
	}{
		{"Accept", "*/*", "", true},
		{"Authorization", "Bearer " + key, "", true},
		{"Authorization", "token " + key, "", true},
		{"Authorization", `Token token="` + key + `"`, "", true},
		{"Authorization", key, "", true},
		{"Authorization", basic("me:" + key), "", true},
		{"Authorization", basic(key + ":"), "", true},
		{"Authorization", basic("me:mine"), "", false},
		{"Authorization", basic(key + ":mine"), "", false},
		{"Authorization", "Bearer mine", "", false},
		{"Authorization", "Bearer mine, Bearer " + key, "", false},
		{"Authorization", "Bearer " + key + "x", "", false},
		{"Authorization", "AWS4-HMAC-SHA256 Credential=AKIA/2026/x, Signature=1", "", false},
		{"Authorization", "AWS4-HMAC-SHA256 Credential=" + key + "/2026/x, Signature=1", "", true},
		{"Proxy-Authorization", "Basic x", "", false},
		{"Cookie", "a=" + key, "", true},
		{"Cookie", "a=" + key + "; session=mine", "", false},
		{"X-Api-Key", "mine", "", false},
		{"X-Api-Key", key, "", true},
		{"X-Amz-Security-Token", "mine", "", false},
		{"", "", "api_key=mine", false},
		{"", "", "a=1;Access_Token=mine", false},
		{"", "", "%74oken=mine", false},
		{"", "", "token=" + key, true},
		{"", "", "page=2&token=", true},
		{"", "", "X-Amz-Credential=" + key + "%2F2026&X-Amz-Signature=0", true},
		{"", "", "X-Amz-Credential=AKIA%2F2026&X-Amz-Signature=0", false},
		{"", "", "X-Amz-Credential=" + key + "%2F2026&X-Amz-Credential=AKIA&X-Amz-Signature=0", false},
	} {
		r := newRequest(t, "GET", "https://api.example.com/?"+c.query, "")
		if c.header != "" {
			r.Header.Set(c.header, c.value)
		}
		_, err := set.Begin(api, r)
		if c.ok && err != nil {
			t.Errorf("%+v: %v", c, err)
		} else if !c.ok {
			wantRefusal(t, err, CodeExclusive)
		}
	}
	_, err := set.Begin(api, newRequest(t, "GET", "https://me:mine@api.example.com/", ""))
	wantRefusal(t, err, CodeExclusive)
}

func TestHygiene(t *testing.T) {
	set := newSet(t, nil)
	r := newRequest(t, "GET", "https://api.example.com/", "")
	for name, v := range map[string]string{"Range": "bytes=1-2", "If-Range": "x", "A-IM": "vcdiff", "Want-Digest": "sha-256",
		"Sec-WebSocket-Extensions": "permessage-deflate", "Grpc-Accept-Encoding": "gzip", "Accept-Encoding": "gzip;q=0.5, dcz, *, BR, sdch, identity"} {
		r.Header.Set(name, v)
	}
	begin(t, set, api, r)
	if got := r.Header.Get("Accept-Encoding"); len(r.Header) != 2 || got != "gzip;q=0.5, BR, identity" || r.Header.Get("Grpc-Accept-Encoding") != "identity" {
		t.Errorf("%v", r.Header)
	}
	r.Header = http.Header{"Accept-Encoding": {"sdch"}, "Range": {"bytes=0-"}}
	begin(t, set, Dest{Name: "else", Port: 443}, r)
	if r.Header.Get("Range") == "" || r.Header.Get("Accept-Encoding") != "sdch" {
		t.Errorf("another host's request became %v", r.Header)
	}
	begin(t, set, api, r)
	if r.Header.Get("Accept-Encoding") != "identity" {
		t.Errorf("%v", r.Header)
	}
	for _, method := range []string{"TRACE", "trace", "TRACK"} {
		_, err := set.Begin(api, newRequest(t, method, "https://api.example.com/", ""))
		wantRefusal(t, err, CodeMethodRefused)
	}
}

func TestNoSet(t *testing.T) {
	var set *Set
	r := newRequest(t, "TRACE", "https://api.example.com/", Placeholder)
	x := begin(t, set, api, r)
	if err := x.Respond(&http.Response{Header: http.Header{}}); err != nil || x.Note() != "" || len(x.Secrets()) != 0 || x.TextToServer() != nil || x.FromServer(true) != nil {
		t.Errorf("%v %+v", err, x)
	}
}
