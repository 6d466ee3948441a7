package fs

import (
	"context"
	"maps"
	"math"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/atollhq/atoll/api"
)

const errNotFound = unix.ENOENT

// maxCollected bounds the matches of a glob that cannot be streamed.
const maxCollected = 200_000

// expandAll matches segment by segment and collects: with links and ".." a
// match may turn up several times and anywhere, and @std/fs promises each one
// once and in order.
func (s *Service) expandAll(ctx context.Context, g *globPlan, root api.WalkEntry) ([]api.WalkEntry, error) {
	current := []api.WalkEntry{root}
	for _, seg := range g.segments {
		found := map[string]api.WalkEntry{}
		for _, e := range current {
			if err := s.advance(ctx, g, seg, e, found); err != nil {
				return nil, err
			}
		}
		current = current[:0]
		for _, p := range slices.Sorted(maps.Keys(found)) {
			current = append(current, found[p])
		}
	}
	return slices.DeleteFunc(current, func(e api.WalkEntry) bool { return !g.wanted(e.IsDirectory) }), nil
}

// advance adds to found what one segment matches in one directory.
func (s *Service) advance(ctx context.Context, g *globPlan, seg segment, dir api.WalkEntry, found map[string]api.WalkEntry) error {
	if !dir.IsDirectory {
		return nil
	}
	if seg.text == segmentParent {
		return s.advanceParent(ctx, g, dir, found)
	}
	opts := walkOptions{
		files: true, dirs: true, symlinks: true, skip: g.exclude,
		maxDepth: 1, followSymlinks: g.followSymlinks, canonicalize: true,
	}
	if seg.text == segmentGlobstar {
		opts.canonicalize = g.canonicalize
		if g.globstar {
			opts.maxDepth = math.Inf(1)
		}
	}
	w, err := s.newWalker(ctx, dir.Path, opts)
	if err != nil {
		return err
	}
	defer w.close()
	return collect(ctx, w, found, func(e *api.WalkEntry) (bool, error) {
		if seg.text == segmentGlobstar {
			return true, nil
		}
		if e.Path == dir.Path {
			return false, nil
		}
		return seg.pattern.match(e.Name)
	})
}

func (s *Service) advanceParent(ctx context.Context, g *globPlan, dir api.WalkEntry, found map[string]api.WalkEntry) error {
	parent := join(dir.Path, "..")
	if excluded, err := matchAny(g.exclude, parent); excluded || err != nil {
		return err
	}
	e, err := s.walkEntry(ctx, parent)
	if err != nil {
		return failed(err, "stat", parent)
	}
	found[e.Path] = e
	return nil
}

func collect(ctx context.Context, w *walker, found map[string]api.WalkEntry, keep func(*api.WalkEntry) (bool, error)) error {
	for {
		e, err := w.next(ctx)
		if e == nil || err != nil {
			return err
		}
		ok, err := keep(e)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if len(found) >= maxCollected {
			return tooManyMatches(maxCollected)
		}
		found[e.Path] = *e
	}
}
