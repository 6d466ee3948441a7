package sandbox

import (
	"encoding/base64"
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/errs"
)

var now = time.UnixMilli(1_700_000_000_000)

var testLimits = Limits{
	MemoryMinMiB: 768, MemoryMaxMiB: 4096, MemoryDefaultMiB: 1280,
	Labels: 5, Regions: []string{"ord", "ams"}, Isolations: []string{"gvisor"},
}

func parse(t *testing.T, text string) (Spec, error) {
	t.Helper()
	cfg, err := DecodeConfig(base64.StdEncoding.EncodeToString([]byte(text)))
	if err != nil {
		return Spec{}, err
	}
	return NewSpec(cfg, testLimits, now)
}

func TestSpec(t *testing.T) {
	plain := Spec{Region: "ord", MemoryMiB: 1280, Labels: map[string]string{}}
	with := func(change func(*Spec)) Spec { s := plain; change(&s); return s }
	for text, want := range map[string]Spec{
		``:                         plain,
		`{}`:                       plain,
		` {"timeout":"session"} `:  plain,
		`{"unheard_of":{"a":[1]}}`: plain,
		`{"memory_mb":1280,"volumes":[],"labels":null,"secrets":null,"root":null}`: plain,
		`{"volumes":{},"secrets":{},"ssh":false,"debug":false,"isolation":"auto"}`: plain,
		`{"memory_mb":768}`:            with(func(s *Spec) { s.MemoryMiB = 768 }),
		`{"memory_mb":4096}`:           with(func(s *Spec) { s.MemoryMiB = 4096 }),
		`{"timeout":"30s"}`:            with(func(s *Spec) { s.StopAt = now.Add(30 * time.Second) }),
		`{"timeout":"15m"}`:            with(func(s *Spec) { s.StopAt = now.Add(15 * time.Minute) }),
		`{"stop_at_ms":1700000060000}`: with(func(s *Spec) { s.StopAt = now.Add(time.Minute) }),
		`{"allow_net":null}`:           plain,
		`{"allow_net":[]}`:             with(func(s *Spec) { s.AllowNet = &[]string{} }),
		`{"allow_net":["Example.COM.","*.example.org:443"]}`: with(func(s *Spec) {
			s.AllowNet = &[]string{"example.com", "*.example.org:443"}
		}),
		`{"labels":{"a":""},"region":"ams","env":{"A":"b"}}`: with(func(s *Spec) {
			s.Labels = map[string]string{"a": ""}
			s.Region = "ams"
			s.Env = map[string]string{"A": "b"}
		}),
	} {
		got, err := parse(t, text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s\n%s", text, diff)
		}
	}
}

func TestBadSpecs(t *testing.T) {
	long := strings.Repeat("x", 200)
	for text, code := range map[string]string{
		`[]`:                              CodeInvalidConfig,
		`null`:                            CodeInvalidConfig,
		`{`:                               CodeInvalidConfig,
		`{"memory_mb":"much"}`:            CodeInvalidConfig,
		`{"memory_mb":1.5}`:               CodeInvalidConfig,
		`{"labels":["a"]}`:                CodeInvalidConfig,
		`{"labels":{"a":1}}`:              CodeInvalidConfig,
		`{"memory_mb":767}`:               "MEMORY_OUT_OF_RANGE",
		`{"memory_mb":4097}`:              "MEMORY_OUT_OF_RANGE",
		`{"memory_mb":0}`:                 "MEMORY_OUT_OF_RANGE",
		`{"region":"fra"}`:                "UNKNOWN_REGION",
		`{"labels":{"":"x"}}`:             "INVALID_LABELS",
		`{"labels":{"` + long + `":"x"}}`: "INVALID_LABELS",
		`{"labels":{"x":"` + long + `"}}`: "INVALID_LABELS",
		`{"labels":{"x":"a\u0000b"}}`:     "INVALID_LABELS",
		`{"labels":{"a":"","b":"","c":"","d":"","e":"","f":""}}`: "INVALID_LABELS",
		`{"env":{"A=B":"x"}}`:                         "INVALID_ENV",
		`{"env":{"":"x"}}`:                            "INVALID_ENV",
		`{"env":{"A":"\u0000"}}`:                      "INVALID_ENV",
		`{"timeout":"15"}`:                            "INVALID_TIMEOUT",
		`{"timeout":"0s"}`:                            "INVALID_TIMEOUT",
		`{"timeout":"-1s"}`:                           "INVALID_TIMEOUT",
		`{"timeout":"99999999999999999s"}`:            "INVALID_TIMEOUT",
		`{"stop_at_ms":1700000000000}`:                "INVALID_TIMEOUT",
		`{"stop_at_ms":-5}`:                           "INVALID_TIMEOUT",
		`{"stop_at_ms":9223372036854775807}`:          "INVALID_TIMEOUT",
		`{"stop_at_ms":1700000060000,"timeout":"5s"}`: "INVALID_TIMEOUT",
		`{"root":{"volume":"v"}}`:                     CodeNotSupported,
		`{"root":"v"}`:                                CodeNotSupported,
		`{"root":{}}`:                                 CodeInvalidConfig,
		`{"volumes":[{"path":"/d","volume":"v"}]}`:    CodeNotSupported,
		`{"volumes":{"/d":"v"}}`:                      CodeNotSupported,
		`{"volumes":{"d":"v"}}`:                       CodeInvalidConfig,
		`{"volumes":7}`:                               CodeInvalidConfig,
		`{"ssh":true}`:                                CodeNotSupported,
		`{"port":8000}`:                               CodeNotSupported,
		`{"port":0}`:                                  CodeInvalidConfig,
		`{"isolation":"microvm"}`:                     "UNSUPPORTED_ISOLATION",
	} {
		_, err := parse(t, text)
		if err == nil {
			t.Errorf("%s: accepted", text)
			continue
		}
		if got := errs.Public(err).Code; got != code {
			t.Errorf("%s: code %s, want %s (%v)", text, got, code, err)
		}
	}
}

