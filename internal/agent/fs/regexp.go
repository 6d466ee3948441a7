package fs

import (
	"fmt"
	"strings"
	"time"

	"github.com/dlclark/regexp2"

	"github.com/atollhq/atoll/api"
)

// matchTimeout bounds one match of a client's regular expression: JavaScript's
// backtrack, and a hostile one would never end.
const matchTimeout = time.Second

// maxPatterns bounds how many patterns one call may carry.
const maxPatterns = 1024

// pattern is a compiled JavaScript regular expression.
type pattern struct {
	re     *regexp2.Regexp
	sticky bool // only a match at the very beginning counts
}

// compileRegexps compiles a client's expressions; a nil list stays nil.
func compileRegexps(in []api.Regexp) ([]pattern, error) {
	if in == nil {
		return nil, nil
	}
	if len(in) > maxPatterns {
		return nil, tooManyPatterns(len(in))
	}
	out := make([]pattern, 0, len(in))
	for _, r := range in {
		p, err := compileRegexp(r)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

func compileRegexp(r api.Regexp) (pattern, error) {
	opts, sticky, err := regexpOptions(r)
	if err != nil {
		return pattern{}, err
	}
	re, err := regexp2.Compile(r.Source, opts)
	if err != nil {
		return pattern{}, badRegexp(r, err.Error())
	}
	re.MatchTimeout = matchTimeout
	return pattern{re: re, sticky: sticky}, nil
}

// regexpOptions maps JavaScript's flags; those that only matter to repeated
// matches and to match details are accepted and ignored.
func regexpOptions(r api.Regexp) (opts regexp2.RegexOptions, sticky bool, err error) {
	opts = regexp2.ECMAScript
	for i, flag := range r.Flags {
		if strings.ContainsRune(r.Flags[:i], flag) {
			return 0, false, badRegexp(r, fmt.Sprintf("flag %q is given twice", flag))
		}
		switch flag {
		case 'd', 'g':
		case 'i':
			opts |= regexp2.IgnoreCase
		case 'm':
			opts |= regexp2.Multiline
		case 's':
			opts |= regexp2.Singleline
		case 'u', 'v':
			opts |= regexp2.Unicode
		case 'y':
			sticky = true
		default:
			return 0, false, badRegexp(r, fmt.Sprintf("unknown flag %q", flag))
		}
	}
	return opts, sticky, nil
}

// match reports whether the pattern occurs in s. Its error says that the
// match took too long.
func (p pattern) match(s string) (bool, error) {
	m, err := p.re.FindStringMatch(s)
	if err != nil {
		return false, matchTooSlow(p.re.String())
	}
	return m != nil && (!p.sticky || m.Index == 0), nil
}

// matchAny reports whether any of the patterns occurs in s.
func matchAny(patterns []pattern, s string) (bool, error) {
	for _, p := range patterns {
		if ok, err := p.match(s); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}
