package sign

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

// The credentials of AWS's documentation.
var (
	documented = keys{"AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", ""}
	suite      = keys{"AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", ""}
	stand      = keys{"DENO_SECRET_PLACEHOLDER_id", "DENO_SECRET_PLACEHOLDER_secret", "DENO_SECRET_PLACEHOLDER_token"}
	lasting    = keys{stand.id, stand.secret, ""}
	temporary  = keys{"ASIAREAL", "real/secret", "real+token/=="}
)

type keys struct{ id, secret, token string }

// signer replaces one pair of keys by another. It works in both directions, so
// the tests need no other way to sign.
func signer(at string, from, to keys) *AWS {
	a := NewAWS(AWSConfig{
		KeyID: to.id, Secret: to.secret, SessionToken: to.token,
		PlaceholderKeyID: from.id, PlaceholderSecret: from.secret, PlaceholderToken: from.token,
	})
	now, err := time.Parse(timeFormat, at)
	if err != nil {
		panic(err)
	}
	a.now = func() time.Time { return now }
	return a
}

const (
	day  = "20130524T000000Z"
	none = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" // hash of nothing
)

// request reads a request as a server does.
func request(t testing.TB, lines ...string) *http.Request {
	t.Helper()
	head, body, _ := strings.Cut(strings.Join(lines, "\n"), "\n\n")
	r := httptest.NewRequest("GET", "/", strings.NewReader(body))
	first, rest, _ := strings.Cut(head, "\n")
	var target string
	if _, err := fmt.Sscanf(first, "%s %s", &r.Method, &target); err != nil {
		t.Fatal(err)
	}
	var err error
	if r.URL, err = url.Parse("https://ignored" + target); err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(rest, "\n") {
		name, value, _ := strings.Cut(line, ":")
		if strings.EqualFold(name, "host") {
			r.Host = strings.TrimSpace(value)
			continue
		}
		r.Header.Add(name, strings.TrimSpace(value))
	}
	if body == "" {
		r.Body = http.NoBody
	}
	r.RequestURI = ""
	return r
}

func authorization(k keys, scope, signed, signature string) string {
	return "Authorization: AWS4-HMAC-SHA256 Credential=" + k.id + "/" + scope + "/aws4_request,SignedHeaders=" + signed + ",Signature=" + signature
}

func mustSign(t *testing.T, a *AWS, r *http.Request) {
	t.Helper()
	if used, err := a.Sign(r); err != nil || !used {
		t.Fatalf("Sign: %v, %v", used, err)
	}
}

// published are requests and signatures from AWS's documentation: the test
// suite of Signature Version 4, and S3's "Examples: Signature Calculations".
var published = []struct {
	name  string
	by    keys
	at    string
	lines []string
	want  string
}{
	{"get-vanilla", suite, "20150830T123600Z", []string{
		"GET /", "Host: example.amazonaws.com", "X-Amz-Date: 20150830T123600Z",
		authorization(suite, "20150830/us-east-1/service", "host;x-amz-date", "%s"),
	}, "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"},
	{"get-vanilla-query-order-key-case", suite, "20150830T123600Z", []string{
		"GET /?Param2=value2&Param1=value1", "Host: example.amazonaws.com", "X-Amz-Date: 20150830T123600Z",
		authorization(suite, "20150830/us-east-1/service", "host;x-amz-date", "%s"),
	}, "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"},
	{"post-x-www-form-urlencoded", suite, "20150830T123600Z", []string{
		"POST /", "Host: example.amazonaws.com", "X-Amz-Date: 20150830T123600Z", "Content-Type: application/x-www-form-urlencoded",
		authorization(suite, "20150830/us-east-1/service", "content-type;host;x-amz-date", "%s"), "", "Param1=value1",
	}, "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"},
	{"S3 GET object", documented, day, []string{
		"GET /test.txt", "Host: examplebucket.s3.amazonaws.com", "Range: bytes=0-9", "X-Amz-Content-Sha256: " + none, "X-Amz-Date: " + day,
		authorization(documented, "20130524/us-east-1/s3", "host;range;x-amz-content-sha256;x-amz-date", "%s"),
	}, "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"},
	{"S3 PUT object", documented, day, []string{
		"PUT /test%%24file.text", "Host: examplebucket.s3.amazonaws.com", "Date: Fri, 24 May 2013 00:00:00 GMT",
		"X-Amz-Date: " + day, "X-Amz-Storage-Class: REDUCED_REDUNDANCY",
		"X-Amz-Content-Sha256: 44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072",
		authorization(documented, "20130524/us-east-1/s3", "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class", "%s"), "", "Welcome to Amazon S3.",
	}, "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"},
	{"S3 GET bucket lifecycle", documented, day, []string{
		"GET /?lifecycle", "Host: examplebucket.s3.amazonaws.com", "X-Amz-Content-Sha256: " + none, "X-Amz-Date: " + day,
		authorization(documented, "20130524/us-east-1/s3", "host;x-amz-content-sha256;x-amz-date", "%s"),
	}, "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"},
	{"S3 list objects", documented, day, []string{
		"GET /?max-keys=2&prefix=J", "Host: examplebucket.s3.amazonaws.com", "X-Amz-Content-Sha256: " + none, "X-Amz-Date: " + day,
		authorization(documented, "20130524/us-east-1/s3", "host;x-amz-content-sha256;x-amz-date", "%s"),
	}, "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"},
	{"S3 presigned", documented, day, []string{
		"GET /test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%%2F20130524%%2Fus-east-1%%2Fs3%%2Faws4_request" +
			"&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host&X-Amz-Signature=%s", "Host: examplebucket.s3.amazonaws.com",
	}, "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"},
}

