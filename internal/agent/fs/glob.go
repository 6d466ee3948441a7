package fs

import (
	"strings"

	"github.com/dlclark/regexp2"
)

// globSyntax says which glob features are on, as @std/path's GlobOptions.
type globSyntax struct {
	extended        bool // ?(…) *(…) +(…) @(…) !(…)
	globstar        bool // "**" crosses directories
	caseInsensitive bool
}

// What the parts of a glob become in a regular expression.
const (
	reSeparator    = "/+"
	reEndSeparator = "/*"
	reGlobstar     = "(?:[^/]*(?:/|$)+)*"
	reWildcard     = "[^/]*"
)

// compileGlob translates a glob into a pattern for whole paths.
func compileGlob(glob string, syntax globSyntax) (pattern, error) {
	opts := regexp2.RegexOptions(regexp2.ECMAScript)
	if syntax.caseInsensitive {
		opts |= regexp2.IgnoreCase
	}
	re, err := regexp2.Compile(globRegexp(glob, syntax), opts)
	if err != nil {
		return pattern{}, badGlob(glob, err.Error())
	}
	re.MatchTimeout = matchTimeout
	return pattern{re: re}, nil
}

// globRegexp translates segment by segment: a syntax error, such as an
// unclosed bracket, makes its own segment literal and no other.
func globRegexp(glob string, syntax globSyntax) string {
	if glob == "" {
		return "(?!)"
	}
	if trimmed := strings.TrimRight(glob, "/"); trimmed != "" {
		glob = trimmed
	} else {
		glob = "/"
	}
	rest := []rune(glob)
	var out strings.Builder
	out.WriteString("^")
	for first := true; len(rest) > 0; first = false {
		t := globTranslator{syntax: syntax, in: rest, first: first}
		segment, used := t.segment()
		rest = rest[used:]
		out.WriteString(segment)
		if !t.selfSeparated {
			out.WriteString(separatorAfter(rest))
		}
		for len(rest) > 0 && rest[0] == '/' {
			rest = rest[1:]
		}
	}
	out.WriteString("$")
	return out.String()
}

func separatorAfter(rest []rune) string {
	if len(rest) > 0 {
		return reSeparator
	}
	return reEndSeparator
}

// globTranslator translates one segment.
type globTranslator struct {
	syntax globSyntax
	in     []rune // the segment and all that follows
	first  bool   // the segment begins the glob

	pos           int
	out           strings.Builder
	groups        []rune // open groups: '{' or the extended operator
	selfSeparated bool   // the segment matches its separators itself
}

// segment returns the segment's regular expression and its length in runes.
func (t *globTranslator) segment() (string, int) {
	for t.pos < len(t.in) && !(t.in[t.pos] == '/' && len(t.groups) == 0) {
		if !t.element() {
			return t.literal()
		}
	}
	if len(t.groups) > 0 {
		return t.literal()
	}
	return t.out.String(), t.pos
}

// literal is what a segment with a syntax error means.
func (t *globTranslator) literal() (string, int) {
	end := t.end()
	t.selfSeparated = false
	return quoteRunes(t.in[:end]), end
}

// end finds where a malformed segment ends: an unclosed group reaches to the
// end of the glob, anything else to the next separator.
func (t *globTranslator) end() int {
	if len(t.groups) > 0 {
		return len(t.in)
	}
	for i := t.pos; i < len(t.in); i++ {
		if t.in[i] == '/' {
			return i
		}
	}
	return len(t.in)
}

// element translates what stands at pos and reports false on a syntax error.
func (t *globTranslator) element() bool {
	c := t.in[t.pos]
	switch {
	case c == '\\':
		return t.escape()
	case c == '[':
		return t.class()
	case t.opensGroup():
		t.openGroup()
	case c == '{':
		t.push('{', "(?:")
	case c == '}' && t.group() == '{':
		t.pop(")")
	case c == ',' && t.group() == '{':
		t.emit("|")
	case c == ')' && t.inExtended():
		t.closeGroup()
	case c == '|' && t.inExtended():
		t.emit("|")
	case c == '?':
		t.emit(".")
	case c == '*':
		t.stars()
	default:
		t.emit(quoteRunes(t.in[t.pos : t.pos+1]))
	}
	return true
}

// emit appends to the expression and moves past the current rune.
func (t *globTranslator) emit(s string) {
	t.out.WriteString(s)
	t.pos++
}

func (t *globTranslator) peek(ahead int) rune {
	if t.pos+ahead < len(t.in) {
		return t.in[t.pos+ahead]
	}
	return 0
}

// group is the innermost open group, 0 without one.
func (t *globTranslator) group() rune {
	if len(t.groups) == 0 {
		return 0
	}
	return t.groups[len(t.groups)-1]
}

func (t *globTranslator) inExtended() bool { return t.group() != 0 && t.group() != '{' }

func (t *globTranslator) push(kind rune, s string) {
	t.groups = append(t.groups, kind)
	t.emit(s)
}

func (t *globTranslator) pop(s string) {
	t.groups = t.groups[:len(t.groups)-1]
	t.emit(s)
}

func (t *globTranslator) opensGroup() bool {
	return t.syntax.extended && t.peek(1) == '(' && strings.ContainsRune("?*+@!", t.in[t.pos])
}

func (t *globTranslator) openGroup() {
	kind := t.in[t.pos]
	t.pos++ // the operator; push moves past the parenthesis
	if kind == '!' {
		t.push(kind, "(?!")
	} else {
		t.push(kind, "(?:")
	}
}

func (t *globTranslator) closeGroup() {
	switch kind := t.group(); kind {
	case '!':
		t.pop(")" + reWildcard)
	case '@':
		t.pop(")")
	default:
		t.pop(")" + string(kind))
	}
}

// escape takes the next rune literally; nothing after the backslash, not even
// in the next segment, is a syntax error.
func (t *globTranslator) escape() bool {
	if t.pos+1 >= len(t.in) || (t.in[t.pos+1] == '/' && len(t.groups) == 0) {
		t.pos++
		return false
	}
	t.emit(quoteRunes(t.in[t.pos+1 : t.pos+2]))
	t.pos++
	return true
}

// stars translates a run of stars: exactly two that are a whole segment are a
// globstar, any other run is a wildcard.
func (t *globTranslator) stars() {
	start := t.pos
	for t.pos < len(t.in) && t.in[t.pos] == '*' {
		t.pos++
	}
	begins := start == 0 || t.in[start-1] == '/'
	ends := t.pos == len(t.in) || t.in[t.pos] == '/'
	if t.syntax.globstar && t.pos-start == 2 && begins && ends {
		t.out.WriteString(reGlobstar)
		t.selfSeparated = true
		return
	}
	t.out.WriteString(reWildcard)
}

// quoteRunes escapes what a regular expression would interpret.
func quoteRunes(in []rune) string {
	var out strings.Builder
	for _, c := range in {
		if strings.ContainsRune(`!$()*+-./:=?[\]^{|}`, c) {
			out.WriteByte('\\')
		}
		out.WriteRune(c)
	}
	return out.String()
}
