package fetch

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/agent/rpc"
)

// DialProcess opens a connection to the HTTP server of a process. Its errors
// are *api.RemoteError or the context's.
type DialProcess func(ctx context.Context, pid int) (net.Conn, error)

// Service is the `fetch` method.
type Service struct {
	client *Client
	dial   DialProcess
	pumps  sync.WaitGroup // one per response body on its way to a client
}

// Register adds the method to reg. Close frees what the service holds, after
// the connections have ended.
func Register(reg *rpc.Registry, dial DialProcess) *Service {
	s := &Service{client: NewClient(), dial: dial}
	rpc.Register(reg, "fetch", s.fetch)
	return s
}

// Close waits for the responses under way, which end with their connections.
func (s *Service) Close() {
	s.pumps.Wait()
	s.client.Close()
}

// fetch answers as soon as the response's headers are there. The response's
// body goes on after the call, as long as the connection (ctx), and can be
// aborted like the call.
func (s *Service) fetch(ctx context.Context, c *rpc.Conn, p api.FetchParams) (api.FetchResult, error) {
	ctx, release := c.Abortable(ctx, p.AbortID)
	res, err := s.client.Do(ctx, s.request(c, p))
	if err != nil {
		release()
		return api.FetchResult{}, remoteError(err)
	}
	result := api.FetchResult{Status: res.Status, StatusText: res.StatusText, Headers: res.Headers}
	if res.Body == nil {
		release()
		return result, nil
	}
	out := c.OpenStream()
	id := out.ID()
	result.BodyStreamID = &id
	s.pumps.Go(func() {
		defer release()
		pump(ctx, out, res.Body)
	})
	return result, nil
}

func (s *Service) request(c *rpc.Conn, p api.FetchParams) Request {
	r := Request{URL: p.URL, Method: p.Method, Headers: p.Headers, Manual: p.Redirect == "manual"}
	if p.BodyStreamID != nil {
		r.Body = upload{c.InStream(*p.BodyStreamID)}
	}
	if p.PID != nil {
		r.ToServer = func(ctx context.Context) (net.Conn, error) { return s.dial(ctx, *p.PID) }
	}
	return r
}

// upload is a request's body as it comes from the client. Unlike the
// stream's own, its Close may be called while a Read waits.
type upload struct{ *rpc.InStream }

func (u upload) Close() error {
	u.Cancel(rpc.NewError("Error", "", "the request has ended"))
	return nil
}

// sink is the part of *rpc.OutStream that pump uses.
type sink interface {
	io.WriteCloser
	Fail(error)
	Cancelled() <-chan struct{}
}

// pump copies a response's body to the client and closes it. A client that
// cancels its stream ends the transfer; so does ctx.
func pump(ctx context.Context, out sink, body io.ReadCloser) {
	ended := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-out.Cancelled():
		case <-ctx.Done():
		case <-ended:
		}
		body.Close() // also wakes a blocked Read
	})
	_, err := io.CopyBuffer(onlyWriter{out}, body, make([]byte, 64<<10))
	close(ended)
	watch.Wait()
	switch {
	case ctx.Err() != nil:
		out.Fail(remoteError(context.Cause(ctx)))
	case err != nil:
		out.Fail(remoteError(&Error{Message: "error reading a body from connection", Code: systemCode(err), Cause: err.Error()}))
	default:
		out.Close()
	}
}

// onlyWriter keeps io.CopyBuffer from using any other method than Write.
type onlyWriter struct{ io.Writer }

// remoteError turns a failure into the client's: what is not a TypeError of
// fetch is an abort or comes from DialProcess.
func remoteError(err error) error {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return rpc.FromOS("", err)
	}
	remote := rpc.NewError("TypeError", e.Code, "%s", e.Message)
	if e.Cause != "" {
		remote.Cause = rpc.NewError("Error", e.Code, "%s", e.Cause)
	}
	return remote
}
