package fs

import (
	"context"
	iofs "io/fs"
	"slices"
	"strings"

	"github.com/atollhq/atoll/api"
)

// globWalker yields the matches of a glob in the order of their paths while it
// walks, so that it never holds more than the directories from the root down
// to where it is.
//
// It follows all segments at once: a state i says that the path so far matched
// the first i segments.
type globWalker struct {
	s     *Service
	g     *globPlan
	first *api.WalkEntry // the root, if it matches
	stack [][]globStep   // per directory what is left to do, in order
}

// globStep is one thing to do in a directory: to yield an entry or to go into
// it. Sorting by key gives the order of whole paths, because the key of going
// in ends with the slash that all paths below continue with.
type globStep struct {
	key    string
	entry  api.WalkEntry
	states []int // nil: yield
}

func (s *Service) newGlobWalker(g *globPlan, root api.WalkEntry) (*globWalker, error) {
	w := &globWalker{s: s, g: g}
	if len(g.segments) == 0 {
		w.take(root)
		return w, nil
	}
	excluded, err := matchAny(g.exclude, root.Path)
	if excluded || err != nil {
		return w, err
	}
	states := w.closure([]int{0}, root.IsDirectory)
	if slices.Contains(states, len(g.segments)) {
		w.take(root)
	}
	if root.IsDirectory {
		w.stack = [][]globStep{{{entry: root, states: states}}}
	}
	return w, nil
}

func (w *globWalker) take(root api.WalkEntry) {
	if w.g.wanted(root.IsDirectory) {
		w.first = &root
	}
}

// closure adds what a directory matches without going deeper: "**" also
// matches nothing. Only a directory can go on from one segment to the next.
func (w *globWalker) closure(states []int, isDirectory bool) []int {
	for i := 0; i < len(states); i++ {
		at := states[i]
		if at < len(w.g.segments) && w.g.segments[at].text == segmentGlobstar && isDirectory && !slices.Contains(states, at+1) {
			states = append(states, at+1)
		}
	}
	return states
}

// next returns the next match, nil at the end.
func (w *globWalker) next(ctx context.Context) (*api.WalkEntry, error) {
	if first := w.first; first != nil {
		w.first = nil
		return first, nil
	}
	for len(w.stack) > 0 {
		top := len(w.stack) - 1
		if len(w.stack[top]) == 0 {
			w.stack = w.stack[:top]
			continue
		}
		step := w.stack[top][0]
		w.stack[top] = w.stack[top][1:]
		if step.states == nil {
			return &step.entry, nil
		}
		steps, err := w.enter(ctx, step)
		if err != nil {
			return nil, failed(err, "walk", step.entry.Path)
		}
		w.stack = append(w.stack, steps)
	}
	return nil, nil
}

// enter reads a directory and says what is to be done in it.
func (w *globWalker) enter(ctx context.Context, dir globStep) (steps []globStep, err error) {
	d := dirReader{s: w.s, path: dir.entry.Path}
	defer d.close()
	for {
		batch, err := d.next(ctx)
		if err != nil {
			return nil, err
		}
		if len(batch) == 0 {
			break
		}
		for _, e := range batch {
			if steps, err = w.consider(steps, dir, e); err != nil {
				return nil, err
			}
		}
	}
	slices.SortFunc(steps, func(a, b globStep) int { return strings.Compare(a.key, b.key) })
	return steps, nil
}

// consider adds the steps for one entry of a directory.
func (w *globWalker) consider(steps []globStep, dir globStep, e iofs.DirEntry) ([]globStep, error) {
	entry := api.WalkEntry{
		Path: join(dir.entry.Path, e.Name()), Name: e.Name(),
		IsFile: e.Type().IsRegular(), IsDirectory: e.IsDir(), IsSymlink: isLink(e),
	}
	states, err := w.advance(dir.states, entry)
	if len(states) == 0 || err != nil {
		return steps, err
	}
	if excluded, err := matchAny(w.g.exclude, entry.Path); excluded || err != nil {
		return steps, err
	}
	if slices.Contains(states, len(w.g.segments)) && w.g.wanted(entry.IsDirectory) {
		steps = append(steps, globStep{key: entry.Name, entry: entry})
	}
	if states[0] < len(w.g.segments) && entry.IsDirectory {
		steps = append(steps, globStep{key: entry.Name + "/", entry: entry, states: states})
	}
	return steps, nil
}

// advance returns the states of an entry, the smallest first.
func (w *globWalker) advance(states []int, entry api.WalkEntry) (out []int, err error) {
	for _, at := range states {
		if at == len(w.g.segments) {
			continue
		}
		seg := w.g.segments[at]
		switch {
		case seg.text == segmentGlobstar && w.g.globstar:
			// Below "**" every entry is matched by it, and directories stay
			// in it.
			if entry.IsDirectory {
				out = append(out, at)
			}
			out = append(out, at+1)
		case seg.text == segmentGlobstar:
			out = append(out, at+1)
		default:
			ok, err := seg.pattern.match(entry.Name)
			if err != nil {
				return nil, err
			}
			if ok {
				out = append(out, at+1)
			}
		}
	}
	out = w.closure(out, entry.IsDirectory)
	slices.Sort(out)
	return slices.Compact(out), nil
}

func (w *globWalker) close() { w.stack = nil }
