package secret

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
)

// respond has a response to method pass through an exchange of newSet.
func respond(t testing.TB, set *Set, method string, resp *http.Response) error {
	t.Helper()
	return begin(t, set, api, newRequest(t, method, "https://api.example.com/", "")).Respond(resp)
}

// newResponse has a length only when known says so.
func newResponse(kind, body string, known bool) *http.Response {
	resp := &http.Response{StatusCode: 200, Header: http.Header{}, ContentLength: -1, Body: io.NopCloser(iotest.HalfReader(strings.NewReader(body)))}
	if kind != "" {
		resp.Header.Set("Content-Type", kind)
	}
	if known {
		resp.ContentLength = int64(len(body))
		resp.Header.Set("Content-Length", strconv.Itoa(len(body)))
	}
	return resp
}

func TestResponseHeaders(t *testing.T) {
	set := newSet(t, nil)
	key := set.Env()["KEY"]
	resp := newResponse("", "", true)
	resp.Header["Set-Cookie"] = []string{"a=1", "s=" + value + "; Secure"}
	resp.Header["Location"] = []string{"https://x/?q=s3cr3t%2F%22%3C%26%27%C3%A9+value%2B1"}
	resp.Header["X-Echo"] = []string{"Basic " + base64.StdEncoding.EncodeToString([]byte("me:"+value))}
	resp.Header["Accept-Ranges"] = []string{"bytes"}
	if err := respond(t, set, "GET", resp); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"Set-Cookie": "a=1|s=" + key + "; Secure", "Location": "https://x/?q=" + key, "Accept-Ranges": "",
		"X-Echo": "Basic " + base64.StdEncoding.EncodeToString([]byte("me:"+key)),
	} {
		if got := strings.Join(resp.Header[name], "|"); got != want {
			t.Errorf("%s: %q; want %q", name, got, want)
		}
	}
}

// TestResponseBodies sends values in bodies of every kind. Where the length is
// promised it is kept, elsewhere the placeholder is whole.
func TestResponseBodies(t *testing.T) {
	set := newSet(t, nil)
	key := set.Env()["KEY"]
	filler := strings.Repeat("x", maxWhole)
	for _, c := range []struct {
		kind, filler string
		known, keeps bool
		status       int
	}{
		{"application/json", "", true, false, 200},
		{"text/html", "", false, false, 404},
		{"text/html", filler, false, false, 200},
		{"text/html", filler, true, true, 200},
		{"text/html", "", true, true, 206},
		{"application/octet-stream", "", true, true, 200},
		{"application/x-protobuf", "", false, true, 200},
		{"", "", false, true, 200},
	} {
		body := "a " + value + " b" + c.filler + value
		resp := newResponse(c.kind, body, c.known)
		resp.StatusCode = c.status
		resp.Header.Set("Etag", `"tag"`)
		if err := respond(t, set, "GET", resp); err != nil {
			t.Fatal(err)
		}
		got := readAll(t, resp.Body)
		with := key
		if c.keeps {
			with = key[:len(value)]
		}
		if want := "a " + with + " b" + c.filler + with; got != want {
			t.Errorf("%+.20v: %.200q", c, got)
		}
		if resp.ContentLength >= 0 && (resp.ContentLength != int64(len(got)) || resp.Header.Get("Content-Length") != strconv.Itoa(len(got))) {
			t.Errorf("%.20v: length %d, %v", c, resp.ContentLength, resp.Header)
		}
		if (resp.ContentLength >= 0) != c.known {
			t.Errorf("%.20v: length %d", c, resp.ContentLength)
		}
		if weak := strings.HasPrefix(resp.Header.Get("Etag"), "W/"); weak != (c.known && !c.keeps) {
			t.Errorf("%.20v: ETag %s", c, resp.Header.Get("Etag"))
		}
	}
}

