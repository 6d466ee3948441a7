package forward

import (
	"context"
	"errors"

	"github.com/atollhq/atoll/internal/gateway/policy"
)

// link is an allowed connection or flow, and what it was allowed as.
type link struct {
	query policy.Query
	cut   func()
}

// errNotAllowed ends what the policy no longer allows.
var errNotAllowed = errors.New("no longer allowed")

// enroll remembers an allowed query for as long as the returned context
// lives; done forgets it. The context ends when the policy no longer allows
// the query, or with the forwarder.
func (f *Forwarder) enroll(q policy.Query) (ctx context.Context, done func()) {
	ctx, cancel := context.WithCancelCause(f.ctx)
	l := &link{query: q, cut: func() { cancel(errNotAllowed) }}
	f.mu.Lock()
	f.links[l] = struct{}{}
	f.mu.Unlock()
	// The policy may have changed between the decision and this.
	if !f.cfg.Decide(q).Allow {
		l.cut()
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
	f.mu.Lock()
	links := make([]*link, 0, len(f.links))
	for l := range f.links {
		links = append(links, l)
	}
	f.mu.Unlock()
	for _, l := range links {
		if !f.cfg.Decide(l.query).Allow {
			l.cut()
		}
	}
}
