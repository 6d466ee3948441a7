package fs

import (
	"testing"

	"pgregory.net/rapid"
)

var fullSyntax = globSyntax{extended: true, globstar: true}

func TestCompileGlob(t *testing.T) {
	for _, c := range []struct {
		glob    string
		matches []string
		others  []string
	}{
		{"", nil, []string{"", "a"}},
		{"/", []string{"/", "//"}, []string{"", "a"}},
		{"a", []string{"a", "a/"}, []string{"b", "aa", "a/b"}},
		{"a.c", []string{"a.c"}, []string{"abc"}},
		{"*.go", []string{"x.go", ".go"}, []string{"x.goo", "a/x.go"}},
		{"a?c", []string{"abc"}, []string{"ac", "abbc"}},
		{"**", []string{"", "a", "a/b/c"}, nil},
		{"a/**/c", []string{"a/c", "a/b/c", "a/b/b/c"}, []string{"a/cc", "ac"}},
		{"a/**", []string{"a/", "a/b", "a/b/c"}, []string{"b/a"}},
		{"**.go", []string{"x.go"}, []string{"a/x.go"}},
		{"[abc]x", []string{"ax", "cx"}, []string{"dx", "x"}},
		{"[!abc]x", []string{"dx"}, []string{"ax"}},
		{"[^a]x", []string{"^x", "ax"}, []string{"bx"}},
		{"[a-c]", []string{"b"}, []string{"-", "d"}},
		{"[[]x", []string{"[x"}, []string{"x"}},
		{"[[:digit:]_]", []string{"5", "_"}, []string{"a", ":"}},
		{"[[:alpha:]]", []string{"q"}, []string{"5"}},
		{"[[:nosuch:]a]", []string{"a"}, []string{"n", ":"}},
		{"[a", []string{"[a"}, []string{"a"}},
		{"[a/b]", []string{"[a/b]"}, []string{"a", "/", "b"}},
		{"{a,b}c", []string{"ac", "bc"}, []string{"c", "{a,b}c"}},
		{"{a,b{c,d}}", []string{"a", "bc", "bd"}, []string{"b"}},
		{"{a/b,c}", []string{"a/b", "c"}, []string{"a"}},
		{"{a,b", []string{"{a,b"}, []string{"a"}},
		{"?(a)b", []string{"b", "ab"}, []string{"aab"}},
		{"*(a|b)c", []string{"c", "abac"}, []string{"xc"}},
		{"+(ab)c", []string{"abc", "ababc"}, []string{"c"}},
		{"@(a|b)c", []string{"ac", "bc"}, []string{"c", "abc"}},
		{"!(a)b", []string{"xb", "b"}, []string{"ab"}},
		{"!(*.tmp)", []string{"x.go"}, []string{"x.tmp"}},
		{"@(a", []string{"@(a"}, []string{"a"}},
		{`\*`, []string{"*"}, []string{"x"}},
		{`\[a]`, []string{"[a]"}, []string{"a"}},
		{`[\]]`, []string{"]"}, []string{`\`}},
		{`a\`, []string{`a\`}, []string{"a"}},
		{"a//b", []string{"a/b", "a//b"}, []string{"ab"}},
		{"a/", []string{"a"}, []string{"b"}},
		{"$^.+|()", []string{"$^.+|()"}, nil},
		{"a,b", []string{"a,b"}, []string{"a"}},
		{"a|b", []string{"a|b"}, []string{"a"}},
		{"grüß-?", []string{"grüß-x"}, nil},
	} {
		checkGlob(t, c.glob, fullSyntax, c.matches, c.others)
	}
}

func TestCompileGlobWithoutFeatures(t *testing.T) {
	checkGlob(t, "a/**/b", globSyntax{extended: true}, []string{"a/x/b"}, []string{"a/b", "a/x/y/b"})
	checkGlob(t, "?(a)", globSyntax{globstar: true}, []string{"x(a)"}, []string{"a", ""})
	checkGlob(t, "*.GO", globSyntax{caseInsensitive: true}, []string{"x.go", "x.GO"}, []string{"x.c"})
}

func checkGlob(t *testing.T, glob string, syntax globSyntax, matches, others []string) {
	t.Helper()
	p, err := compileGlob(glob, syntax)
	if err != nil {
		t.Errorf("glob %q: %v", glob, err)
		return
	}
	for _, s := range matches {
		if ok, err := p.match(s); !ok || err != nil {
			t.Errorf("glob %q (%s) does not match %q", glob, p.re, s)
		}
	}
	for _, s := range others {
		if ok, _ := p.match(s); ok {
			t.Errorf("glob %q (%s) matches %q", glob, p.re, s)
		}
	}
}

func TestIsGlob(t *testing.T) {
	for segment, want := range map[string]bool{
		"": false, "a": false, "a.b": false, "*": true, "a?": true, "!a": true, "a!": false,
		"[a]": true, "[]": false, "[": false, "[a": false, "{a,b}": true, "{a}": true, "{}": false, "{": false,
		"(a|b)": true, "(a)": false, "@(a)": true, "@()": false, "+(a)": false, "+(a|b)": true,
		`\*`: false, `\[a]`: false, `\{a}`: false, `\{a}*`: true, `\a*`: true, `\`: false, "..": false, "**": true,
	} {
		if got := isGlob(segment); got != want {
			t.Errorf("isGlob(%q) = %v", segment, got)
		}
	}
}

func TestUnescapeGlob(t *testing.T) {
	for in, want := range map[string]string{"a": "a", `\*a\{b`: "*a{b", `a\b`: `a\b`, `\\*`: `\*`, `\`: `\`} {
		if got := unescapeGlob(in); got != want {
			t.Errorf("unescapeGlob(%q) = %q, want %q", in, got, want)
		}
	}
}

// A glob made of a name with everything escaped matches that name.
func TestEscapedGlobMatchesItself(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[a-z*?{}\[\]()|+@!,.^$-]{1,12}`).Draw(t, "name")
		glob := ""
		for _, c := range name {
			glob += `\` + string(c)
		}
		p, err := compileGlob(glob, fullSyntax)
		if err != nil {
			t.Fatal(err)
		}
		if ok, err := p.match(name); !ok || err != nil {
			t.Fatalf("glob %q (%s) does not match %q: %v", glob, p.re, name, err)
		}
	})
}

func FuzzCompileGlob(f *testing.F) {
	for _, seed := range []string{"**/*.{ts,js}", "[[:alpha:]-]", "!(a|b)@(c)", `\`, "[!", "{(,)}", "[z-a]", "*(*(a))"} {
		f.Add(seed, "a/b.ts")
	}
	f.Fuzz(func(t *testing.T, glob, path string) {
		p, err := compileGlob(glob, fullSyntax)
		if err != nil {
			wantError(t, err, "SyntaxError", codeBadPattern)
			return
		}
		if len(glob) < 64 && len(path) < 64 {
			_, _ = p.match(path)
		}
	})
}