// signatureOf is the signature in a request's header or query.
func signatureOf(r *http.Request) string {
	if s := r.URL.Query().Get(paramSignature); s != "" {
		return s
	}
	_, s, _ := strings.Cut(r.Header.Get("Authorization"), "Signature=")
	return s
}

// TestPublished verifies each documented signature, signs with other keys, and
// signs back, which must give the documented one again.
func TestPublished(t *testing.T) {
	for _, p := range published {
		t.Run(p.name, func(t *testing.T) {
			r := request(t, fmt.Sprintf(strings.Join(p.lines, "\n"), p.want))
			mustSign(t, signer(p.at, p.by, lasting), r)
			if got := signatureOf(r); got == p.want {
				t.Error("the signature is still the first key's")
			}
			mustSign(t, signer(p.at, lasting, p.by), r)
			if got := signatureOf(r); got != p.want {
				t.Errorf("signature %s, want %s", got, p.want)
			}
		})
	}
}

func publishedRequest(t testing.TB, name string) *http.Request {
	for _, p := range published {
		if p.name == name {
			return request(t, fmt.Sprintf(strings.Join(p.lines, "\n"), p.want))
		}
	}
	t.Fatalf("no request %q", name)
	return nil
}

func code(err error) string {
	var e *Error
	if !errors.As(err, &e) {
		return fmt.Sprint(err)
	}
	return e.Code
}

