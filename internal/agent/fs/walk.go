package fs

import (
	"context"
	iofs "io/fs"
	"math"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/atollhq/atoll/api"
)

const (
	// maxOpenDirs bounds the directories that one walk holds open. What lies
	// deeper is listed at once and closed.
	maxOpenDirs = 64
	// maxExts bounds the list of extensions.
	maxExts = 1024
)

// walkOptions are the options of a walk, checked and with their defaults.
type walkOptions struct {
	maxDepth       float64
	files          bool
	dirs           bool
	symlinks       bool
	followSymlinks bool
	canonicalize   bool
	exts           []string // nil: any
	match          []pattern
	skip           []pattern
}

// newWalkOptions reads a client's options. Those at the top level, as the
// JavaScript SDK sends them, win over the nested ones of the Python SDK.
func newWalkOptions(p api.WalkParams) (walkOptions, error) {
	if p.Options == nil {
		p.Options = &api.WalkOptions{}
	}
	top, nested := p.WalkOptions, *p.Options
	w := walkOptions{
		maxDepth:       math.Inf(1),
		files:          !unset(pick(top.IncludeFiles, nested.IncludeFiles)),
		dirs:           !unset(pick(top.IncludeDirs, nested.IncludeDirs)),
		symlinks:       !unset(pick(top.IncludeSymlinks, nested.IncludeSymlinks)),
		followSymlinks: set(pick(top.FollowSymlinks, nested.FollowSymlinks)),
		canonicalize:   !unset(pick(top.Canonicalize, nested.Canonicalize)),
	}
	if depth := pick(top.MaxDepth, nested.MaxDepth); depth != nil {
		w.maxDepth = *depth
	}
	return w, w.setFilters(top, nested)
}

func (w *walkOptions) setFilters(top, nested api.WalkOptions) (err error) {
	exts := pickList(top.Exts, nested.Exts)
	if len(exts) > maxExts {
		return tooManyPatterns(len(exts))
	}
	if exts != nil {
		w.exts = make([]string, 0, len(exts))
	}
	for _, ext := range exts {
		w.exts = append(w.exts, "."+strings.TrimPrefix(ext, "."))
	}
	if w.match, err = compileRegexps(pickList(top.Match, nested.Match)); err != nil {
		return err
	}
	w.skip, err = compileRegexps(pickList(top.Skip, nested.Skip))
	return err
}

func pick[T any](first, second *T) *T {
	if first != nil {
		return first
	}
	return second
}

func pickList[T any](first, second []T) []T {
	if first != nil {
		return first
	}
	return second
}

// included applies the filters to a path.
func (w *walkOptions) included(p string) (bool, error) {
	if w.exts != nil && !hasSuffix(p, w.exts) {
		return false, nil
	}
	if w.match != nil {
		if ok, err := matchAny(w.match, p); !ok || err != nil {
			return false, err
		}
	}
	skipped, err := w.skipped(p)
	return !skipped, err
}

func (w *walkOptions) skipped(p string) (bool, error) { return matchAny(w.skip, p) }

func hasSuffix(p string, suffixes []string) bool {
	for _, s := range suffixes {
		if strings.HasSuffix(p, s) {
			return true
		}
	}
	return false
}

// fileID tells files apart.
type fileID struct{ dev, ino uint64 }

// level is one directory that a walk is in.
type level struct {
	dirReader
	name  string // the path as the client sees it
	depth float64
	id    fileID          // only when links are followed
	queue []iofs.DirEntry // read and not yet visited
}

// walker yields the entries of a tree one by one, depth first, in the
// system's order, as @std/fs's walk does. It holds the directories from the
// root down to where it is, never the tree. It is used by one goroutine.
type walker struct {
	s     *Service
	opts  walkOptions
	first *api.WalkEntry // the root, until it has been yielded
	stack []*level
}

// newWalker looks at the root, so that a missing one is told at once.
func (s *Service) newWalker(ctx context.Context, root string, opts walkOptions) (*walker, error) {
	w := &walker{s: s, opts: opts}
	if opts.maxDepth < 0 {
		return w, nil
	}
	if err := w.startRoot(ctx, root); err != nil {
		w.close()
		return nil, failed(err, "walk", root)
	}
	return w, nil
}

func (w *walker) startRoot(ctx context.Context, root string) error {
	included, err := w.opts.included(root)
	if err != nil {
		return err
	}
	if included && w.opts.dirs {
		entry, err := w.s.walkEntry(ctx, root)
		if err != nil {
			return err
		}
		w.first = &entry
	}
	if err := w.descend(ctx, root, w.opts.maxDepth); err != nil || w.first != nil || len(w.stack) == 0 {
		return err
	}
	return w.fill(ctx, w.stack[0])
}

// walkEntry describes what a path leads to.
func (s *Service) walkEntry(ctx context.Context, p string) (api.WalkEntry, error) {
	p = normalize(p)
	info, err := s.statOf(ctx, p, 0)
	if err != nil {
		return api.WalkEntry{}, err
	}
	return api.WalkEntry{
		Path: p, Name: baseName(p),
		IsFile: info.IsFile, IsDirectory: info.IsDirectory, IsSymlink: info.IsSymlink,
	}, nil
}