func TestUntouchedResponsesStay(t *testing.T) {
	resp := newResponse("text/plain", "nothing", true)
	resp.Header.Set("Etag", `"tag"`)
	resp.Header.Set("Content-Digest", "x")
	if err := respond(t, newSet(t, nil), "GET", resp); err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, resp.Body); got != "nothing" || resp.Header.Get("Etag") != `"tag"` || resp.Header.Get("Content-Digest") != "x" {
		t.Errorf("%q, %v", got, resp.Header)
	}
}

func TestCompressedResponses(t *testing.T) {
	set := newSet(t, nil)
	key := set.Env()["KEY"]
	quoted, _ := json.Marshal(value)
	for coding, encode := range encoders {
		for _, kind := range []string{"application/json", "application/octet-stream"} {
			resp := newResponse(kind, encode(string(quoted)+noise(100)), true)
			resp.Header.Set("Content-Encoding", coding)
			resp.Header.Set("Content-Digest", "x")
			if err := respond(t, set, "GET", resp); err != nil {
				t.Fatal(err)
			}
			got := readAll(t, resp.Body)
			want := `"` + key + `"` + noise(100)
			if kind != "application/json" {
				want = `"` + key[:len(quoted)-2] + `"` + noise(100)
			}
			if got != want || resp.ContentLength != -1 || len(resp.Header) != 1 {
				t.Errorf("%s, %s: %q, %d, %v", coding, kind, got, resp.ContentLength, resp.Header)
			}
		}
	}
}

func TestUnreadableResponses(t *testing.T) {
	set := newSet(t, nil)
	for _, coding := range []string{"compress", "gzip, dcz", "gzip, gzip, gzip, gzip"} {
		resp := newResponse("text/plain", "x", true)
		resp.Header.Set("Content-Encoding", coding)
		wantRefusal(t, respond(t, set, "GET", resp), CodeResponseNotReadable)
	}
	for coding, encode := range encoders {
		whole := encode("text")
		for _, body := range []string{"none of them", whole + "x", whole[:len(whole)-1]} {
			resp := newResponse("text/plain", body, true)
			resp.Header.Set("Content-Encoding", coding)
			if err := respond(t, set, "GET", resp); err != nil {
				t.Fatal(err)
			}
			_, err := io.ReadAll(resp.Body)
			wantRefusal(t, err, CodeResponseNotReadable)
		}
	}

	for upgrade, ok := range map[string]bool{"websocket": true, "h2c": false, "": false} {
		resp := &http.Response{StatusCode: 101, Header: http.Header{"Upgrade": {upgrade}}, Body: http.NoBody}
		if err := respond(t, set, "GET", resp); ok != (err == nil) {
			t.Errorf("%s: %v", upgrade, err)
		}
	}
}

func TestResponsesWithoutBody(t *testing.T) {
	set := newSet(t, nil)
	for _, c := range []struct {
		method string
		status int
	}{{"HEAD", 200}, {"GET", 204}, {"GET", 304}} {
		resp := newResponse("text/plain", "", false)
		resp.StatusCode, resp.ContentLength = c.status, 1234
		resp.Header.Set("Content-Length", "1234")
		resp.Header.Set("X-Echo", value)
		if err := respond(t, set, c.method, resp); err != nil {
			t.Fatal(err)
		}
		if resp.ContentLength != 1234 || resp.Header.Get("Content-Length") != "1234" || resp.Header.Get("X-Echo") == value {
			t.Errorf("%+v: %d, %v", c, resp.ContentLength, resp.Header)
		}
	}
}

func TestResponseTrailers(t *testing.T) {
	for _, known := range []bool{true, false} {
		set := newSet(t, nil)
		resp := newResponse("text/plain", "body", known)
		resp.Trailer = http.Header{"Grpc-Message": {"failed with s3cr3t/%22<&'%C3%A9 value+1"}}
		if err := respond(t, set, "GET", resp); err != nil {
			t.Fatal(err)
		}
		_ = readAll(t, resp.Body)
		if got, want := resp.Trailer.Get("Grpc-Message"), "failed with "+set.Env()["KEY"]; got != want {
			t.Errorf("%q; want %q", got, want)
		}
	}
}

func message(flag byte, s string) string {
	return string(append(binary.BigEndian.AppendUint32([]byte{flag}, uint32(len(s))), s...))
}

