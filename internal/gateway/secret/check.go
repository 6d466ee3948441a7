package secret

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/atollhq/atoll/internal/gateway/policy"
)

var (
	validName  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	validToken = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}$")
	parts      = []string{"header", "query", "path", "body", "websocket"}
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
		if !validToken.MatchString(method) {
			return &SpecError{Field: fmt.Sprintf("methods[%d]", i), Reason: fmt.Sprintf("%q is no HTTP method", clip(method))}
		}
	}
	if spec.Sign != nil {
		return checkSign(spec)
	}
	return nil
}

func clip(s string) string {
	if len(s) <= 80 {
		return s
	}
	return strings.ToValidUTF8(s[:80], "") + "…"
}
