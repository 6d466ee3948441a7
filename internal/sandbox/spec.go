package sandbox

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/errs"
)

// Codes of refused configurations.
const (
	CodeInvalidConfig = "INVALID_SANDBOX_CONFIG"
	CodeNotSupported  = "NOT_SUPPORTED_YET"
)

// MaxConfig bounds the configuration header, in bytes of base64.
const MaxConfig = 64 << 10

const (
	maxEnv      = 256      // variables
	maxEnvName  = 256      // bytes
	maxEnvValue = 32 << 10 // bytes
)

// Limits bound what a configuration may ask for.
type Limits struct {
	MemoryMinMiB     int
	MemoryMaxMiB     int
	MemoryDefaultMiB int
	Labels           int
	Forks            int           // children of one fork
	MaxLifetime      time.Duration // 0 is unlimited
	Regions          []string      // the first is the default
	Isolations       []string      // besides "auto"
}

// Spec is a validated request for a sandbox.
type Spec struct {
	Region    string
	MemoryMiB int
	Labels    map[string]string // not nil
	Env       map[string]string
	AllowNet  *[]string // in normal form; nil allows what is not refused in every mode
	Secrets   *Secrets
	StopAt    time.Time // zero for the lifetime "session"
	Idle      IdlePolicy
}

// DecodeConfig reads the configuration header: JSON in base64, of either
// alphabet, padded or not. An absent header is an empty configuration.
func DecodeConfig(header string) (api.SandboxConfig, error) {
	var cfg api.SandboxConfig
	if len(header) > MaxConfig {
		return cfg, invalid("the configuration is larger than %d KiB, or %d KiB in base64: give it fewer or smaller secrets, variables or hosts",
			MaxConfig*3/4>>10, MaxConfig>>10)
	}
	raw, err := decodeBase64(header)
	defer clear(raw) // it may hold secrets
	if err != nil {
		return cfg, invalid("the header %s is not base64: send the configuration as JSON in base64", api.HeaderConfig)
	}
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 {
		return cfg, nil
	}
	if raw[0] != '{' {
		return cfg, invalid("the configuration must be a JSON object")
	}
	if !utf8.Valid(raw) {
		raw = fromLatin1(raw)
		defer clear(raw)
	}
	if err := json.Unmarshal(raw, &cfg); err != nil {
		return api.SandboxConfig{}, badJSON(err)
	}
	return cfg, nil
}

// fromLatin1 decodes what the JavaScript SDK makes of text beyond ASCII: it
// encodes with btoa, one byte per character.
func fromLatin1(raw []byte) []byte {
	out := make([]byte, 0, 2*len(raw))
	for _, b := range raw {
		out = utf8.AppendRune(out, rune(b))
	}
	return out
}

func decodeBase64(s string) ([]byte, error) {
	s = strings.TrimRight(strings.TrimSpace(s), "=")
	s = strings.NewReplacer("-", "+", "_", "/").Replace(s)
	return base64.RawStdEncoding.DecodeString(s)
}

// badJSON turns a decoder's error into one that names the field. It shows the
// kind of what was found there, never the text.
func badJSON(err error) error {
	t, ok := errors.AsType[*json.UnmarshalTypeError](err)
	if !ok || t.Field == "" {
		return invalid("the configuration is not valid JSON")
	}
	kind, _, _ := strings.Cut(t.Value, " ") // "number 7"
	code := CodeInvalidConfig
	switch field, _, _ := strings.Cut(t.Field, "."); field {
	case "allow_net":
		code = CodeInvalidAllowNet
	case "secrets":
		code = CodeInvalidSecrets
	case "idle_pause", "idle_pause_to_disk":
		code = CodeInvalidIdle
	}
	return errs.New(errs.Invalid, code, "the field %q has the wrong type: it is a JSON %s", t.Field, kind)
}

// NewSpec validates a configuration at the time now. Unknown fields have been
// ignored by then; known ones that ask for something that this version can't
// do are refused.
func NewSpec(cfg api.SandboxConfig, l Limits, now time.Time) (Spec, error) {
	spec := Spec{Region: cfg.Region, MemoryMiB: l.MemoryDefaultMiB, Labels: cfg.Labels, Env: cfg.Env}
	if spec.Region == "" {
		spec.Region = l.Regions[0]
	}
	if spec.Labels == nil {
		spec.Labels = map[string]string{}
	}
	if cfg.MemoryMB != nil {
		spec.MemoryMiB = *cfg.MemoryMB
	}
	var err error
	if spec.StopAt, err = stopTime(cfg, l, now); err != nil {
		return spec, err
	}
	idle, err := ReadIdleChange(&cfg.IdlePause, cfg.IdlePauseToDisk)
	if err != nil {
		return spec, err
	}
	spec.Idle = idle.apply(IdlePolicy{})
	if err := spec.check(l); err != nil {
		return spec, err
	}
	if spec.AllowNet, err = readAllowNet(cfg.AllowNet); err != nil {
		return spec, err
	}
	if spec.Secrets, err = readSecrets(cfg); err != nil {
		return spec, err
	}
	return spec, checkLater(cfg, l)
}