func TestMaxLifetime(t *testing.T) {
	l := testLimits
	l.MaxLifetime = time.Hour
	if _, err := NewSpec(api.SandboxConfig{Timeout: "60m"}, l, now); err != nil {
		t.Error(err)
	}
	if _, err := NewSpec(api.SandboxConfig{Timeout: "61m"}, l, now); err == nil {
		t.Error("a lifetime over the limit is accepted")
	}
}

func TestTooManyVariables(t *testing.T) {
	env := map[string]string{}
	for i := range maxEnv + 1 {
		env["V"+strconv.Itoa(i)] = ""
	}
	if _, err := NewSpec(api.SandboxConfig{Env: env}, testLimits, now); errs.Public(err).Code != "INVALID_ENV" {
		t.Errorf("error = %v", err)
	}
}

func TestDecodeConfigForms(t *testing.T) {
	text := `{"labels":{"k":"ÿþ?>"}}`
	for _, enc := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
		cfg, err := DecodeConfig(enc.EncodeToString([]byte(text)))
		if err != nil || cfg.Labels["k"] != "ÿþ?>" {
			t.Errorf("%v %v", cfg, err)
		}
	}
	for _, bad := range []string{"%%%", strings.Repeat("A", MaxConfig+1)} {
		if _, err := DecodeConfig(bad); errs.Public(err).Code != CodeInvalidConfig {
			t.Errorf("%.10s: %v", bad, err)
		}
	}
}

func TestIDs(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		id := NewID("ord")
		if !ValidID(id) || seen[id] {
			t.Fatalf("bad id %q", id)
		}
		seen[id] = true
	}
	for _, bad := range []string{"", "sbx_ord_", "sbx_ORD_00000000000000000000", "sbx_ord_0000000000000000000i", "sbx_ord_000000000000000000000", "../sbx_ord_00000000000000000000", "sbx_ord_00000000000000000000\n"} {
		if ValidID(bad) {
			t.Errorf("%q is accepted", bad)
		}
	}
}

// FuzzConfig: whatever the header holds, the answer is a valid spec or an
// error with text for the caller.
func FuzzConfig(f *testing.F) {
	for _, text := range []string{`{}`, `{"timeout":"5m","labels":{"a":"b"}}`, `{"volumes":[{"path":"/x","volume":"v"}]}`, `{"secrets":{"K":{"hosts":["h"],"value":"v"}}}`, `[[[[`} {
		f.Add(base64.StdEncoding.EncodeToString([]byte(text)))
	}
	f.Fuzz(func(t *testing.T, header string) {
		cfg, err := DecodeConfig(header)
		if err == nil {
			var spec Spec
			if spec, err = NewSpec(cfg, testLimits, now); err == nil {
				if err := spec.check(testLimits); err != nil {
					t.Fatal(err)
				}
				if _, err := json.Marshal(api.Date{Time: spec.StopAt}); err != nil {
					t.Fatal(err)
				}
				return
			}
		}
		if public := errs.Public(err); public.Class == errs.Internal || len(public.Message) > 1000 {
			t.Fatalf("%v", err)
		}
	})
}

// The JavaScript SDK's btoa writes one byte per character, the Python SDK and
// everyone else UTF-8.
func TestDecodeConfigTakesLatin1(t *testing.T) {
	for _, text := range []string{"{\"labels\":{\"k\":\"gr\xfc\xdfe\"}}", `{"labels":{"k":"grüße"}}`} {
		cfg, err := DecodeConfig(base64.StdEncoding.EncodeToString([]byte(text)))
		if err != nil || cfg.Labels["k"] != "grüße" {
			t.Errorf("%q: %q %v", text, cfg.Labels, err)
		}
	}
}
