package secret

import (
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		pattern, path string
		want          bool
	}{
		{"/", "/", true}, {"/", "/a", false}, {"/**", "/", true}, {"/**", "/a/b/", true},
		{"/v1/*", "/v1/a", true}, {"/v1/*", "/v1/a/b", false}, {"/v1/*", "/v1/", false}, {"/v1/*", "/v1", false},
		{"/v1/**", "/v1/a/b", true}, {"/v1/**", "/v1", true}, {"/v1/**", "/v1/", true}, {"/v1/**", "/v10", false},
		{"/a/**/z", "/a/z", true}, {"/a/**/z", "/a/b/c/z", true}, {"/a/**/z", "/a/b/c/y", false},
		{"/bot*/send", "/botX/send", true}, {"/bot*/send", "/bot/send", true}, {"/bot*/send", "/bo/send", false},
		{"/a*b*c", "/aXbYbc", true}, {"/a*b*c", "/aXbYb", false}, {"/é*", "/%C3%A9x", true}, {"/a b", "/a%20b", true},
		{"/V1", "/v1", false}, {"/a", "/a/", false}, {"/a/", "/a/", true},
		// Read in two ways:
		{"/**", "/a%2Fb", false}, {"/**", "/a/../b", false}, {"/**", "/a/%2e%2E/b", false}, {"/**", "/a/./b", false},
		{"/**", "/a//b", false}, {"/**", "//a", false}, {"/**", "/a;x", false}, {"/**", "/a%3bx", false}, {"/**", `/a\b`, false},
		{"/**", "/a%5cb", false}, {"/**", "/a%00", false}, {"/**", "/a%252fb", false}, {"/**", "/%ff", false}, {"/**", "*", false}, {"/**", "", false},
		{"/**", "/%zz", false}, {"/**", "/a/..%20/b", false}, {"/**", "/a/.../b", false}, {"/**", "/a/%20", false}, {"/**", "/a/b..c", true},
	} {
		p, reason := parsePattern(c.pattern)
		if reason != "" {
			t.Fatalf("%s: %s", c.pattern, reason)
		}
		path, ok := cleanPath(c.path)
		if got := ok && p.match(path); got != c.want {
			t.Errorf("%s on %s: %t", c.pattern, c.path, got)
		}
	}
}

func TestBadPatterns(t *testing.T) {
	for _, text := range []string{"", "a", "/a%20b", "/a?b", "/a#b", "/a//b", "/../a", "/a/.", "/a**", "/a/**b", "/a;b", "/a\\b", "/a\n",
		"/" + strings.Repeat("a", maxPattern), strings.Repeat("/a", maxSegments+1), "/\xff"} {
		_, err := New(map[string]Spec{"K": {Hosts: []string{"h.example"}, Value: "v", Paths: []string{"/", text}}})
		if e, ok := err.(*SpecError); !ok || e.Field != "paths[1]" || e.Name != "K" {
			t.Errorf("%.20q: %v", text, err)
		}
	}
}

// TestPatternsAreExpressions compares with regular expressions.
func TestPatternsAreExpressions(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		segment := rapid.OneOf(rapid.Just("**"), rapid.StringMatching(`(\*?[ab])+\*?|\*`))
		segments := rapid.SliceOfN(segment, 1, 5).Draw(t, "pattern")
		path := "/" + strings.Join(rapid.SliceOfN(rapid.StringMatching(`[ab]{1,4}`), 1, 6).Draw(t, "path"), "/")
		p, reason := parsePattern("/" + strings.Join(segments, "/"))
		if reason != "" {
			t.Fatal(reason)
		}
		expression := "^"
		for _, s := range segments {
			switch s {
			case "**":
				expression += "(/[^/]+)*"
			case "*":
				expression += "/[^/]+"
			default:
				expression += "/" + strings.ReplaceAll(s, "*", "[^/]*")
			}
		}
		parts, ok := cleanPath(path)
		if want := regexp.MustCompile(expression + "$").MatchString(path); !ok || p.match(parts) != want {
			t.Fatalf("%s on %s: want %t", p, path, want)
		}
	})
}

func FuzzPatterns(f *testing.F) {
	f.Add("/v1/**/a*b", "/v1/%61/../b")
	f.Add("/**/**/**", "/a/b/c")
	f.Fuzz(func(t *testing.T, text, path string) {
		p, reason := parsePattern(text)
		parts, ok := cleanPath(path)
		if reason != "" || !ok {
			return
		}
		p.match(parts)
		for _, s := range parts {
			if strings.Contains(s, "/") || s == ".." {
				t.Fatalf("%q has the segment %q", path, s)
			}
		}
	})
}
