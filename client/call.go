package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/atollhq/atoll/api"
)

// request is one call to make.
type request struct {
	method string
	params any
	// abort is the abortId inside params; when set, a call whose context ends
	// is aborted at the server.
	abort *int64
	// sent runs after the request was written.
	sent func()
	// undo runs, in a goroutine of its own, when the call succeeds after its
	// caller gave up.
	undo func(json.RawMessage)
}

// do makes a call and returns the "ok" member of its result.
func (c *conn) do(ctx context.Context, r request) (json.RawMessage, error) {
	result, err := c.exchange(ctx, r)
	if err != nil {
		return nil, err
	}
	return okOf(r.method, result)
}

// exchange makes a call and returns its undecoded result.
func (c *conn) exchange(ctx context.Context, r request) (json.RawMessage, error) {
	id, waiting, err := c.register()
	if err != nil {
		return nil, err
	}
	msg, err := appendRequest(nil, &id, r.method, r.params)
	if err != nil {
		c.forget(id, waiting, nil)
		return nil, err
	}
	if queued, err := c.post(ctx, msg); err != nil {
		if queued {
			c.giveUp(id, waiting, r)
		} else {
			c.forget(id, waiting, nil)
		}
		return nil, c.failure(r.method, err)
	}
	if r.sent != nil {
		r.sent()
	}
	select {
	case got := <-waiting:
		if got.err != nil {
			return nil, c.failure(r.method, got.err)
		}
		return got.result, nil
	case <-ctx.Done():
		c.giveUp(id, waiting, r)
		return nil, c.failure(r.method, ctx.Err())
	}
}

// failure names the method, except for a CloseError, which concerns all.
func (c *conn) failure(method string, err error) error {
	if ce, ok := errors.AsType[*CloseError](err); ok {
		return ce
	}
	return fmt.Errorf("%s: %w", method, err)
}

func (c *conn) register() (int64, chan reply, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closeErr != nil {
		return 0, nil, c.closeErr
	}
	id := c.nextID
	c.nextID++
	waiting := make(chan reply, 1)
	c.pending[id] = waiting
	return id, waiting, nil
}

// forget drops a call; undo, if any, runs should it succeed nevertheless.
func (c *conn) forget(id int64, waiting chan reply, undo func(json.RawMessage)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closeErr != nil || undo == nil {
		delete(c.pending, id)
		return
	}
	if _, open := c.pending[id]; open {
		delete(c.pending, id)
		c.dropped[id] = undo
		return
	}
	select {
	case got := <-waiting: // it was answered at this very moment
		c.runUndo(undo, got.result)
	default:
	}
}

// giveUp forgets a call that was sent and tells the server, where the call
// supports it.
func (c *conn) giveUp(id int64, waiting chan reply, r request) {
	c.forget(id, waiting, r.undo)
	if r.abort == nil {
		return
	}
	abort := api.AbortParams{AbortID: *r.abort}
	go func() { // ends within noticeTimeout
		ctx, cancel := context.WithTimeout(c.ctx, noticeTimeout)
		defer cancel()
		_, _ = c.exchange(ctx, request{method: "abort", params: abort})
	}()
}

// resolve gives an answer to the call that waits for it.
func (c *conn) resolve(id int64, r reply) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if waiting, ok := c.pending[id]; ok {
		delete(c.pending, id)
		waiting <- r
		return
	}
	if undo, ok := c.dropped[id]; ok {
		delete(c.dropped, id)
		c.runUndo(undo, r.result)
	}
}

// runUndo runs undo on a successful result. Its calls have their own
// deadlines.
func (c *conn) runUndo(undo func(json.RawMessage), result json.RawMessage) {
	if ok, err := okOf("", result); err == nil && ok != nil {
		go undo(ok)
	}
}

// okOf splits {"ok": …} from {"error": …}.
func okOf(method string, result json.RawMessage) (json.RawMessage, error) {
	var r api.Result
	if err := json.Unmarshal(result, &r); err != nil {
		return nil, fmt.Errorf("%s: read the result: %w", method, err)
	}
	if r.Error != nil {
		return nil, &Error{Method: method, Remote: r.Error}
	}
	return r.OK, nil
}

// call makes a call and decodes its result.
func call[T any](ctx context.Context, c *conn, method string, params any) (T, error) {
	return callRequest[T](ctx, c, request{method: method, params: params})
}

func callRequest[T any](ctx context.Context, c *conn, r request) (T, error) {
	var out T
	ok, err := c.do(ctx, r)
	if err != nil {
		return out, err
	}
	if len(ok) == 0 || bytes.Equal(ok, []byte("null")) {
		return out, nil
	}
	if err := json.Unmarshal(ok, &out); err != nil {
		return out, fmt.Errorf("%s: read the result: %w", r.method, err)
	}
	return out, nil
}

// run makes a call without a result.
func (c *conn) run(ctx context.Context, method string, params any) error {
	_, err := c.do(ctx, request{method: method, params: params})
	return err
}

// newAbortID returns a number for an abortable call.
func (c *conn) newAbortID() *int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := c.nextID
	c.nextID++
	return &id
}
