package rpc

import (
	"context"
	"sync"
)

// budget bounds how many calls run at once and how large their messages are
// together. A single call always fits.
type budget struct {
	mu      sync.Mutex
	changed sync.Cond
	calls   int
	bytes   int64
	closed  bool

	maxCalls int
	maxBytes int64
}

func newBudget(calls int, bytes int64) *budget {
	b := &budget{maxCalls: calls, maxBytes: bytes}
	b.changed.L = &b.mu
	return b
}

// take waits for room. False means that the budget was closed meanwhile.
func (b *budget) take(bytes int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for !b.closed && b.calls > 0 && (b.calls >= b.maxCalls || b.bytes+int64(bytes) > b.maxBytes) {
		b.changed.Wait()
	}
	if b.closed {
		return false
	}
	b.calls++
	b.bytes += int64(bytes)
	return true
}

func (b *budget) give(bytes int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls--
	b.bytes -= int64(bytes)
	b.changed.Signal()
}

// closeWhen closes the budget at the end of ctx. The result stops that.
func (b *budget) closeWhen(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.closed = true
		b.changed.Broadcast()
	})
}
