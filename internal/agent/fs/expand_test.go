package fs

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"github.com/atollhq/atoll/api"
)

func (s *Service) expandPaths(t interface{ Fatal(...any) }, p api.ExpandGlobParams) []string {
	ctx := context.Background()
	plan, err := s.newGlobPlan(p)
	if err != nil {
		t.Fatal(err)
	}
	e, err := s.newExpansion(ctx, plan)
	if err != nil {
		t.Fatal(err)
	}
	paths, err := drain(ctx, e)
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func TestExpandGlob(t *testing.T) {
	s, home := tree(t)
	yes, no := ptr(true), ptr(false)
	for _, c := range []struct {
		name, glob string
		options    api.GlobOptions
		want       string // without the home directory
	}{
		{"star", "*", api.GlobOptions{}, ".git a.ts b.JS d d-x link"},
		{"extension", "*.ts", api.GlobOptions{}, "a.ts"},
		{"globstar", "**/*.ts", api.GlobOptions{}, ".git/i.ts a.ts d-x/h.ts d/c.ts d/e/f.ts"},
		{"globstar alone", "d/**", api.GlobOptions{}, "d d/c.ts d/e d/e/f.ts d/e/g.md d/file"},
		{"order", "{d,d-x}/**", api.GlobOptions{}, "d d-x d-x/h.ts d/c.ts d/e d/e/f.ts d/e/g.md d/file"},
		{"two globstars", "**/e/**", api.GlobOptions{}, "d/e d/e/f.ts d/e/g.md"},
		{"no globstar", "**/*.ts", api.GlobOptions{Globstar: no}, ".git/i.ts a.ts d-x/h.ts d/c.ts"},
		{"literal", "d/c.ts", api.GlobOptions{}, "d/c.ts"},
		{"missing", "d/zz", api.GlobOptions{}, ""},
		{"missing root", "zz/*", api.GlobOptions{}, ""},
		{"below a file", "a.ts/*", api.GlobOptions{}, ""},
		{"literal after glob", "*/e/f.ts", api.GlobOptions{}, "d/e/f.ts"},
		{"braces", "{a,b}.{ts,JS}", api.GlobOptions{}, "a.ts b.JS"},
		{"extended", "@(a|b).*", api.GlobOptions{}, "a.ts b.JS"},
		{"negated", "d/e/!(*.md)", api.GlobOptions{}, "d/e/f.ts"},
		{"brackets", "[a-b].*", api.GlobOptions{}, "a.ts b.JS"},
		{"case", "*.js", api.GlobOptions{CaseInsensitive: yes}, "b.JS"},
		{"trailing slash", "*/", api.GlobOptions{}, ".git d d-x"},
		{"many slashes", "*//e///*.md", api.GlobOptions{}, "d/e/g.md"},
		{"no dirs", "*", api.GlobOptions{IncludeDirs: no}, "a.ts b.JS link"},
		{"exclude", "**/*.ts", api.GlobOptions{Exclude: []string{"d", ".git/**"}}, "a.ts d-x/h.ts"},
		{"exclude by glob", "**/*.ts", api.GlobOptions{Exclude: []string{"**/e", "*.ts"}}, ".git/i.ts d-x/h.ts d/c.ts"},
		{"root", "*.ts", api.GlobOptions{Root: ptr("d")}, "d/c.ts"},
		{"absolute root", "*.ts", api.GlobOptions{Root: ptr(home + "/d/e")}, "d/e/f.ts"},
		{"absolute glob", home + "/d/*.ts", api.GlobOptions{}, "d/c.ts"},
		{"parent", "d/*/../c.*", api.GlobOptions{}, "d/c.ts"},
		{"leading parent", "d/../*.ts", api.GlobOptions{}, "a.ts"},
		{"escaped", `\*`, api.GlobOptions{}, ""},
		{"empty", "", api.GlobOptions{}, "."},
		{"dot", ".", api.GlobOptions{}, "."},
		{"follow", "link/*", api.GlobOptions{FollowSymlinks: yes}, "link/f.ts link/g.md"},
		{"follow found", "l*/*.ts", api.GlobOptions{FollowSymlinks: yes}, ""},
		{"follow to a directory", "**/*.md", api.GlobOptions{FollowSymlinks: yes}, "d/e/g.md"},
		{"do not follow", "l*/*", api.GlobOptions{}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := words(c.want)
			for i, w := range want {
				want[i] = filepath.Join(home, w)
			}
			got := s.expandPaths(t, api.ExpandGlobParams{Glob: c.glob, GlobOptions: c.options})
			if !slices.Equal(got, want) {
				t.Errorf("got  %v\nwant %v", got, want)
			}
			nested := s.expandPaths(t, api.ExpandGlobParams{Glob: c.glob, Options: &c.options})
			if !slices.Equal(nested, want) {
				t.Errorf("nested options: got %v", nested)
			}
		})
	}
}

