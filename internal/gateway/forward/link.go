package forward

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/atollhq/atoll/internal/gateway/policy"
)

// link is an allowed connection or flow, and what it was allowed as.
type link struct {
	query policy.Query
	cut   func(why error)
}

// Why links are cut.
var (
	errNotAllowed  = errors.New("no longer allowed") // by the policy
	errMachineGone = errors.New("the machine is gone")
)

// enroll remembers an allowed query for as long as the returned context
// lives; done forgets it. The context ends when the policy no longer allows
// the query, with the machine, or with the forwarder.
func (f *Forwarder) enroll(q policy.Query) (ctx context.Context, done func()) {
	ctx, cancel := context.WithCancelCause(f.ctx)
	l := &link{query: q, cut: cancel}
	f.mu.Lock()
	f.links[l] = struct{}{}
	f.mu.Unlock()
	// The policy may have changed between the decision and this.
	if !f.cfg.Decide(q).Allow {
		l.cut(errNotAllowed)
	}
	return ctx, func() {
		cancel(nil)
		f.mu.Lock()
		delete(f.links, l)
		f.mu.Unlock()
	}
}

// Reconsider cuts every connection and flow that is no longer allowed.
func (f *Forwarder) Reconsider() {
	for _, l := range f.open() {
		if !f.cfg.Decide(l.query).Allow {
			l.cut(errNotAllowed)
		}
	}
}

// CutAll cuts every connection and flow, because the machine that had them is
// no more; another may continue where it stood, without them.
func (f *Forwarder) CutAll() {
	for _, l := range f.open() {
		l.cut(errMachineGone)
	}
}

func (f *Forwarder) open() []*link {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Keys(f.links))
}
