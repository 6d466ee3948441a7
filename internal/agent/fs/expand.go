package fs

import (
	"context"
	"path"
	"strings"

	"github.com/atollhq/atoll/api"
)

// maxSegments bounds a glob's parts.
const maxSegments = 256

// globPlan is a checked call of expandGlob.
type globPlan struct {
	root     string    // where matching begins: the leading segments without wildcards, absolute
	segments []segment // what remains to be matched
	exclude  []pattern // on whole paths

	dirsOnly       bool // the glob ends with a slash
	includeDirs    bool
	followSymlinks bool
	canonicalize   bool
	globstar       bool
}

// segment is one part of a glob between slashes.
type segment struct {
	text    string
	pattern pattern // of a name; not for ".." and "**"
}

const (
	segmentParent   = ".."
	segmentGlobstar = "**"
)

// newGlobPlan reads a client's options; those at the top level win over the
// nested ones of the Python SDK.
func (s *Service) newGlobPlan(p api.ExpandGlobParams) (*globPlan, error) {
	if p.Options == nil {
		p.Options = &api.GlobOptions{}
	}
	top, nested := p.GlobOptions, *p.Options
	syntax := globSyntax{
		extended:        !unset(pick(top.Extended, nested.Extended)),
		globstar:        !unset(pick(top.Globstar, nested.Globstar)),
		caseInsensitive: set(pick(top.CaseInsensitive, nested.CaseInsensitive)),
	}
	g := &globPlan{
		dirsOnly:       strings.HasSuffix(p.Glob, "/"),
		includeDirs:    !unset(pick(top.IncludeDirs, nested.IncludeDirs)),
		followSymlinks: set(pick(top.FollowSymlinks, nested.FollowSymlinks)),
		canonicalize:   !unset(pick(top.Canonicalize, nested.Canonicalize)),
		globstar:       syntax.globstar,
	}
	root := s.globRoot(p.Glob, pick(top.Root, nested.Root))
	if err := g.setExclude(pickList(top.Exclude, nested.Exclude), root, syntax); err != nil {
		return nil, err
	}
	return g, g.setSegments(p.Glob, root, syntax)
}

// globRoot is the absolute directory from which the call's globs are meant.
func (s *Service) globRoot(glob string, root *string) string {
	switch {
	case root != nil && path.IsAbs(*root):
		return path.Clean(*root)
	case root != nil:
		return join(s.cfg.Home, *root)
	case path.IsAbs(glob):
		return "/"
	}
	return path.Clean(s.cfg.Home)
}

func (g *globPlan) setExclude(globs []string, root string, syntax globSyntax) error {
	if len(globs) > maxPatterns {
		return tooManyPatterns(len(globs))
	}
	for _, x := range globs {
		if !path.IsAbs(x) {
			x = root + "/" + x
		}
		p, err := compileGlob(path.Clean(x), syntax)
		if err != nil {
			return err
		}
		g.exclude = append(g.exclude, p)
	}
	return nil
}

func (g *globPlan) setSegments(glob, root string, syntax globSyntax) error {
	parts := strings.FieldsFunc(glob, func(c rune) bool { return c == '/' })
	if len(parts) > maxSegments {
		return badGlob(glob, "it has too many parts")
	}
	g.root = root
	if path.IsAbs(glob) {
		g.root = "/"
	}
	for len(parts) > 0 && !isGlob(parts[0]) {
		g.root = join(g.root, unescapeGlob(parts[0]))
		parts = parts[1:]
	}
	for _, text := range parts {
		seg := segment{text: text}
		if text != segmentParent && text != segmentGlobstar {
			var err error
			if seg.pattern, err = compileGlob(text, syntax); err != nil {
				return err
			}
		}
		g.segments = append(g.segments, seg)
	}
	return nil
}

// wanted applies what the options say about directories.
func (g *globPlan) wanted(isDirectory bool) bool {
	if isDirectory {
		return g.includeDirs
	}
	return !g.dirsOnly
}

// streams reports whether every match lies below the root under its own path,
// so that matches can be found in order, one by one.
func (g *globPlan) streams() bool {
	for _, seg := range g.segments {
		if seg.text == segmentParent {
			return false
		}
	}
	return !g.followSymlinks
}

// entries yields entries one by one; nil is the end.
type entries interface {
	next(ctx context.Context) (*api.WalkEntry, error)
	close()
}

// newExpansion starts a call of expandGlob. A root that does not exist means
// that nothing matches.
func (s *Service) newExpansion(ctx context.Context, g *globPlan) (entries, error) {
	root, err := s.walkEntry(ctx, g.root)
	if is(err, errNotFound) {
		return &entryList{}, nil
	}
	if err != nil {
		return nil, failed(err, "stat", g.root)
	}
	if g.streams() {
		return s.newGlobWalker(g, root)
	}
	list, err := s.expandAll(ctx, g, root)
	return &entryList{entries: list}, err
}

// entryList yields a list.
type entryList struct{ entries []api.WalkEntry }

func (l *entryList) next(context.Context) (*api.WalkEntry, error) {
	if len(l.entries) == 0 {
		return nil, nil
	}
	e := l.entries[0]
	l.entries = l.entries[1:]
	return &e, nil
}

func (l *entryList) close() { l.entries = nil }
