package sandbox

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/errs"
	"github.com/atollhq/atoll/internal/gateway/policy"
	"github.com/atollhq/atoll/internal/gateway/secret"
)

// Codes of refused secrets.
const (
	CodeInvalidSecrets     = "INVALID_SECRETS"
	CodeSecretHostExcluded = "SECRET_HOST_EXCLUDED"
)

// Secrets are a sandbox's secrets on their way from the create call to its
// shim. They can't be printed, logged or encoded by accident; whoever carries
// them writes them nowhere. A nil *Secrets holds none. Its methods may be
// called concurrently.
type Secrets struct {
	mu    sync.Mutex
	specs map[string]secret.Spec
}

// NewSecrets holds specifications; it is nil when there are none.
func NewSecrets(specs map[string]secret.Spec) *Secrets {
	if len(specs) == 0 {
		return nil
	}
	return &Secrets{specs: specs}
}

// Specs returns the specifications, or nil once they were dropped.
func (s *Secrets) Specs() map[string]secret.Spec {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.specs
}

// Drop forgets the values: the shim has them.
func (s *Secrets) Drop() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.specs = nil
}

const hidden = "(hidden)"

// Format implements fmt.Formatter: no verb shows a value.
func (*Secrets) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, hidden) }

// LogValue implements slog.LogValuer.
func (*Secrets) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalJSON implements json.Marshaler.
func (*Secrets) MarshalJSON() ([]byte, error) { return []byte(`"` + hidden + `"`), nil }

// readSecrets validates the secrets of a configuration whose environment and
// allow-list are valid.
func readSecrets(cfg api.SandboxConfig) (*Secrets, error) {
	specs := make(map[string]secret.Spec, len(cfg.Secrets))
	for name, s := range cfg.Secrets {
		specs[name] = secret.Spec{
			Hosts: s.Hosts, Value: s.Value, In: s.In, Methods: s.Methods, Paths: s.Paths,
			Exclusive: s.Exclusive, Sign: (*secret.Sign)(s.Sign),
		}
	}
	if len(specs) == 0 {
		return nil, nil
	}
	set, err := secret.New(specs)
	if err != nil {
		return nil, badSecret(err)
	}
	for _, name := range slices.Sorted(maps.Keys(set.Env())) {
		if _, taken := cfg.Env[name]; taken {
			return nil, errs.New(errs.Invalid, CodeInvalidSecrets, "env.%s: a secret sets this variable, too: remove one of them", clip(name))
		}
	}
	if cfg.AllowNet != nil {
		if err := checkReach(specs, *cfg.AllowNet, "allow_net doesn't allow it"); err != nil {
			return nil, err
		}
	}
	return NewSecrets(specs), nil
}

// badSecret names the field. Errors of package secret hold no value.
func badSecret(err error) error {
	e, ok := errors.AsType[*secret.SpecError](err)
	if !ok {
		return errs.Wrap(err, errs.Invalid, CodeInvalidSecrets, "secrets: they can't be used")
	}
	field := "secrets"
	for _, part := range []string{e.Name, e.Field} {
		if part != "" {
			field += "." + clip(part)
		}
	}
	return errs.New(errs.Invalid, CodeInvalidSecrets, "%s: %s", field, e.Reason)
}

// checkReach refuses a secret that has a host of which the list allows
// nothing: it could never be used.
func checkReach(specs map[string]secret.Spec, entries []string, why string) error {
	reach, err := newReach(entries)
	if err != nil {
		return fmt.Errorf("read allow-list: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(specs)) {
		for i, host := range specs[name].Hosts {
			hosts, err := newReach([]string{host})
			if err != nil {
				return fmt.Errorf("read hosts: %w", err)
			}
			if !reach.meets(hosts) {
				return errs.New(errs.Invalid, CodeSecretHostExcluded, "secrets.%s.hosts[%d]: %q can't be reached, %s: change the one or the other", clip(name), i, clip(host), why)
			}
		}
	}
	return nil
}

// reach is a list with an example of what each of its entries allows.
type reach struct {
	list     *policy.List
	examples []destination
}

func newReach(entries []string) (r reach, err error) {
	if r.list, err = policy.ParseList(entries); err != nil {
		return r, err
	}
	for _, entry := range r.list.Entries() {
		r.examples = append(r.examples, example(entry))
	}
	return r, nil
}

// meets reports whether there is a destination that both allow. Of two
// patterns that overlap, one's examples are all allowed by the other.
func (r reach) meets(other reach) bool {
	return slices.ContainsFunc(r.examples, other.allows) || slices.ContainsFunc(other.examples, r.allows)
}

func (r reach) allows(d destination) (ok bool) {
	if d.addr.IsValid() {
		_, ok = r.list.MatchAddr(d.addr, d.port)
	} else {
		_, ok = r.list.MatchName(d.name, d.port)
	}
	return ok
}
