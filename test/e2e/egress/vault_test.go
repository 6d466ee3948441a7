//go:build e2e

package egress

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/atollhq/atoll/test/e2e/harness"
)

// safe is what a test knows of a sandbox's secrets.
type safe struct {
	values map[string]string // by name
	holes  map[string]string // placeholders, by name
}

// newValue draws a value.
func newValue(prefix string) string { return prefix + strings.ToLower(rand.Text()) }

func newSafe() *safe {
	return &safe{holes: map[string]string{}, values: map[string]string{
		"KEY": newValue("sk_live_"), "ODD": `p"w\+%` + newValue(""), "ONLY_HEADER": newValue("oh"), "READER": newValue("rd"),
		"EXCLUSIVE": newValue("ex"), "HOOK": newValue("hk"), "AWS_SECRET_ACCESS_KEY": newValue("aws"),
	}}
}

// config is what a sandbox with these secrets is created with.
func (s *safe) config(allow []string) map[string]any {
	secret := func(name string, more map[string]any, hosts ...string) map[string]any {
		out := map[string]any{"value": s.values[name], "hosts": hosts}
		for k, v := range more {
			out[k] = v
		}
		return out
	}
	config := map[string]any{"secrets": map[string]any{
		"KEY":                   secret("KEY", nil, harness.APIHost, harness.UntrustHost, harness.OtherCertHost),
		"ODD":                   secret("ODD", nil, harness.APIHost),
		"ONLY_HEADER":           secret("ONLY_HEADER", map[string]any{"in": []string{"header"}}, harness.APIHost),
		"READER":                secret("READER", map[string]any{"methods": []string{"GET"}, "paths": []string{"/v1/*"}}, harness.APIHost),
		"EXCLUSIVE":             secret("EXCLUSIVE", map[string]any{"exclusive": true}, harness.ExclusiveHost),
		"HOOK":                  secret("HOOK", map[string]any{"sign": map[string]any{"type": "hmac", "header": "X-Signature", "prefix": "sha256="}}, harness.SignHost),
		"AWS_SECRET_ACCESS_KEY": secret("AWS_SECRET_ACCESS_KEY", map[string]any{"sign": map[string]any{"type": "aws", "key_id": "AKIAREALREALREALREAL"}}, harness.AWSHost),
	}}
	if allow != nil {
		config["allow_net"] = allow
	}
	return config
}

// learn asks a sandbox for its placeholders.
func (s *safe) learn(ctx context.Context, t *testing.T, c *harness.Conn) {
	t.Helper()
	for name, value := range s.values {
		hole := strings.TrimSpace(c.MustShell(ctx, t, "printenv "+name))
		if s.holes[name] = hole; hole == "" || hole == value {
			t.Fatalf("%s is %q in the sandbox", name, hole)
		}
	}
}

