package secret

import (
	"crypto/rand"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/atollhq/atoll/internal/gateway/policy"
)

// Bounds of a sandbox's secrets.
const (
	MaxSecrets = 64
	maxHosts   = 64
	maxName    = 128      // bytes
	MaxValue   = 16 << 10 // bytes
)

// Placeholder is what every placeholder begins with.
const Placeholder = "DENO_SECRET_PLACEHOLDER_"

// Set is all secrets of a sandbox. A nil *Set holds none.
type Set struct {
	env     map[string]string
	secrets []*one   // sorted by name
	holders []holder // of the placeholders, in the order of find's needles
	find    *finder  // of all placeholders

	redactors redactors
	whole     budget // of bodies
}

// one is a secret as it is kept.
type one struct {
	index       int // in the set
	name        string
	spec        Spec
	hosts       *policy.List
	paths       []pattern
	placeholder string
	session     string // placeholder of Sign.SessionToken
	signer      signer // nil for a value that takes its placeholder's place
}

// holder says whose placeholder one is.
type holder struct {
	*one
	text string
}

// SpecError names the secret and the field that are wrong.
type SpecError struct {
	Name   string // of the secret, bounded in length
	Field  string // "hosts", "value", "in", …
	Reason string // a sentence that says what to do; holds no value
}

func (e *SpecError) Error() string { return e.Reason }

// New checks the specifications and draws the placeholders. The error is a
// *SpecError; it never holds a value.
func New(specs map[string]Spec) (*Set, error) {
	if len(specs) > MaxSecrets {
		return nil, &SpecError{Reason: fmt.Sprintf("there are %d secrets and at most %d are allowed", len(specs), MaxSecrets)}
	}
	s := &Set{env: map[string]string{}}
	for _, name := range slices.Sorted(maps.Keys(specs)) {
		if err := s.add(name, specs, newSigner); err != nil {
			err.Name = clip(name)
			return nil, err
		}
	}
	s.find = s.placeholders()
	return s, nil
}

// Check is New without its result.
func Check(specs map[string]Spec) error {
	_, err := New(specs)
	return err
}

func (s *Set) add(name string, specs map[string]Spec, build signerMaker) *SpecError {
	spec := specs[name]
	hosts, err := check(name, spec)
	if err != nil {
		return err
	}
	paths, err := parsePatterns(spec.Paths)
	if err != nil {
		return err
	}
	o := &one{index: len(s.secrets), name: name, spec: spec, hosts: hosts, paths: paths}
	o.placeholder = s.hold(o, name, len(spec.Value))
	s.secrets = append(s.secrets, o)
	return s.addSigner(o, specs, build)
}

// addSigner gives a secret with "sign" its signer, and the placeholders of all
// that a client needs for signing.
func (s *Set) addSigner(o *one, specs map[string]Spec, build signerMaker) *SpecError {
	sign := o.spec.Sign
	if sign == nil {
		return nil
	}
	stand := placeholders{secret: o.placeholder}
	for _, v := range sign.variables() {
		_, isSecret := specs[v.env]
		if _, taken := s.env[v.env]; taken || isSecret {
			return &SpecError{Field: v.field, Reason: fmt.Sprintf("the variable %s belongs to another secret, too: name another one", clip(v.env))}
		}
		*v.in(&stand) = s.hold(o, v.env, len(v.value))
	}
	o.session = stand.session
	signer, err := build(o.spec, stand)
	if err != nil {
		return &SpecError{Field: "sign", Reason: "it can't be used to sign"}
	}
	o.signer = signer
	return nil
}

// hold draws a placeholder and puts it into a variable.
func (s *Set) hold(o *one, env string, size int) string {
	text := newPlaceholder(size)
	s.env[env] = text
	s.holders = append(s.holders, holder{o, text})
	return text
}

// placeholders makes the finder of all placeholders.
func (s *Set) placeholders() *finder {
	needles := make([]needle, len(s.holders))
	for i, h := range s.holders {
		needles[i] = needle{text: []byte(h.text)}
	}
	return newFinder(needles, percent, slash, entity)
}

const (
	alphabet   = "0123456789abcdefghijklmnopqrstuvwxyz"
	randomPart = 33 // characters at least, of 5.1 bits
)

// newPlaceholder draws a placeholder whose length leaves the same remainder by
// three as the value's: in base64, the one can then stand for the other. For
// that, its last two bits are not both set, either: a last character of base64
// that is the same in both alphabets stays so.
func newPlaceholder(valueSize int) string {
	n := len(Placeholder) + randomPart
	for n%3 != valueSize%3 {
		n++
	}
	out := []byte(Placeholder)
	for len(out) < n {
		if c := randomChar(); len(out) < n-1 || c&3 != 3 {
			out = append(out, c)
		}
	}
	return string(out)
}

func randomChar() byte {
	var b [1]byte
	for {
		_, _ = rand.Read(b[:]) // never fails
		if b[0] < 252 {        // 7 times 36: no character is likelier
			return alphabet[b[0]%36]
		}
	}
}

// Specs returns what New was given, values included: for another sandbox,
// which draws placeholders of its own.
func (s *Set) Specs() map[string]Spec {
	if s == nil {
		return nil
	}
	specs := make(map[string]Spec, len(s.secrets))
	for _, o := range s.secrets {
		specs[o.name] = o.spec
	}
	return specs
}

// Env are the guest's variables: names and placeholders.
func (s *Set) Env() map[string]string {
	if s == nil {
		return nil
	}
	return maps.Clone(s.env)
}

// Covers reports whether any secret applies to a name on any port.
func (s *Set) Covers(name string) bool {
	if s == nil {
		return false
	}
	for _, o := range s.secrets {
		if _, ok := o.hosts.MatchName(name, 0); ok {
			return true
		}
	}
	return false
}

// CoversDest reports whether any secret applies to a destination.
func (s *Set) CoversDest(name string, addr netip.Addr, port uint16) bool {
	if s == nil {
		return false
	}
	for _, o := range s.secrets {
		if o.covers(name, addr, port) {
			return true
		}
	}
	return false
}

func (o *one) covers(name string, addr netip.Addr, port uint16) (ok bool) {
	if name != "" {
		_, ok = o.hosts.MatchName(name, port)
	} else if addr.IsValid() {
		_, ok = o.hosts.MatchAddr(addr, port)
	}
	return ok
}
