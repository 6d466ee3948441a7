package secret

import (
	"crypto/rand"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

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
	secrets map[string]*one
}

// one is a secret as it is kept.
type one struct {
	spec        Spec
	hosts       *policy.List
	placeholder string
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
	s := &Set{env: map[string]string{}, secrets: map[string]*one{}}
	for _, name := range slices.Sorted(maps.Keys(specs)) {
		if err := s.add(name, specs[name]); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Check is New without its result.
func Check(specs map[string]Spec) error {
	_, err := New(specs)
	return err
}

func (s *Set) add(name string, spec Spec) error {
	hosts, err := check(name, spec)
	if err != nil {
		err.Name = clip(name)
		return err
	}
	o := &one{spec: spec, hosts: hosts, placeholder: newPlaceholder(len(spec.Value))}
	s.secrets[name], s.env[name] = o, o.placeholder
	return nil
}

var (
	validName   = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	validMethod = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,32}$")
	parts       = []string{"header", "query", "path", "body", "websocket"}
)

func check(name string, spec Spec) (*policy.List, *SpecError) {
	if !validName.MatchString(name) || len(name) > maxName {
		return nil, &SpecError{Reason: fmt.Sprintf("%q can't be the name of a variable: use letters, digits and underscores", clip(name))}
	}
	if reason := checkValue(spec.Value); reason != "" {
		return nil, &SpecError{Field: "value", Reason: reason}
	}
	if err := checkScope(spec); err != nil {
		return nil, err
	}
	return checkHosts(spec.Hosts)
}

func checkHosts(hosts []string) (*policy.List, *SpecError) {
	if len(hosts) == 0 || len(hosts) > maxHosts {
		return nil, &SpecError{Field: "hosts", Reason: fmt.Sprintf("there are %d hosts: give between 1 and %d", len(hosts), maxHosts)}
	}
	list, err := policy.ParseList(hosts)
	if e, ok := err.(*policy.EntryError); ok {
		return nil, &SpecError{Field: fmt.Sprintf("hosts[%d]", e.Index), Reason: e.Reason}
	}
	for i, h := range list.Entries() {
		if strings.Contains(h, "/") {
			return nil, &SpecError{Field: fmt.Sprintf("hosts[%d]", i), Reason: "a secret's host is a name or an address, not a range"}
		}
	}
	return list, nil
}

func checkValue(value string) string {
	switch {
	case value == "":
		return "the value is empty"
	case len(value) > MaxValue:
		return fmt.Sprintf("the value is longer than %d bytes", MaxValue)
	case strings.ContainsAny(value, "\r\n\x00"):
		return "the value holds a line break or a zero byte, which no header can carry"
	case !utf8.ValidString(value):
		return "the value is not valid UTF-8"
	}
	return ""
}

func checkScope(spec Spec) *SpecError {
	for i, part := range spec.In {
		if !slices.Contains(parts, part) {
			return &SpecError{Field: fmt.Sprintf("in[%d]", i), Reason: fmt.Sprintf("%q is no part of a request: use %s", clip(part), strings.Join(parts, ", "))}
		}
	}
	for i, method := range spec.Methods {
		if !validMethod.MatchString(method) {
			return &SpecError{Field: fmt.Sprintf("methods[%d]", i), Reason: fmt.Sprintf("%q is no HTTP method", clip(method))}
		}
	}
	for i, path := range spec.Paths {
		if !strings.HasPrefix(path, "/") || len(path) > 1024 {
			return &SpecError{Field: fmt.Sprintf("paths[%d]", i), Reason: "a path begins with a slash and has at most 1024 bytes"}
		}
	}
	if spec.Sign != nil && spec.Sign.Type != "aws" && spec.Sign.Type != "hmac" {
		return &SpecError{Field: "sign.type", Reason: fmt.Sprintf("%q is no way to sign: use aws or hmac", clip(spec.Sign.Type))}
	}
	return nil
}

func clip(s string) string {
	if len(s) <= 80 {
		return s
	}
	return strings.ToValidUTF8(s[:80], "") + "…"
}

const (
	alphabet   = "0123456789abcdefghijklmnopqrstuvwxyz"
	randomPart = 33 // characters at least, of 5.1 bits
)

// newPlaceholder draws a placeholder whose length leaves the same remainder by
// three as the value's: in base64, the one can then stand for the other.
func newPlaceholder(valueSize int) string {
	n := randomPart
	for (len(Placeholder)+n)%3 != valueSize%3 {
		n++
	}
	out := []byte(Placeholder)
	var b [1]byte
	for len(out) < len(Placeholder)+n {
		_, _ = rand.Read(b[:]) // never fails
		if b[0] < 252 {        // 7 times 36: no character is likelier
			out = append(out, alphabet[b[0]%36])
		}
	}
	return string(out)
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