// fill replaces what stands for values and placeholders in a text.
func (s *safe) fill(text string) string {
	var pairs []string
	for name, value := range s.values {
		quoted, _ := json.Marshal(value) // of a string
		mac := hmac.New(sha256.New, []byte(value))
		_, _ = mac.Write([]byte(`{"event": 1}`)) // the body in sign-hmac; never fails
		pairs = append(pairs,
			"{"+name+"}", value, "{"+name+":hole}", s.holes[name],
			"{"+name+":basic}", base64.StdEncoding.EncodeToString([]byte("user:"+value)),
			"{"+name+":json}", string(quoted), "{"+name+":form}", url.QueryEscape(value),
			"{"+name+":hmac}", hex.EncodeToString(mac.Sum(nil)))
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

// spellings are the ways to write a value that must not be found anywhere.
func spellings(value string) []string {
	quoted, _ := json.Marshal(value) // of a string
	out := []string{value, url.QueryEscape(value), strings.Trim(string(quoted), `"`)}
	var percent, unicode strings.Builder
	for _, c := range []byte(value) {
		percent.WriteString("%" + strings.ToUpper(hex.EncodeToString([]byte{c})))
		unicode.WriteString(`\u00` + hex.EncodeToString([]byte{c}))
	}
	out = append(out, percent.String(), unicode.String())
	return append(out, base64s(value)...)
}

// base64s are what is the same of a value in base64, wherever it begins.
func base64s(value string) []string {
	var out []string
	for shift := range 3 {
		whole := (len(value) - (3-shift)%3) / 3 * 3 // bytes that have characters of their own
		inner := []byte(value)[(3-shift)%3:][:whole]
		out = append(out, base64.RawStdEncoding.EncodeToString(inner), base64.RawURLEncoding.EncodeToString(inner))
	}
	return out
}

func vaultHosts() []string {
	return []string{harness.APIHost, harness.RawHost, harness.TenantHost, harness.UntrustHost, harness.OtherCertHost,
		harness.AWSHost, harness.SignHost, harness.ExclusiveHost}
}

// TestSecrets runs everything that secrets are used for, and must not be.
func TestSecrets(t *testing.T) {
	t.Parallel()
	l, safes := newLane(t), map[scene]*safe{vault: newSafe(), vaultOpen: newSafe()}
	ctx := harness.Context(t, laneLimit)
	for s, allow := range map[scene][]string{vault: vaultHosts(), vaultOpen: nil} {
		l.conns[s] = l.create(ctx, t, safes[s].config(allow))
		safes[s].learn(ctx, t, l.conns[s])
	}
	for _, u := range uses() {
		t.Run(u.id, func(t *testing.T) { l.use(ctx, t, safes[u.in], u) })
	}
}

func (l *lane) use(ctx context.Context, t *testing.T, s *safe, u use) {
	mark := l.Internet.Mark()
	out := l.play(ctx, t, l.conns[u.in], u.script, false)
	l.settle(ctx, t, l.conns[u.in])
	l.arrivalsWith(ctx, mark, func([]string) bool { return arrived(l.items(mark), s, u.arrives) })
	said, seen := out.Stdout+out.Stderr, l.items(mark)
	for name, value := range s.values {
		for _, form := range spellings(value) {
			if strings.Contains(said, form) {
				t.Errorf("the sandbox reads the value of %s as %q", name, form)
			}
		}
		l.staysHome(t, mark, value)
	}
	for _, want := range u.arrives {
		if !arrived(seen, s, []string{want}) {
			t.Errorf("nothing arrived with %q", s.fill(want))
		}
	}
	for _, bad := range u.absent {
		if slices.ContainsFunc(seen, func(item string) bool { return holds(item, s, bad) }) {
			t.Errorf("this arrived: %q", s.fill(bad))
		}
	}
	if u.silent && len(seen) > 0 {
		t.Errorf("a request arrived: %q", seen)
	}
	for _, want := range u.prints {
		if !strings.Contains(said, s.fill(want)) {
			t.Errorf("the script doesn't print %q", s.fill(want))
		}
	}
	if u.id == "sign-aws" {
		verifySigned(t, l.Internet.Requests(mark), s.values["AWS_SECRET_ACCESS_KEY"])
	}
	if t.Failed() {
		t.Logf("what arrived:\n%.6000s\nthe script says:\n%.4000s", strings.Join(seen, "\n"), said)
	}
}

// items are the requests, messages and raw bytes that arrived.
func (l *lane) items(since harness.Mark) []string {
	var out []string
	for _, r := range l.Internet.Requests(since) {
		if r.Target != "/settle" {
			out = append(out, r.String())
		}
	}
	for _, line := range l.arrivals(since) {
		if strings.HasPrefix(line, harness.AtAPI+" message ") || strings.HasPrefix(line, harness.AtRaw+" ") {
			out = append(out, line)
		}
	}
	return out
}

// arrived reports whether there is an item for each of the texts.
func arrived(items []string, s *safe, all []string) bool {
	for _, want := range all {
		if !slices.ContainsFunc(items, func(item string) bool { return holds(item, s, want) }) {
			return false
		}
	}
	return true
}

// holds reports whether an item has all parts of a text.
func holds(item string, s *safe, all string) bool {
	for part := range strings.SplitSeq(all, "&&") {
		if !strings.Contains(item, s.fill(strings.Trim(part, " "))) {
			return false
		}
	}
	return true
}

// staysHome checks that a value arrived nowhere but at hosts of secrets, and
// there only over TLS.
func (l *lane) staysHome(t *testing.T, since harness.Mark, value string) {
	t.Helper()
	for _, line := range l.arrivals(since) {
		if strings.Contains(line, value) && !strings.HasPrefix(line, harness.AtAPI+" ") {
			t.Errorf("a value left for somewhere else: %.500s", line)
		}
	}
	for _, r := range l.Internet.Requests(since) {
		host, _, _ := strings.Cut(r.Host, ":")
		if strings.Contains(r.String(), value) && (r.SNI == "" || r.SNI != host || host == harness.TenantHost) {
			t.Errorf("a value went to the wrong place:\n%s", r)
		}
	}
}