func TestRefused(t *testing.T) {
	const get, presigned = "S3 GET object", "S3 presigned"
	auth := func(old, new string) func(*http.Request) {
		return func(r *http.Request) {
			r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), old, new, 1))
		}
	}
	query := func(old, new string) func(*http.Request) {
		return func(r *http.Request) { r.URL.RawQuery = strings.Replace(r.URL.RawQuery, old, new, 1) }
	}
	set := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	for _, tt := range []struct {
		name, request, at string
		change            func(*http.Request)
		want              string
	}{
		{"other method", get, day, func(r *http.Request) { r.Method = "DELETE" }, CodeMismatch},
		{"other path", get, day, func(r *http.Request) { r.URL.Path = "/other" }, CodeMismatch},
		{"other query", get, day, func(r *http.Request) { r.URL.RawQuery = "acl" }, CodeMismatch},
		{"other host", get, day, func(r *http.Request) { r.Host = "elsewhere.test" }, CodeMismatch},
		{"other header", get, day, set("Range", "bytes=0-10"), CodeMismatch},
		{"other payload", get, day, set(headerPayload, payloadUnsigned), CodeMismatch},
		{"other region", get, day, auth("us-east-1", "us-east-2"), CodeMismatch},
		{"other signature", get, day, auth("Signature=f0", "Signature=f1"), CodeMismatch},
		{"signed header dropped", get, day, func(r *http.Request) { r.Header.Del("Range") }, CodeHeaderMissing},
		{"hop-by-hop header signed", get, day, auth("host;", "connection;host;"), CodeHeaderMissing},
		{"too old", get, "20130524T001501Z", nil, CodeDate},
		{"in the future", get, "20130523T234459Z", nil, CodeDate},
		{"other day", get, day, set(headerDate, "20130525T000000Z"), CodeMalformed},
		{"no date", get, day, func(r *http.Request) { r.Header.Del(headerDate) }, CodeMalformed},
		{"two dates", get, day, func(r *http.Request) { r.Header.Add(headerDate, day) }, CodeMalformed},
		{"two payloads", get, day, func(r *http.Request) { r.Header.Add(headerPayload, none) }, CodeMalformed},
		{"two authorizations", get, day, func(r *http.Request) { r.Header.Add("Authorization", "Bearer x") }, CodeMalformed},
		{"in header and query", get, day, func(r *http.Request) {
			r.URL.RawQuery = "X-Amz-Credential=" + documented.id + "%2F20130524"
		}, CodeMalformed},
		{"longer key id", get, day, auth("Credential=", "Credential=x"), CodeMalformed},
		{"no host", get, day, auth("host;", ""), CodeMalformed},
		{"not sorted", get, day, auth("host;range", "range;host"), CodeMalformed},
		{"short signature", get, day, auth("Signature=f0", "Signature="), CodeMalformed},
		{"no region", get, day, auth("us-east-1/", ""), CodeMalformed},
		{"twice", get, day, auth("Signature=", "Signature=x,Signature="), CodeMalformed},
		{"long", get, day, auth("Signature=", strings.Repeat(",", maxAuthorization)+"Signature="), CodeMalformed},
		{"asymmetric", get, day, auth(algorithm, asymmetric), CodeSigV4A},
		{"version 2", get, day, set("Authorization", "AWS "+documented.id+":frJIUN8DYpKDtOLCwo//yllqDzg="), CodeUnsupported},
		{"version 2 in the query", get, day, func(r *http.Request) {
			r.Header.Del("Authorization")
			r.URL.RawQuery = "AWSAccessKeyId=" + documented.id + "&Expires=1&Signature=x"
		}, CodeUnsupported},
		{"event stream", get, day, set(headerPayload, "STREAMING-AWS4-HMAC-SHA256-EVENTS"), CodeUnsupported},
		{"asymmetric chunks", get, day, set(headerPayload, "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD"), CodeSigV4A},

		{"presigned, expired", presigned, "20130525T000001Z", nil, CodeDate},
		{"presigned, in the future", presigned, "20130523T234459Z", nil, CodeDate},
		{"presigned, other expiry", presigned, day, query("86400", "86401"), CodeMismatch},
		{"presigned, no expiry", presigned, day, query("X-Amz-Expires=86400&", ""), CodeMalformed},
		{"presigned for ever", presigned, day, query("86400", "8640000"), CodeMalformed},
		{"presigned, parameter twice", presigned, day, query("X-Amz-Date", "X-Amz-Date=20130524T000000Z&X-Amz-Date"), CodeMalformed},
		{"presigned, more in the query", presigned, day, query("X-Amz-Date", "acl&X-Amz-Date"), CodeMismatch},
		{"presigned, chunks", presigned, day, set(headerPayload, payloadChunks), CodeUnsupported},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := publishedRequest(t, tt.request)
			if tt.change != nil {
				tt.change(r)
			}
			used, err := signer(tt.at, documented, temporary).Sign(r)
			if used || code(err) != tt.want {
				t.Fatalf("used %v, error %v; want code %s", used, err, tt.want)
			}
			if sent := fmt.Sprint(r.Header, r.URL); strings.Contains(sent, temporary.id) || strings.Contains(sent, temporary.token) {
				t.Errorf("a refused request has real credentials: %s", sent)
			}
		})
	}
}

func TestWrongPlaceholderSecret(t *testing.T) {
	from := documented
	from.secret += "x"
	if _, err := signer(day, from, temporary).Sign(publishedRequest(t, "S3 GET object")); code(err) != CodeMismatch {
		t.Errorf("error %v", err)
	}
}

func TestOthersAreLeftAsTheyAre(t *testing.T) {
	for _, a := range []*AWS{signer(day, stand, temporary), signer(day, keys{}, temporary)} {
		for _, p := range published {
			r := publishedRequest(t, p.name)
			before := fmt.Sprint(r.Header, r.URL)
			used, err := a.Sign(r)
			if after := fmt.Sprint(r.Header, r.URL); used || err != nil || after != before {
				t.Errorf("%s: %v, %v; %s", p.name, used, err, after)
			}
		}
	}
}