// What is streamed is what segment by segment collection finds, in its order.
func TestStreamedGlobIsTheCollectedOne(t *testing.T) {
	s, home := newService(t)
	for _, name := range words("a/b/c a/b-c a-b/c a/a/a/a b/a/b/c c.d a.b/c.d") {
		put(t, home, name, "")
	}
	must(t, os.Symlink("a", filepath.Join(home, "l")))
	segment := rapid.SampledFrom(words("** * a b c ?* *b* {a,b} !(a) a.b [a-b] *.d"))
	rapid.Check(t, func(t *rapid.T) {
		glob := strings.Join(rapid.SliceOfN(segment, 1, 5).Draw(t, "segments"), "/")
		p := api.ExpandGlobParams{Glob: glob}
		p.Globstar = ptr(rapid.Bool().Draw(t, "globstar"))
		p.IncludeDirs = ptr(rapid.Bool().Draw(t, "includeDirs"))
		if rapid.Bool().Draw(t, "exclude") {
			p.Exclude = []string{rapid.SampledFrom(words("a a/b **/c a-*")).Draw(t, "excluded")}
		}
		plan, err := s.newGlobPlan(p)
		if err != nil {
			t.Fatal(err)
		}
		root, err := s.walkEntry(context.Background(), plan.root)
		if errors.Is(err, syscall.ENOTDIR) {
			if _, err := s.newExpansion(context.Background(), plan); !errors.Is(err, syscall.ENOTDIR) {
				t.Fatalf("below a file: %v", err)
			}
			return
		}
		got := s.expandPaths(t, p)
		if err != nil {
			if len(got) > 0 {
				t.Fatalf("matches below a missing root: %v", got)
			}
			return
		}
		list, err := s.expandAll(context.Background(), plan, root)
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		for _, e := range list {
			want = append(want, e.Path)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("glob %s:\ngot  %v\nwant %v", glob, got, want)
		}
	})
}

func TestExpandGlobErrors(t *testing.T) {
	s, _ := tree(t)
	_, err := s.newGlobPlan(api.ExpandGlobParams{Glob: strings.Repeat("*/", maxSegments+1)})
	wantError(t, err, "SyntaxError", codeBadPattern)
	_, err = s.newGlobPlan(api.ExpandGlobParams{Glob: "[z-a]"})
	wantError(t, err, "SyntaxError", codeBadPattern)
	_, err = s.newGlobPlan(api.ExpandGlobParams{Glob: "*", GlobOptions: api.GlobOptions{Exclude: make([]string, maxPatterns+1)}})
	wantError(t, err, "RangeError", codeOutOfRange)
	plan, err := s.newGlobPlan(api.ExpandGlobParams{Glob: "a.ts/below/*"})
	must(t, err)
	_, err = s.newExpansion(t.Context(), plan)
	wantError(t, err, "NotADirectory", "ENOTDIR")
}
