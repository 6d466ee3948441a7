package fs

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/atollhq/atoll/api"
)

// drain returns the paths of a walk.
func drain(ctx context.Context, e entries) (paths []string, err error) {
	defer e.close()
	for {
		entry, err := e.next(ctx)
		if entry == nil || err != nil {
			return paths, err
		}
		paths = append(paths, entry.Path)
	}
}

func (s *Service) walkAll(ctx context.Context, p api.WalkParams) ([]string, error) {
	opts, err := newWalkOptions(p)
	if err != nil {
		return nil, err
	}
	w, err := s.newWalker(ctx, p.Path, opts)
	if err != nil {
		return nil, err
	}
	paths, err := drain(ctx, w)
	slices.Sort(paths)
	return paths, err
}

// tree makes the directory that the tests below walk.
func tree(t *testing.T) (*Service, string) {
	s, home := newService(t)
	for _, name := range []string{"a.ts", "b.JS", "d/c.ts", "d/e/f.ts", "d/e/g.md", "d-x/h.ts", ".git/i.ts"} {
		put(t, home, name, "")
	}
	must(t, os.Symlink("d/e", filepath.Join(home, "link")))
	must(t, os.Symlink("../a.ts", filepath.Join(home, "d/file")))
	return s, home
}

func words(s string) []string { return strings.Fields(s) }

func TestWalk(t *testing.T) {
	s, home := tree(t)
	yes, no := ptr(true), ptr(false)
	for _, c := range []struct {
		name    string
		root    string
		options api.WalkOptions
		want    string
	}{
		{"all", ".", api.WalkOptions{}, ". .git .git/i.ts a.ts b.JS d d-x d-x/h.ts d/c.ts d/e d/e/f.ts d/e/g.md d/file link"},
		{"trailing slash", "./d-x/", api.WalkOptions{}, "d-x/ d-x/h.ts"},
		{"a parent", "d/..", api.WalkOptions{MaxDepth: ptr(0.0)}, "."},
		{"absolute", home + "/d-x", api.WalkOptions{}, home + "/d-x " + home + "/d-x/h.ts"},
		{"depth 0", "d", api.WalkOptions{MaxDepth: ptr(0.0)}, "d"},
		{"depth 1", "d", api.WalkOptions{MaxDepth: ptr(1.0)}, "d d/c.ts d/e d/file"},
		{"depth below 0", "d", api.WalkOptions{MaxDepth: ptr(-1.0)}, ""},
		{"no files", "d", api.WalkOptions{IncludeFiles: no}, "d d/e d/file"},
		{"no dirs", "d", api.WalkOptions{IncludeDirs: no}, "d/c.ts d/e/f.ts d/e/g.md d/file"},
		{"no links", "d", api.WalkOptions{IncludeSymlinks: no}, "d d/c.ts d/e d/e/f.ts d/e/g.md"},
		{"exts", ".", api.WalkOptions{Exts: []string{"ts", ".md"}}, ".git/i.ts a.ts d-x/h.ts d/c.ts d/e/f.ts d/e/g.md"},
		{"no exts", ".", api.WalkOptions{Exts: []string{}}, ""},
		{"match", ".", api.WalkOptions{Match: []api.Regexp{{Source: `^d.*\.ts$`}, {Source: `js$`, Flags: "i"}}}, "b.JS d-x/h.ts d/c.ts d/e/f.ts"},
		{"skip", ".", api.WalkOptions{Skip: []api.Regexp{{Source: `\.git`}, {Source: `^d/`}}}, ". a.ts b.JS d d-x d-x/h.ts link"},
		{"skip the root", "d", api.WalkOptions{Skip: []api.Regexp{{Source: `d`}}}, ""},
		{"sticky", ".", api.WalkOptions{Match: []api.Regexp{{Source: `d`, Flags: "y"}}}, "d d-x d-x/h.ts d/c.ts d/e d/e/f.ts d/e/g.md d/file"},
		{
			"follow", ".", api.WalkOptions{FollowSymlinks: yes, Skip: []api.Regexp{{Source: `\.git`}, {Source: `^d-x`}}},
			". a.ts b.JS d d/c.ts d/e d/e/f.ts d/e/g.md " + home + "/a.ts " + home + "/d/e " + home + "/d/e/f.ts " + home + "/d/e/g.md",
		},
		{
			"follow by name", ".", api.WalkOptions{FollowSymlinks: yes, Canonicalize: no, IncludeDirs: no, Exts: []string{"ts", "e"}},
			".git/i.ts a.ts d-x/h.ts d/c.ts d/e/f.ts link/f.ts",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := words(c.want)
			slices.Sort(want)
			got, err := s.walkAll(t.Context(), api.WalkParams{Path: c.root, WalkOptions: c.options})
			if err != nil || !slices.Equal(got, want) {
				t.Errorf("got  %v, %v\nwant %v", got, err, want)
			}
			nested, err := s.walkAll(t.Context(), api.WalkParams{Path: c.root, Options: &c.options})
			if err != nil || !slices.Equal(nested, want) {
				t.Errorf("nested options: got %v, %v", nested, err)
			}
		})
	}
}

