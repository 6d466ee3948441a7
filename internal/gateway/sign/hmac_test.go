package sign

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

func newHMAC(t *testing.T, cfg HMACConfig) *HMAC {
	t.Helper()
	h, err := NewHMAC(cfg)
	if err != nil {
		t.Fatal(err)
	}
	h.now = func() time.Time { return time.Unix(1531420618, 0) }
	return h
}

// TestHMAC has GitHub's and Slack's documented examples; the others were
// computed with OpenSSL.
func TestHMAC(t *testing.T) {
	const slackBody = "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
	for _, tt := range []struct {
		name string
		cfg  HMACConfig
		body string
		want http.Header
	}{
		{"GitHub", HMACConfig{Key: "It's a Secret to Everybody", Header: "X-Hub-Signature-256", Prefix: "sha256="},
			"Hello, World!", http.Header{"X-Hub-Signature-256": {"sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"}}},
		{"Slack", HMACConfig{Key: "8f742231b10e8888abcd99yyyzzz85a5", Header: "X-Slack-Signature", Prefix: "v0=",
			Over: []string{"text:v0", "timestamp", "body"}, Separator: ":", TimeHeader: "X-Slack-Request-Timestamp"},
			slackBody, http.Header{"X-Slack-Signature": {"v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"}, "X-Slack-Request-Timestamp": {"1531420618"}}},
		{"Stripe", HMACConfig{Key: "whsec_test", Header: "Stripe-Signature", Prefix: "t={timestamp},v1=", Over: []string{"timestamp", "body"}, Separator: "."},
			`{"id":1}`, http.Header{"Stripe-Signature": {"t=1531420618,v1=ba5ca4af1070537e476649289709c42105686a3660aa9fcc37935a6f48f59330"}}},
		{"all parts", HMACConfig{Key: "k", Algorithm: "sha512", Encoding: "base64", Header: "X-Sig", TimeHeader: "X-Time", Separator: "\n",
			Over: []string{"method", "path", "query", "header:Host", "header:X-A", "header:Content-Length", "header:X-Absent", "header:X-Time", "text:a:b"}},
			"four", http.Header{"X-Sig": {"tmhJ7CzQJPzwCQjN9ymuc8HOc5OBSmpGUZVp/tsg0NSL1MWYhUhAtCdnNspL+XO2hugBSUeFc+ZNCim+oxASHA=="}, "X-Time": {"1531420618"}}},
		{"sha1", HMACConfig{Key: "k", Algorithm: "sha1", Header: "X-Sig"}, "four", http.Header{"X-Sig": {"84cc4ab55e107fc76870282033a0f685c3ebf217"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHMAC(t, tt.cfg)
			r := request(t, "POST /a%20b?q=1&r", "Host: h.test", "X-A: 1", "X-A: 2", tt.cfg.Header+": forged", tt.cfg.Header+": twice", "", tt.body)
			r.ContentLength = int64(len(tt.body))
			if used, err := h.Sign(r); !used || err != nil {
				t.Fatalf("%v, %v", used, err)
			}
			for name, want := range tt.want {
				if got := r.Header.Values(name); len(got) != 1 || got[0] != want[0] {
					t.Errorf("%s: %q, want %q", name, got, want)
				}
			}
			if body, err := io.ReadAll(r.Body); string(body) != tt.body || err != nil || r.ContentLength != int64(len(tt.body)) {
				t.Errorf("body %q, %v", body, err)
			}
			_ = r.Body.Close()
			if held := h.budget.held.Load(); held != 0 {
				t.Errorf("%d bytes are held after the end", held)
			}
		})
	}
}

func TestHMACBodyIsBounded(t *testing.T) {
	h := newHMAC(t, HMACConfig{Key: "k", Header: "X-Sig"})
	r := request(t, "POST /", "Host: h.test", "X-Sig: guest")
	r.Body, r.ContentLength = io.NopCloser(io.LimitReader(zeros{}, maxHMACBody+1)), -1
	if used, err := h.Sign(r); used || code(err) != CodeBodySize {
		t.Errorf("%v, %v", used, err)
	}
}

func TestHMACConfigRefused(t *testing.T) {
	for name, cfg := range map[string]HMACConfig{
		"no key":               {Header: "X"},
		"algorithm":            {Key: "k", Header: "X", Algorithm: "md5"},
		"encoding":             {Key: "k", Header: "X", Encoding: "base32"},
		"no header":            {Key: "k"},
		"header with a break":  {Key: "k", Header: "X\r\nY"},
		"host":                 {Key: "k", Header: "Host"},
		"framing":              {Key: "k", Header: "Transfer-Encoding"},
		"prefix with a break":  {Key: "k", Header: "X", Prefix: "a\r\nb: "},
		"time header":          {Key: "k", Header: "X", TimeHeader: "Content-Length"},
		"one header for both":  {Key: "k", Header: "X", TimeHeader: "x"},
		"part":                 {Key: "k", Header: "X", Over: []string{"boddy"}},
		"part with too much":   {Key: "k", Header: "X", Over: []string{"body:x"}},
		"header of no name":    {Key: "k", Header: "X", Over: []string{"header:"}},
		"too many parts":       {Key: "k", Header: "X", Over: strings.Split(strings.Repeat("body,", maxParts)+"body", ",")},
		"time that isn't told": {Key: "k", Header: "X", Over: []string{"timestamp"}},
	} {
		if _, err := NewHMAC(cfg); code(err) != CodeConfig {
			t.Errorf("%s: %v", name, err)
		}
	}
}