// TestSessionToken goes from keys that last to temporary ones and back.
func TestSessionToken(t *testing.T) {
	for _, name := range []string{"S3 GET object", "S3 presigned"} {
		t.Run(name, func(t *testing.T) {
			r := publishedRequest(t, name)
			want := fmt.Sprint(r.URL.Query(), signatureOf(r))
			mustSign(t, signer(day, documented, stand), r)
			if token(r) != stand.token {
				t.Fatalf("token %q is not the placeholder", token(r))
			}
			mustSign(t, signer(day, stand, temporary), r)
			if token(r) != temporary.token {
				t.Fatalf("token %q is not the real one", token(r))
			}
			if r.Header.Get("Authorization") != "" && !strings.Contains(r.Header.Get("Authorization"), "x-amz-date;x-amz-security-token,") {
				t.Errorf("the token is not signed: %s", r.Header.Get("Authorization"))
			}
			mustSign(t, signer(day, temporary, documented), r)
			if got := fmt.Sprint(r.URL.Query(), signatureOf(r)); got != want || token(r) != "" {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
}

func token(r *http.Request) string {
	return r.Header.Get(headerToken) + r.URL.Query().Get(headerToken)
}

// TestForms signs by hand each form that a known client uses.
func TestForms(t *testing.T) {
	for _, tt := range []struct {
		name, service, target, path, query string
	}{
		{"once encoded", "s3", "/a%20b/%C3%A4+c", "/a%20b/%C3%A4%2Bc", ""},
		{"as it is sent", "s3", "/a+b", "/a+b", ""},
		{"not cleaned", "s3", "/a//b/../c", "/a//b/../c", ""},
		{"twice encoded", "dynamodb", "/a%20b", "/a%2520b", ""},
		{"cleaned", "dynamodb", "/a//b/../c/", "/a/c/", ""},
		{"dots as they are", "dynamodb", "/a/../b", "/a/../b", ""},
		{"sorted", "s3", "/?b=2&a=2&a=1&c", "/", "a=1&a=2&b=2&c="},
		{"encoded anew", "s3", "/?k=a/b&e=%7e", "/", "e=~&k=a%2Fb"},
		{"as it is", "s3", "/?k=a/b", "/", "k=a/b"},
		{"plus", "s3", "/?k=a+b", "/", "k=a%2Bb"},
		{"plus for a space", "s3", "/?k=a+b", "/", "k=a%20b"},
		{"not decodable", "s3", "/?k=%zz", "/", "k=%zz"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := request(t, "GET "+tt.target, "Host: h.test", "X-Amz-Date: "+day, "X-Amz-Content-Sha256: "+none)
			c := &claim{keyID: stand.id, day: "20130524", region: "r", service: tt.service, signed: []string{"host", "x-amz-date"}}
			c.at, _ = time.Parse(timeFormat, day)
			sign := func(k keys) string {
				return c.sign(signingKey(k.secret, c), r, form{tt.path, tt.query}, none)
			}
			_, auth, _ := strings.Cut(authorization(stand, c.scope(), "host;x-amz-date", sign(stand)), ": ")
			r.Header.Set("Authorization", strings.Replace(auth, "/aws4_request/", "/", 1))
			mustSign(t, signer(day, stand, documented), r)
			if got := signatureOf(r); got != sign(documented) {
				t.Errorf("signed as another form: %s", got)
			}
		})
	}
}

// TestBodyIsHeld: without a payload's hash in the header, the body is hashed.
func TestBodyIsHeld(t *testing.T) {
	a := signer("20150830T123600Z", suite, lasting)
	r := publishedRequest(t, "post-x-www-form-urlencoded")
	r.ContentLength = -1
	mustSign(t, a, r)
	if held := a.budget.held.Load(); held != int64(len("Param1=value1")) {
		t.Errorf("%d bytes are held", held)
	}
	body, err := io.ReadAll(r.Body)
	if string(body) != "Param1=value1" || err != nil || r.ContentLength != int64(len(body)) {
		t.Errorf("body %q of length %d, %v", body, r.ContentLength, err)
	}
	_, _ = r.Body.Close(), r.Body.Close()
	if held := a.budget.held.Load(); held != 0 {
		t.Errorf("%d bytes are held after the end", held)
	}
}

// TestUnsignedWithoutSaying: some operations of other services than S3 leave
// the body out, and it isn't held.
func TestUnsignedWithoutSaying(t *testing.T) {
	a := signer("20150830T123600Z", suite, lasting)
	r := publishedRequest(t, "post-x-www-form-urlencoded")
	c, err := findHeader(r)
	if err != nil {
		t.Fatal(err)
	}
	want := c.sign(signingKey(suite.secret, c), r, form{"/", ""}, payloadUnsigned)
	r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), c.signature, want, 1))
	mustSign(t, a, r)
	if held := a.budget.held.Load(); held != 0 {
		t.Errorf("%d bytes are held", held)
	}
	mustSign(t, signer("20150830T123600Z", lasting, suite), r)
	if got := signatureOf(r); got != want {
		t.Errorf("signature %s, want %s", got, want)
	}
}

