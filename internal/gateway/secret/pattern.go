package secret

import (
	"fmt"
	"net/url"
	"strings"
	"unicode/utf8"
)

// Bounds of path patterns.
const (
	maxPatterns = 64
	maxPattern  = 1024 // bytes
	maxSegments = 64
)

// pattern is a pattern of paths: its segments, of which "**" stands for any
// number of them, also none. In other segments, "*" is any run of characters.
type pattern []string

const anyDepth = "**"

func parsePatterns(texts []string) ([]pattern, *SpecError) {
	if len(texts) > maxPatterns {
		return nil, &SpecError{Field: "paths", Reason: fmt.Sprintf("there are %d patterns and at most %d are allowed", len(texts), maxPatterns)}
	}
	var out []pattern
	for i, text := range texts {
		p, reason := parsePattern(text)
		if reason != "" {
			return nil, &SpecError{Field: fmt.Sprintf("paths[%d]", i), Reason: reason}
		}
		out = append(out, p)
	}
	return out, nil
}

func parsePattern(text string) (p pattern, reason string) {
	switch {
	case !strings.HasPrefix(text, "/") || len(text) > maxPattern:
		return nil, fmt.Sprintf("a path begins with a slash and has at most %d bytes", maxPattern)
	case strings.ContainsAny(text, "%?#"):
		return nil, "write the path as it is, without escapes, query or fragment"
	}
	p, ok := segments(text)
	if !ok {
		return nil, "no path can match: use no empty or dot segments, no backslash, semicolon or control character"
	}
	if len(p) > maxSegments {
		return nil, fmt.Sprintf("a path has at most %d segments", maxSegments)
	}
	for _, s := range p {
		if s != anyDepth && strings.Contains(s, anyDepth) {
			return nil, `"**" is a segment of its own: write "/a/**"`
		}
	}
	return p, ""
}

// segments splits a decoded path. With ok false, servers may differ on what it
// means: some take off dots and spaces at a segment's end. Only the last segment may be empty: a slash at the end.
func segments(path string) (parts []string, ok bool) {
	rest, found := strings.CutPrefix(path, "/")
	if !found || !utf8.ValidString(path) {
		return nil, false
	}
	parts = strings.Split(rest, "/")
	for i, s := range parts {
		isLast := s == "" && i == len(parts)-1
		if !isLast && strings.Trim(s, ". ") == "" || strings.ContainsFunc(s, isDoubtful) {
			return nil, false
		}
	}
	return parts, true
}

// isDoubtful are characters that some servers take for a separator, for the
// end of the path, or for an escape to decode once more.
func isDoubtful(r rune) bool { return r < ' ' || r == 0x7f || strings.ContainsRune(`\;%`, r) }

// cleanPath is what patterns are matched against: the segments of a path that
// arrives percent-encoded. It fails for a path that could be read in two ways.
func cleanPath(escaped string) ([]string, bool) {
	decoded, err := url.PathUnescape(escaped)
	if err != nil || strings.Count(decoded, "/") != strings.Count(escaped, "/") {
		return nil, false
	}
	return segments(decoded)
}

// match walks both once; on a mismatch, the last "**" takes one segment more.
func (p pattern) match(path []string) bool {
	i, j, star, taken := 0, 0, -1, 0
	for j < len(path) {
		switch {
		case i < len(p) && p[i] == anyDepth:
			star, taken = i, j
			i++
		case i < len(p) && matchSegment(p[i], path[j]):
			i++
			j++
		case star >= 0:
			taken++
			i, j = star+1, taken
		default:
			return false
		}
	}
	for i < len(p) && p[i] == anyDepth {
		i++
	}
	return i == len(p)
}

// matchSegment compares one segment. An empty one matches nothing but itself:
// "/a/*" doesn't stand for "/a/".
func matchSegment(p, s string) bool {
	if s == "" || p == "" {
		return p == s
	}
	i, j, star, taken := 0, 0, -1, 0
	for j < len(s) {
		switch {
		case i < len(p) && p[i] == '*':
			star, taken = i, j
			i++
		case i < len(p) && p[i] == s[j]:
			i++
			j++
		case star >= 0:
			taken++
			i, j = star+1, taken
		default:
			return false
		}
	}
	return strings.Trim(p[i:], "*") == ""
}
