package secret

import (
	"errors"
	"net/http"
	"strings"
	"testing"
)

// fakeSigner signs what holds its placeholder.
type fakeSigner struct {
	stand placeholders
	err   error
}

func (f fakeSigner) Sign(r *http.Request) (bool, error) {
	if !strings.Contains(r.Header.Get("Authorization"), f.stand.keyID) {
		return false, f.err
	}
	r.Header.Set("Authorization", "signed")
	return true, f.err
}

func awsSpec() Spec {
	return Spec{Hosts: []string{"api.example.com"}, Value: value, Sign: &Sign{Type: "aws", KeyID: "AKIAEXAMPLE", SessionToken: "the session token"}}
}

func signingSet(t testing.TB, fail error) *Set {
	t.Helper()
	set := &Set{env: map[string]string{}}
	err := set.add("AWS_SECRET_ACCESS_KEY", map[string]Spec{"AWS_SECRET_ACCESS_KEY": awsSpec()}, func(_ Spec, stand placeholders) (signer, error) {
		return fakeSigner{stand, fail}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	set.find = set.placeholders()
	return set
}

func TestSigning(t *testing.T) {
	set := signingSet(t, nil)
	env := set.Env()
	if len(env) != 3 || len(env["AWS_ACCESS_KEY_ID"]) < 40 || len(env["AWS_SESSION_TOKEN"])%3 != len("the session token")%3 {
		t.Fatalf("%v", env)
	}
	r := newRequest(t, "POST", "https://api.example.com/"+env["AWS_SECRET_ACCESS_KEY"], env["AWS_SECRET_ACCESS_KEY"])
	r.Header.Set("Content-Type", "text/plain")
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential="+env["AWS_ACCESS_KEY_ID"]+"/x")
	x := begin(t, set, api, r)
	if got := readAll(t, r.Body); r.Header.Get("Authorization") != "signed" || got != env["AWS_SECRET_ACCESS_KEY"] || r.URL.Path[1:] != got {
		t.Errorf("%v, %s, %s", r.Header, r.URL.Path, got)
	}
	if got := x.Secrets(); len(got) != 1 || x.Note() != "" {
		t.Errorf("%v, %q", got, x.Note())
	}
	resp := newResponse("text/plain", value+" the session token", true)
	if err := x.Respond(resp); err != nil {
		t.Fatal(err)
	}
	if got, want := readAll(t, resp.Body), env["AWS_SECRET_ACCESS_KEY"]+" "+env["AWS_SESSION_TOKEN"]; got != want {
		t.Errorf("%q; want %q", got, want)
	}
	if x := begin(t, set, api, newRequest(t, "GET", "https://api.example.com/", "")); len(x.Secrets()) != 0 {
		t.Error("a request without a placeholder counts as signed")
	}
}

func TestSigningFails(t *testing.T) {
	_, err := signingSet(t, errors.New("no reason")).Begin(api, newRequest(t, "GET", "https://api.example.com/", ""))
	wantRefusal(t, err, CodeSigningFailed)

	set := signingSet(t, nil)
	r := newRequest(t, "GET", "http://api.example.com/", "")
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential="+set.Env()["AWS_ACCESS_KEY_ID"]+"/x")
	_, err = set.Begin(Dest{Name: "api.example.com", Port: 80}, r)
	wantRefusal(t, err, CodeNeedsTLS)
}

func TestSignSpecs(t *testing.T) {
	aws := func(change func(*Sign)) Spec {
		s := awsSpec()
		change(s.Sign)
		return s
	}
	hmac := func(change func(*Sign)) Spec {
		s := Spec{Hosts: []string{"h.example"}, Value: "v", Sign: &Sign{Type: "hmac", Header: "X-Sig"}}
		change(s.Sign)
		return s
	}
	for _, c := range []struct {
		spec  Spec
		field string // empty when it is valid
	}{
		{aws(func(*Sign) {}), ""},
		{aws(func(s *Sign) { s.Type = "gcp" }), "sign.type"},
		{aws(func(s *Sign) { s.KeyID = "" }), "sign.key_id"},
		{aws(func(s *Sign) { s.KeyID = "a/b" }), "sign.key_id"},
		{aws(func(s *Sign) { s.Header = "X" }), "sign.header"},
		{aws(func(s *Sign) { s.Over = []string{"body"} }), "sign.over"},
		{aws(func(s *Sign) { s.SessionToken, s.SessionEnv = "", "T" }), "sign.session_env"},
		{aws(func(s *Sign) { s.SessionToken = "a\nb" }), "sign.session_token"},
		{aws(func(s *Sign) { s.KeyIDEnv = "1" }), "sign.key_id_env"},
		{aws(func(s *Sign) { s.KeyIDEnv = "K" }), "sign.key_id_env"}, // the secret's own
		{aws(func(s *Sign) { s.KeyIDEnv = "L" }), "sign.key_id_env"}, // another secret's
		{aws(func(s *Sign) { s.KeyIDEnv, s.SessionEnv = "A", "A" }), "sign.session_env"},
		{hmac(func(*Sign) {}), ""},
		{hmac(func(s *Sign) {
			s.Algorithm, s.Encoding, s.TimeHeader, s.Over = "sha512", "base64", "X-Time", []string{"timestamp", "text:.", "header:Date", "body"}
		}), ""},
		{hmac(func(s *Sign) { s.Header = "" }), "sign.header"},
		{hmac(func(s *Sign) { s.Header = "a b" }), "sign.header"},
		{hmac(func(s *Sign) { s.TimeHeader = "x-sig" }), "sign.time_header"},
		{hmac(func(s *Sign) { s.Algorithm = "md5" }), "sign.algorithm"},
		{hmac(func(s *Sign) { s.Encoding = "base32" }), "sign.encoding"},
		{hmac(func(s *Sign) { s.Prefix = "\r\n" }), "sign.prefix"},
		{hmac(func(s *Sign) { s.Over = []string{"body", "cookies"} }), "sign.over[1]"},
		{hmac(func(s *Sign) { s.Over = []string{"header:"} }), "sign.over[0]"},
		{hmac(func(s *Sign) { s.Over = []string{"timestamp"} }), "sign.over[0]"},
		{hmac(func(s *Sign) { s.Over = make([]string, 17) }), "sign.over"},
		{hmac(func(s *Sign) { s.KeyID = "x" }), "sign.key_id"},
		{func() Spec { s := awsSpec(); s.In = []string{"header"}; return s }(), "in"},
	} {
		_, err := New(map[string]Spec{"K": c.spec, "L": {Hosts: []string{"h.example"}, Value: "v"}})
		got := ""
		if e, ok := errors.AsType[*SpecError](err); ok {
			got = e.Field
		}
		// L comes after K, whose variables it may not have.
		if got != c.field || err != nil && strings.Contains(err.Error(), value) {
			t.Errorf("%+v: %q (%v); want %q", c.spec.Sign, got, err, c.field)
		}
	}
}
