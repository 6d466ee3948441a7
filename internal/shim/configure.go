package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/gateway/policy"
	"github.com/atollhq/atoll/internal/gateway/secret"
	"github.com/atollhq/atoll/internal/link"
	"github.com/atollhq/atoll/internal/shim/wire"
)

// own is what this shim's sandbox has of its own: known when the shim starts,
// or late, for a spare. The values of secrets are in the set only, which the
// gateway has, too.
type own struct {
	late sync.Mutex // held while a spare is configured
	done bool       // a configuration was tried; guarded by late

	mu      sync.Mutex        // guards the following
	given   map[string]string // the client's variables
	env     map[string]string // these and the placeholders
	allow   *policy.List
	ceiling *policy.List
	set     *secret.Set
	secrets []api.NetworkSecret
}

// personal is what another sandbox gets that continues from this one. It
// holds the values of the secrets.
func (o *own) personal() wire.Personal {
	o.mu.Lock()
	defer o.mu.Unlock()
	p := wire.Personal{Env: maps.Clone(o.given), AllowNet: entries(o.allow), Secrets: o.set.Specs()}
	if o.ceiling != nil {
		p.Ceiling = o.ceiling.Entries()
	}
	return p
}

// entries returns nil for no list.
func entries(list *policy.List) *[]string {
	if list == nil {
		return nil
	}
	all := append([]string{}, list.Entries()...)
	return &all
}

// adopt puts network and secrets into place, before any code of the client's
// runs. What it was given holds no secrets afterwards.
func (s *Shim) adopt(p *wire.Personal) error {
	specs := p.Secrets
	p.Secrets = nil
	allow, err := parseList(p.AllowNet)
	if err != nil {
		return fmt.Errorf("read allow-list: %w", err)
	}
	var ceiling *policy.List
	if len(p.Ceiling) > 0 {
		if ceiling, err = policy.ParseList(p.Ceiling); err != nil {
			return fmt.Errorf("read ceiling: %w", err)
		}
	}
	set, err := newSet(specs)
	if err != nil {
		return err
	}
	env, err := mergeEnv(p.Env, set)
	if err != nil {
		return err
	}
	s.parts.Gateway.SetSecrets(set)
	s.parts.Gateway.SetPolicy(allow, ceiling)
	s.own.mu.Lock()
	defer s.own.mu.Unlock()
	s.own.given, s.own.env, s.own.allow, s.own.ceiling = p.Env, env, allow, ceiling
	s.own.set, s.own.secrets = set, describe(specs)
	return nil
}

func parseList(entries *[]string) (*policy.List, error) {
	if entries == nil {
		return nil, nil
	}
	return policy.ParseList(*entries)
}

func newSet(specs wire.Secrets) (*secret.Set, error) {
	if len(specs) == 0 {
		return nil, nil
	}
	set, err := secret.New(specs)
	if err != nil {
		return nil, fmt.Errorf("read secrets: %w", err)
	}
	return set, nil
}

// mergeEnv adds the placeholders to the client's variables.
func mergeEnv(env map[string]string, set *secret.Set) (map[string]string, error) {
	if set == nil {
		return env, nil
	}
	all := maps.Clone(env)
	if all == nil {
		all = map[string]string{}
	}
	for name, placeholder := range set.Env() {
		if _, taken := all[name]; taken {
			return nil, fmt.Errorf("the variable %q is set by a secret and by the client", name)
		}
		all[name] = placeholder
	}
	return all, nil
}

func describe(specs wire.Secrets) []api.NetworkSecret {
	var out []api.NetworkSecret
	for _, name := range slices.Sorted(maps.Keys(specs)) {
		out = append(out, api.NetworkSecret{Name: name, Hosts: slices.Clone(specs[name].Hosts)})
	}
	return out
}

