package rpc

import (
	"context"
	"sync"
	"sync/atomic"
)

// callState is what a running call carries in its context.
type callState struct {
	aborted atomic.Bool
}

type callKey struct{}

// aborts finds running calls by their abort ids. An id can be aborted before
// its call has got as far as registering it, so the last few unknown ids are
// remembered.
type aborts struct {
	mu      sync.Mutex
	running map[int64][]*abortable
	early   [256]int64 // ids, at most one of each; a ring
	next    int
	used    int
}

type abortable struct {
	cancel context.CancelFunc
	call   *callState // nil outside a call
}

func (a *abortable) abort() {
	if a.call != nil {
		a.call.aborted.Store(true)
	}
	a.cancel()
}

// Abortable returns a context that an abort call with this id cancels, and a
// function that ends this, to be called when the work is done. The call then
// answers an AbortError, whatever error its function returns. A nil id is
// never aborted.
func (c *Conn) Abortable(ctx context.Context, abortID *int64) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	if abortID == nil {
		return ctx, cancel
	}
	call, _ := ctx.Value(callKey{}).(*callState)
	entry := &abortable{cancel: cancel, call: call}
	c.aborts.add(*abortID, entry)
	return ctx, func() {
		c.aborts.remove(*abortID, entry)
		cancel()
	}
}

func (a *aborts) add(id int64, entry *abortable) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range a.used {
		if a.early[i] == id {
			entry.abort()
			return
		}
	}
	if a.running == nil {
		a.running = map[int64][]*abortable{}
	}
	a.running[id] = append(a.running[id], entry)
}

func (a *aborts) remove(id int64, entry *abortable) {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := a.running[id]
	for i, e := range list {
		if e == entry {
			list = append(list[:i:i], list[i+1:]...)
			break
		}
	}
	if len(list) == 0 {
		delete(a.running, id)
		return
	}
	a.running[id] = list
}

// abort cancels what runs under an id.
func (a *aborts) abort(id int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	list, ok := a.running[id]
	for _, entry := range list {
		entry.abort()
	}
	if !ok {
		a.early[a.next] = id
		a.next = (a.next + 1) % len(a.early)
		a.used = min(a.used+1, len(a.early))
	}
}