func TestHeldBodiesAreBounded(t *testing.T) {
	for _, tt := range []struct {
		name   string
		length int64
		body   io.Reader
		held   int64
		want   string
	}{
		{"announced", maxSignedBody + 1, strings.NewReader(""), 0, CodeBodySize},
		{"not announced", -1, io.LimitReader(zeros{}, maxSignedBody+1), 0, CodeBodySize},
		{"too many", 100, strings.NewReader(""), maxHeld - 99, CodeBusy},
		{"other", 13, strings.NewReader("Param1=value2"), 0, CodeMismatch},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := signer("20150830T123600Z", suite, lasting)
			a.budget.held.Store(tt.held)
			r := publishedRequest(t, "post-x-www-form-urlencoded")
			r.ContentLength, r.Body = tt.length, io.NopCloser(tt.body)
			if used, err := a.Sign(r); used || code(err) != tt.want {
				t.Errorf("%v, %v; want %s", used, err, tt.want)
			}
			if held := a.budget.held.Load(); held != tt.held {
				t.Errorf("%d bytes are held after a refusal", held-tt.held)
			}
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// TestKeysAreNotPrinted: in whatever way a signer or its configuration is
// printed.
func TestKeysAreNotPrinted(t *testing.T) {
	cfg := AWSConfig{KeyID: "KEY", Secret: "KEY", SessionToken: "KEY"}
	hcfg := HMACConfig{Key: "KEY", Header: "X"}
	h, err := NewHMAC(hcfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []any{cfg, &cfg, NewAWS(cfg), hcfg, &hcfg, h} {
		if text := fmt.Sprintf("%v %+v %#v %s", v, v, v, v); strings.Contains(text, "KEY") {
			t.Errorf("%T: %s", v, text)
		}
	}
}

func FuzzAuthorization(f *testing.F) {
	f.Add("AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,SignedHeaders=host,Signature="+none, "a=b&%zz")
	f.Add("AWS4-ECDSA-P256-SHA256 AKIAIOSFODNN7EXAMPLE", "X-Amz-Credential=AKIAIOSFODNN7EXAMPLE&X-Amz-Algorithm=AWS4-HMAC-SHA256")
	f.Add("", publishedRequest(f, "S3 presigned").URL.RawQuery)
	f.Fuzz(func(t *testing.T, value, query string) {
		c, err := parseAuthorization(value)
		if (c == nil) == (err == nil) {
			t.Fatalf("claim %v with error %v", c, err)
		}
		r := publishedRequest(t, "S3 GET object")
		r.Header.Set("Authorization", value)
		r.URL.RawQuery = query
		signed := strings.Contains(value, "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41") ||
			strings.Contains(query, "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404")
		used, err := signer(day, documented, temporary).Sign(r)
		if used && !signed {
			t.Fatalf("signed what the placeholder didn't sign: %q %q", value, query)
		}
		if err != nil && !strings.HasPrefix(code(err), "SIGN_") {
			t.Fatalf("error without a code: %v", err)
		}
	})
}

// roundTrip sends a request over a pipe and returns what the server reads.
func roundTrip(r *http.Request) (string, error) {
	client, server := net.Pipe()
	got := make(chan string)
	go func() {
		raw, _ := io.ReadAll(server)
		got <- string(raw)
	}()
	tr := &http.Transport{DialContext: dialOnce(client)}
	r.URL.Scheme = "http"
	_, err := tr.RoundTrip(r)
	_ = client.Close()
	return <-got, err
}