func TestWalkEntries(t *testing.T) {
	s, _ := tree(t)
	w, err := s.newWalker(t.Context(), "d", walkOptions{maxDepth: 1, files: true, dirs: true, symlinks: true})
	must(t, err)
	got := map[string]api.WalkEntry{}
	for {
		e, err := w.next(t.Context())
		must(t, err)
		if e == nil {
			break
		}
		got[e.Name] = *e
	}
	for _, want := range []api.WalkEntry{
		{Path: "d", Name: "d", IsDirectory: true},
		{Path: "d/c.ts", Name: "c.ts", IsFile: true},
		{Path: "d/file", Name: "file", IsSymlink: true},
	} {
		if got[want.Name] != want {
			t.Errorf("got %+v, want %+v", got[want.Name], want)
		}
	}
}

func TestWalkErrors(t *testing.T) {
	s, home := tree(t)
	_, err := s.walkAll(t.Context(), api.WalkParams{Path: "nope"})
	wantError(t, err, "NotFound", "ENOENT")
	_, err = s.walkAll(t.Context(), api.WalkParams{Path: "nope", WalkOptions: api.WalkOptions{IncludeDirs: ptr(false)}})
	wantError(t, err, "NotFound", "ENOENT")
	paths, err := s.walkAll(t.Context(), api.WalkParams{Path: "a.ts"})
	wantError(t, err, "NotADirectory", "ENOTDIR")
	if !slices.Equal(paths, []string{"a.ts"}) {
		t.Errorf("a file as root yields %v before the error", paths)
	}
	for _, bad := range []api.Regexp{{Source: "("}, {Source: "a", Flags: "q"}, {Source: "a", Flags: "ii"}} {
		_, err := s.walkAll(t.Context(), api.WalkParams{Path: ".", WalkOptions: api.WalkOptions{Match: []api.Regexp{bad}}})
		wantError(t, err, "SyntaxError", codeBadPattern)
	}
	must(t, os.Symlink("nowhere", filepath.Join(home, "dangling")))
	_, err = s.walkAll(t.Context(), api.WalkParams{Path: ".", WalkOptions: api.WalkOptions{FollowSymlinks: ptr(true)}})
	wantError(t, err, "NotFound", "ENOENT")
}

func TestWalkEndsInCircles(t *testing.T) {
	s, home := newService(t)
	put(t, home, "a/b/c", "")
	must(t, os.Symlink("../..", filepath.Join(home, "a/b/up")))
	for _, canonicalize := range []bool{true, false} {
		_, err := s.walkAll(t.Context(), api.WalkParams{Path: ".", WalkOptions: api.WalkOptions{FollowSymlinks: ptr(true), Canonicalize: &canonicalize}})
		if err != nil {
			t.Error(err)
		}
	}
}

func TestWalkDeep(t *testing.T) {
	s, home := newService(t)
	const depth = 4 * maxOpenDirs
	put(t, home, strings.Repeat("d/", depth)+"f", "")
	w, err := s.newWalker(t.Context(), ".", walkOptions{maxDepth: 1e9, files: true, dirs: true})
	must(t, err)
	open := 0
	for n := 0; ; n++ {
		e, err := w.next(t.Context())
		must(t, err)
		if e == nil {
			if n != depth+2 {
				t.Errorf("%d entries, want %d", n, depth+2)
			}
			break
		}
		now := 0
		for _, l := range w.stack {
			if l.f != nil {
				now++
			}
		}
		open = max(open, now)
	}
	if open > maxOpenDirs {
		t.Errorf("%d directories open at once", open)
	}
}

func TestWalkIsLazy(t *testing.T) {
	s, home := newService(t)
	for i := range 3 * readDirBatch {
		put(t, home, fmt.Sprint(i), "")
	}
	ctx, cancel := context.WithCancel(t.Context())
	w, err := s.newWalker(ctx, ".", walkOptions{maxDepth: 1, files: true, dirs: true})
	must(t, err)
	for range 10 {
		_, err := w.next(ctx)
		must(t, err)
	}
	if held := len(w.stack[0].queue); held >= readDirBatch {
		t.Errorf("%d entries held", held)
	}
	cancel()
	if _, err := drain(ctx, w); err != context.Canceled {
		t.Errorf("walk after cancel: %v", err)
	}
}

func TestSlowRegexpIsStopped(t *testing.T) {
	s, home := newService(t)
	put(t, home, strings.Repeat("a", 60), "")
	// It would take longer than anybody can wait.
	_, err := s.walkAll(t.Context(), api.WalkParams{Path: ".", WalkOptions: api.WalkOptions{Match: []api.Regexp{{Source: "^(a+)+$(?!x)b"}}}})
	wantError(t, err, "RangeError", codeBadPattern)
}

func FuzzCompileRegexp(f *testing.F) {
	f.Add("^(a|b)+$", "gi", "ab")
	f.Add(`[\d-x]{2,}(?<n>.)\k<n>`, "u", "12")
	f.Fuzz(func(t *testing.T, source, flags, in string) {
		p, err := compileRegexp(api.Regexp{Source: source, Flags: flags})
		if err != nil {
			wantError(t, err, "SyntaxError", codeBadPattern)
			return
		}
		p.re.MatchTimeout = 10 * time.Millisecond
		_, _ = p.match(in)
	})
}
