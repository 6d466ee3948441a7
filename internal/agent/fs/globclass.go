package fs

import "strings"

// posixClasses are the named classes within brackets, [[:alpha:]].
var posixClasses = map[string]string{
	"alnum":  `\dA-Za-z`,
	"alpha":  `A-Za-z`,
	"ascii":  `\x00-\x7F`,
	"blank":  `\t `,
	"cntrl":  `\x00-\x1F\x7F`,
	"digit":  `\d`,
	"graph":  `\x21-\x7E`,
	"lower":  `a-z`,
	"print":  `\x20-\x7E`,
	"punct":  `!"#$%&'()*+,\-.\/:;<=>?@\[\\\]\^_‘{|}~`,
	"space":  `\s\v`,
	"upper":  `A-Z`,
	"word":   `\w`,
	"xdigit": `\dA-Fa-f`,
}

// class translates a bracket expression; without its closing bracket it is a
// syntax error.
func (t *globTranslator) class() bool {
	t.emit("[")
	switch t.peek(0) {
	case '!':
		t.emit("^")
	case '^':
		t.emit(`\^`)
	}
	for t.pos < len(t.in) && !(t.in[t.pos] == '/' && len(t.groups) == 0) {
		switch c := t.in[t.pos]; {
		case c == ']':
			t.emit("]")
			return true
		case c == '\\':
			if !t.classEscape() {
				return false
			}
		case c == '[' && t.namedClass():
		case c == '[':
			t.emit(`\[`)
		default:
			t.emit(string(c))
		}
	}
	return false
}

func (t *globTranslator) classEscape() bool {
	if t.pos+1 >= len(t.in) || (t.in[t.pos+1] == '/' && len(t.groups) == 0) {
		t.pos++
		return false
	}
	c := t.in[t.pos+1]
	if strings.ContainsRune(`-\][^`, c) {
		t.out.WriteByte('\\')
	}
	t.emit(string(c))
	t.pos++
	return true
}

// namedClass translates [:name:] and reports whether it stands at pos. An
// unknown name stands for nothing.
func (t *globTranslator) namedClass() bool {
	if t.peek(1) != ':' {
		return false
	}
	rest := string(t.in[t.pos+2:])
	name, _, ok := strings.Cut(rest, ":")
	if !ok || !strings.HasPrefix(rest[len(name):], ":]") {
		return false
	}
	t.out.WriteString(posixClasses[name])
	t.pos += len([]rune(name)) + len("[::]")
	return true
}

// isGlob reports whether a segment has to be matched rather than joined, by
// the rules of @std/path: an unescaped wildcard, a leading "!", or a closed
// bracket, brace or alternative.
func isGlob(segment string) bool {
	if strings.HasPrefix(segment, "!") {
		return true
	}
	for i := 0; i < len(segment); i++ {
		rest := segment[i+1:]
		switch segment[i] {
		case '\\':
			i += escapedLength(rest)
		case '*', '?':
			return true
		case '[':
			if closes(rest, "]", `[\`) {
				return true
			}
		case '{':
			if closes(rest, "}", `{\`) {
				return true
			}
		case '(':
			if isAlternative(rest) {
				return true
			}
		case '@':
			if strings.HasPrefix(rest, "(") && closes(rest[1:], ")", "") {
				return true
			}
		}
	}
	return false
}

// escapedLength is how much of what follows a backslash is literal: one byte
// or, for an opening bracket, all up to its partner.
func escapedLength(rest string) int {
	if rest == "" {
		return 0
	}
	if i := strings.IndexByte("{([", rest[0]); i >= 0 {
		if n := strings.IndexByte(rest[1:], "})]"[i]); n >= 0 {
			return 1 + n + 1
		}
	}
	return 1
}

// closes reports whether s has the closing byte after at least one other and
// before any of the forbidden ones.
func closes(s, closing, forbidden string) bool {
	return strings.IndexAny(s, closing+forbidden) > 0 && s[strings.IndexAny(s, closing+forbidden)] == closing[0]
}

// isAlternative reports whether "(" + s begins with (a|b).
func isAlternative(s string) bool {
	bar := strings.IndexAny(s, "(|")
	if bar < 1 || s[bar] != '|' {
		return false
	}
	return closes(s[bar+1:], ")", `\`)
}

// unescapeGlob removes the backslashes before the metacharacters of a segment
// that is not a glob.
func unescapeGlob(segment string) string {
	var out strings.Builder
	for i := 0; i < len(segment); i++ {
		if segment[i] == '\\' && i+1 < len(segment) && strings.IndexByte("*?{}[]()|+@!", segment[i+1]) >= 0 {
			i++
		}
		out.WriteByte(segment[i])
	}
	return out.String()
}