// baseName is @std/path's basename: that of the root is "/".
func baseName(p string) string { return path.Base(p) }

// statOf is statPath without the client's words.
func (s *Service) statOf(ctx context.Context, p string, flags int) (info api.FileInfo, err error) {
	err = s.pool.do(ctx, func() (err error) {
		info, err = statAt(unix.AT_FDCWD, s.resolve(p), flags)
		return err
	})
	return info, err
}

// descend makes dir the next directory to read, unless it is too deep, left
// out or, through a link, one that the walk is in already.
func (w *walker) descend(ctx context.Context, dir string, depth float64) error {
	if depth < 1 {
		return nil
	}
	if skipped, err := w.opts.skipped(dir); skipped || err != nil {
		return err
	}
	l := &level{dirReader: dirReader{s: w.s, path: w.s.resolve(dir)}, name: dir, depth: depth}
	if w.opts.followSymlinks {
		info, err := w.s.statOf(ctx, dir, 0)
		if err != nil {
			return err
		}
		if l.id = (fileID{info.Dev, info.Ino}); w.inside(l.id) {
			return nil
		}
	}
	w.stack = append(w.stack, l)
	return nil
}

// inside reports whether the walk is in this directory. Where @std/fs would
// walk round in a circle for ever, this walk ends the branch.
func (w *walker) inside(id fileID) bool {
	for _, l := range w.stack {
		if l.id == id {
			return true
		}
	}
	return false
}

// fill reads the next entries of a directory.
func (w *walker) fill(ctx context.Context, l *level) (err error) {
	if len(w.stack) > maxOpenDirs {
		l.queue, err = l.all(ctx)
	} else {
		l.queue, err = l.next(ctx)
	}
	return err
}

// next returns the next entry, nil at the end.
func (w *walker) next(ctx context.Context) (*api.WalkEntry, error) {
	if first := w.first; first != nil {
		w.first = nil
		return first, nil
	}
	for len(w.stack) > 0 {
		l := w.stack[len(w.stack)-1]
		if len(l.queue) == 0 {
			if err := w.refill(ctx, l); err != nil {
				return nil, err
			}
			continue
		}
		e := l.queue[0]
		l.queue = l.queue[1:]
		if entry, err := w.visit(ctx, l, e); entry != nil || err != nil {
			return entry, err
		}
	}
	return nil, nil
}

// refill reads more of a directory or leaves it.
func (w *walker) refill(ctx context.Context, l *level) error {
	if err := w.fill(ctx, l); err != nil {
		return failed(err, "walk", l.name)
	}
	if len(l.queue) == 0 {
		l.close()
		w.stack = w.stack[:len(w.stack)-1]
	}
	return nil
}

// visit returns the entry for e unless the options leave it out.
func (w *walker) visit(ctx context.Context, l *level, e iofs.DirEntry) (*api.WalkEntry, error) {
	entry := api.WalkEntry{
		Path: join(l.name, e.Name()), Name: e.Name(),
		IsFile: e.Type().IsRegular(), IsDirectory: e.IsDir(), IsSymlink: isLink(e),
	}
	directory := entry.IsDirectory
	if entry.IsSymlink {
		if !w.opts.followSymlinks {
			return w.filter(entry, w.opts.symlinks)
		}
		real, info, err := w.follow(ctx, entry.Path)
		if err != nil {
			return nil, failed(err, "walk", entry.Path)
		}
		if w.opts.canonicalize {
			entry.Path = real
		}
		directory = info.IsDirectory
	}
	if directory {
		return w.visitDir(ctx, l, entry)
	}
	return w.filter(entry, w.opts.files)
}

// visitDir is visit for a directory or a link to one.
func (w *walker) visitDir(ctx context.Context, l *level, entry api.WalkEntry) (*api.WalkEntry, error) {
	entry = api.WalkEntry{Path: entry.Path, Name: baseName(entry.Path), IsDirectory: true}
	found, err := w.filter(entry, w.opts.dirs)
	if err != nil {
		return nil, err
	}
	if err := w.descend(ctx, entry.Path, l.depth-1); err != nil {
		return nil, failed(err, "walk", entry.Path)
	}
	return found, nil
}

func (w *walker) follow(ctx context.Context, p string) (real string, info api.FileInfo, err error) {
	err = w.s.pool.do(ctx, func() (err error) {
		if real, err = realPath(w.s.resolve(p)); err != nil {
			return err
		}
		info, err = statAt(unix.AT_FDCWD, real, unix.AT_SYMLINK_NOFOLLOW)
		return err
	})
	return real, info, err
}

func (w *walker) filter(entry api.WalkEntry, kind bool) (*api.WalkEntry, error) {
	if !kind {
		return nil, nil
	}
	included, err := w.opts.included(entry.Path)
	if !included || err != nil {
		return nil, err
	}
	return &entry, nil
}

// close frees the directories of a walk that ends early.
func (w *walker) close() {
	for _, l := range w.stack {
		l.close()
	}
	w.stack = nil
}