func (s Spec) check(l Limits) error {
	if s.MemoryMiB < l.MemoryMinMiB || s.MemoryMiB > l.MemoryMaxMiB {
		return errs.New(errs.Invalid, "MEMORY_OUT_OF_RANGE", "memory_mb is %d and must lie between %d and %d MiB", s.MemoryMiB, l.MemoryMinMiB, l.MemoryMaxMiB)
	}
	if !slices.Contains(l.Regions, s.Region) {
		return errs.New(errs.Invalid, "UNKNOWN_REGION", "there is no region %q here: use one of %s", clip(s.Region), strings.Join(l.Regions, ", "))
	}
	if err := CheckLabels(s.Labels, l.Labels); err != nil {
		return err
	}
	return checkEnv(s.Env)
}

// CheckLabels checks number and size of labels.
func CheckLabels(labels map[string]string, most int) error {
	if len(labels) > most {
		return badLabel("there are %d labels and at most %d are allowed", len(labels), most)
	}
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		switch {
		case key == "":
			return badLabel("a label has an empty key")
		case len(key) > api.MaxLabelKey:
			return badLabel("the label key %q is longer than %d bytes", clip(key), api.MaxLabelKey)
		case len(labels[key]) > api.MaxLabelValue:
			return badLabel("the value of label %q is longer than %d bytes", clip(key), api.MaxLabelValue)
		case !printable(key) || !printable(labels[key]):
			return badLabel("the label %q holds control characters", clip(key))
		}
	}
	return nil
}

func badLabel(format string, args ...any) error {
	return errs.New(errs.Invalid, "INVALID_LABELS", format, args...)
}

func checkEnv(env map[string]string) error {
	if len(env) > maxEnv {
		return badEnv("there are %d environment variables and at most %d are allowed", len(env), maxEnv)
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		switch {
		case name == "" || len(name) > maxEnvName || strings.ContainsAny(name, "=\x00"):
			return badEnv("%q can't be the name of an environment variable", clip(name))
		case len(env[name]) > maxEnvValue:
			return badEnv("the environment variable %q is longer than %d KiB", clip(name), maxEnvValue>>10)
		case strings.ContainsRune(env[name], 0):
			return badEnv("the environment variable %q holds a zero byte", clip(name))
		}
	}
	return nil
}

func badEnv(format string, args ...any) error {
	return errs.New(errs.Invalid, "INVALID_ENV", format, args...)
}

func invalid(format string, args ...any) error {
	return errs.New(errs.Invalid, CodeInvalidConfig, format, args...)
}

var timeoutPattern = regexp.MustCompile(`^([0-9]{1,9})(s|m)$`)

// stopTime reads the lifetime, which the JavaScript SDK sends as the time of
// its end and the Python SDK as its length.
func stopTime(cfg api.SandboxConfig, l Limits, now time.Time) (time.Time, error) {
	var at time.Time
	switch {
	case cfg.StopAtMS != nil && cfg.Timeout != "":
		return at, badTimeout("give either stop_at_ms or timeout, not both")
	case cfg.StopAtMS != nil:
		if *cfg.StopAtMS <= now.UnixMilli() || *cfg.StopAtMS > maxMillis {
			return at, badTimeout("stop_at_ms is not a time in the future, in milliseconds since 1970")
		}
		at = time.UnixMilli(*cfg.StopAtMS)
	case cfg.Timeout == "" || cfg.Timeout == "session":
		return at, nil
	default:
		d, err := parseTimeout(cfg.Timeout)
		if err != nil {
			return at, err
		}
		at = now.Add(d)
	}
	if l.MaxLifetime > 0 && at.Sub(now) > l.MaxLifetime {
		return at, badTimeout("the lifetime is longer than this server's limit of %s", l.MaxLifetime)
	}
	return at, nil
}

// maxMillis is the year 9999, up to which times can be formatted.
const maxMillis = 253_402_300_799_999

func parseTimeout(s string) (time.Duration, error) {
	m := timeoutPattern.FindStringSubmatch(s)
	if m == nil {
		return 0, badTimeout(`timeout is %q and must be "session" or a length such as "30s" or "15m"`, clip(s))
	}
	n, err := strconv.Atoi(m[1])
	if err != nil || n == 0 {
		return 0, badTimeout("the timeout must be positive")
	}
	unit := time.Second
	if m[2] == "m" {
		unit = time.Minute
	}
	return time.Duration(n) * unit, nil
}

func badTimeout(format string, args ...any) error {
	return errs.New(errs.Invalid, "INVALID_TIMEOUT", format, args...)
}

func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// clip bounds text that came from outside and goes into a message.
func clip(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
