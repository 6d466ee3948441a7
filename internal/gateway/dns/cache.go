package dns

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sync/singleflight"
)

const (
	maxCached = 1024
	minHeld   = 5 * time.Second // also of negative answers
	maxHeld   = 5 * time.Minute
)

// cache holds answers about addresses, so that the connection that follows a
// question doesn't ask again. It holds them as they came: they are filtered
// each time they are used, because the policy may have changed.
type cache struct {
	now    func() time.Time
	flight singleflight.Group

	mu   sync.Mutex // guards the following
	held *simplelru.LRU[dnsmessage.Question, answer]
}

type answer struct {
	message dnsmessage.Message
	until   time.Time
}

func newCache() *cache {
	held, _ := simplelru.NewLRU[dnsmessage.Question, answer](maxCached, nil) // fails for no positive size
	return &cache{now: time.Now, held: held}
}

// resolve answers from the cache or asks, once for all who ask the same.
func (c *cache) resolve(ctx context.Context, r Resolver, q dnsmessage.Question) (dnsmessage.Message, error) {
	if m, ok := c.get(q); ok {
		return m, nil
	}
	done := c.flight.DoChan(q.GoString(), func() (any, error) {
		// Whoever asked first may leave; the others still want the answer.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), queryTimeout)
		defer cancel()
		m, err := r.Resolve(ctx, q)
		if err == nil {
			c.put(q, m)
		}
		return m, err
	})
	select {
	case got := <-done:
		if got.Err != nil {
			return dnsmessage.Message{}, got.Err
		}
		return got.Val.(dnsmessage.Message), nil
	case <-ctx.Done():
		return dnsmessage.Message{}, ctx.Err()
	}
}

func (c *cache) get(q dnsmessage.Question) (dnsmessage.Message, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a, ok := c.held.Get(q)
	return a.message, ok && c.now().Before(a.until)
}

func (c *cache) put(q dnsmessage.Question, m dnsmessage.Message) {
	if m.RCode != dnsmessage.RCodeSuccess && m.RCode != dnsmessage.RCodeNameError {
		return
	}
	held := maxHeld
	for _, r := range m.Answers {
		held = min(held, time.Duration(r.Header.TTL)*time.Second)
	}
	if len(m.Answers) == 0 {
		held = minHeld
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held.Add(q, answer{m, c.now().Add(max(held, minHeld))})
}