// TestMessagesAreNotHeld sends gRPC messages that end like a value begins.
func TestMessagesAreNotHeld(t *testing.T) {
	set := newSet(t, nil)
	from, to := io.Pipe()
	resp := newResponse("application/grpc+proto", "", false)
	resp.Body = from
	if err := respond(t, set, "POST", resp); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 1000)
	for _, c := range []struct{ send, want string }{
		{message(0, "abc"+value[:4]), message(0, "abc"+value[:4])},
		{message(0, "a"+value), message(0, "a"+set.Env()["KEY"][:len(value)])},
		{message(0, "") + message(0, value[:9])[:12], message(0, "") + message(0, value[:9])[:5]},
		{value[7:9], value[:9]},
	} {
		go func() { _, _ = io.WriteString(to, c.send) }()
		if n, err := io.ReadFull(resp.Body, p[:len(c.want)]); err != nil || string(p[:n]) != c.want {
			t.Errorf("%q, %v; want %q", p[:n], err, c.want)
		}
	}
	go func() { _, _ = io.WriteString(to, message(1, "compressed")) }()
	_, err := resp.Body.Read(p)
	wantRefusal(t, err, CodeResponseNotReadable)
	_ = resp.Body.Close()
}

func TestCutOffMessage(t *testing.T) {
	set := newSet(t, nil)
	sent := message(0, value)[:12]
	resp := newResponse("application/grpc", sent, false)
	if err := respond(t, set, "POST", resp); err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, resp.Body); got != sent {
		t.Errorf("%q; want %q", got, sent)
	}
}

func FuzzMessages(f *testing.F) {
	find := redactorOf("hunter2-hunter2")
	f.Add([]byte(message(0, "a hunter2-hunter2 b")+message(0, "hunter2")), uint8(3))
	f.Fuzz(func(t *testing.T, b []byte, size uint8) {
		var cuts []int
		for at := 0; at < len(b); at += int(size) + 1 {
			cuts = append(cuts, at)
		}
		whole, err := (&messages{inner: find.redact(true)}).Rewrite(nil, b, true)
		if err != nil {
			return
		}
		if out := pass(t, &messages{inner: find.redact(true)}, b, cuts); !bytes.Equal(out, whole) || len(out) != len(b) {
			t.Fatalf("%q becomes %q, as a whole %q", b, out, whole)
		}
	})
}

func TestShortValuesAreNotRecognised(t *testing.T) {
	set := newSet(t, func(s *Spec) { s.Value = "1234567" })
	resp := newResponse("text/plain", "1234567", true)
	if err := respond(t, set, "GET", resp); err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, resp.Body); got != "1234567" {
		t.Errorf("%q", got)
	}
	r := newRequest(t, "GET", "https://api.example.com/"+set.Env()["KEY"], "")
	begin(t, set, api, r)
	if r.URL.Path != "/1234567" {
		t.Errorf("%q", r.URL.Path)
	}
}

func TestWebSocket(t *testing.T) {
	set := newSet(t, nil)
	key := set.Env()["KEY"]
	x := begin(t, set, api, newRequest(t, "GET", "https://api.example.com/", ""))
	up := x.TextToServer()
	for _, c := range []struct{ send, want string }{
		{"token " + key, "token " + value},
		{` {"token":"` + key + `"}`, ` {"token":"s3cr3t/\"<&'é value+1"}`},
		{key[:10], key[:10]},
		{key[10:], key[10:]}, // messages don't flow together
	} {
		if got := string(pass(t, up, []byte(c.send), []int{0, 5, 9})); got != c.want {
			t.Errorf("%q; want %q", got, c.want)
		}
	}
	if got := string(pass(t, x.FromServer(true), []byte("a "+value), []int{5})); got != "a "+key {
		t.Errorf("%q", got)
	}
	if got := string(pass(t, x.FromServer(false), []byte("a "+value), []int{5})); got != "a "+key[:len(value)] {
		t.Errorf("%q", got)
	}
}