// prepareNetwork puts the network into place before the machine starts. A
// spare reaches nothing until it is configured.
func (s *Shim) prepareNetwork() error {
	if s.spec.Spare {
		return s.adopt(&wire.Personal{AllowNet: &[]string{}})
	}
	if err := s.openAudit(); err != nil {
		return err
	}
	return s.adopt(&s.spec.Personal)
}

// configure makes a spare somebody's sandbox: first its network, then what
// its agent must know. When it fails, the spare is closed again and of no use
// any more.
func (s *Shim) configure(p wire.Personal) error {
	return s.operate(context.Background(), requestTimeout, func(ctx context.Context) error { return s.configureSpare(ctx, p) })
}

func (s *Shim) configureSpare(ctx context.Context, p wire.Personal) error {
	s.own.late.Lock()
	defer s.own.late.Unlock()
	if !s.spec.Spare || s.own.done {
		return errors.New("the sandbox has its configuration already")
	}
	s.own.done = true
	if err := s.personaliseSpare(ctx, p); err != nil {
		return errors.Join(err, s.adopt(&wire.Personal{AllowNet: &[]string{}}))
	}
	return nil
}

func (s *Shim) personaliseSpare(ctx context.Context, p wire.Personal) error {
	if err := s.openAudit(); err != nil {
		return err
	}
	if err := s.adopt(&p); err != nil {
		return err
	}
	update := link.Update{Env: s.environment()}
	if s.trustsCA() && !s.spec.Gateway.Strict { // with strict mode it does from the start
		update.ExtraRoots = s.guestRoots()
	}
	if len(update.Env) == 0 && update.ExtraRoots == "" {
		return nil
	}
	l, err := s.running()
	if err != nil {
		return err
	}
	return l.tell(ctx, func(w io.Writer) error { return link.SendUpdate(w, update) })
}

var errUnconfigured = errors.New("the sandbox has no configuration yet")

// configured reports whether the sandbox is somebody's.
func (s *Shim) configured() bool {
	s.own.late.Lock()
	defer s.own.late.Unlock()
	return !s.spec.Spare || s.own.done
}

func (s *Shim) environment() map[string]string {
	s.own.mu.Lock()
	defer s.own.mu.Unlock()
	return s.own.env
}

// trustsCA reports whether the guest must trust the gateway's authority:
// whether the gateway opens any of its TLS connections.
func (s *Shim) trustsCA() bool {
	s.own.mu.Lock()
	defer s.own.mu.Unlock()
	return s.spec.Gateway.Strict || len(s.own.secrets) > 0
}

// guestRoots are the certificates that the guest trusts beside its image's.
func (s *Shim) guestRoots() string {
	roots := s.spec.ExtraRoots
	if !s.trustsCA() {
		return roots
	}
	if roots != "" && !strings.HasSuffix(roots, "\n") {
		roots += "\n"
	}
	return roots + s.parts.Gateway.CAPEM()
}

func (s *Shim) openAudit() error {
	if s.parts.Audit == nil {
		return nil
	}
	return s.parts.Audit.Open()
}

// setPolicy replaces the allow-list, if a change is given, and describes the
// result.
func (s *Shim) setPolicy(change *wire.SetPolicy) (api.NetworkPolicy, error) {
	s.own.late.Lock()
	defer s.own.late.Unlock()
	if s.spec.Spare && !s.own.done {
		return api.NetworkPolicy{}, errUnconfigured
	}
	s.own.mu.Lock()
	defer s.own.mu.Unlock()
	if change != nil {
		allow, err := parseList(change.AllowNet)
		if err != nil {
			return api.NetworkPolicy{}, fmt.Errorf("read allow-list: %w", err)
		}
		s.parts.Gateway.SetPolicy(allow, s.own.ceiling)
		s.own.allow = allow
	}
	p := api.NetworkPolicy{Strict: s.spec.Gateway.Strict, Secrets: s.own.secrets, AllowNet: entries(s.own.allow)}
	if s.own.ceiling != nil {
		p.Ceiling = s.own.ceiling.Entries()
	}
	return p, nil
}
