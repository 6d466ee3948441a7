package client

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"

	"github.com/atollhq/atoll/api"
)

// Fetch makes an HTTP request from the sandbox's network. Redirects are not
// followed: wrap Transport in an http.Client for that. The response's body
// must be closed.
func (s *Sandbox) Fetch(req *http.Request) (*http.Response, error) {
	return s.conn.fetch(req, nil)
}

// Transport returns a transport for http.Client whose requests leave from the
// sandbox.
func (s *Sandbox) Transport() http.RoundTripper { return roundTripper{s.conn, nil} }

// roundTripper sends requests through fetch, to a process if pid is set.
type roundTripper struct {
	conn *conn
	pid  *int
}

func (t roundTripper) RoundTrip(req *http.Request) (*http.Response, error) {
	return t.conn.fetch(req, t.pid)
}

func (c *conn) fetch(req *http.Request, pid *int) (*http.Response, error) {
	ctx := req.Context()
	params := api.FetchParams{
		URL:      req.URL.String(),
		Method:   methodOf(req),
		Headers:  pairsOf(req),
		Redirect: "manual",
		AbortID:  c.newAbortID(),
		PID:      pid,
	}
	body, err := c.requestBody(ctx, req, &params)
	if err != nil {
		return nil, err
	}
	res, err := callRequest[api.FetchResult](ctx, c, request{
		method: "fetch",
		params: params,
		abort:  params.AbortID,
		sent: func() {
			if body != nil {
				go func() { _ = body.copyFrom(req.Body); req.Body.Close() }()
			}
		},
		undo: func(ok json.RawMessage) {
			var late api.FetchResult
			if json.Unmarshal(ok, &late) == nil {
				c.discard(late.BodyStreamID)
			}
		},
	})
	if err != nil {
		if body != nil {
			c.cancelOut(body.id)
		}
		return nil, err
	}
	return c.response(req, res)
}

func methodOf(req *http.Request) string {
	if req.Method == "" {
		return http.MethodGet
	}
	return req.Method
}

func pairsOf(req *http.Request) [][2]string {
	pairs := [][2]string{}
	for name, values := range req.Header {
		for _, value := range values {
			pairs = append(pairs, [2]string{strings.ToLower(name), value})
		}
	}
	if req.Host != "" && req.Host != req.URL.Host {
		pairs = append(pairs, [2]string{"host", req.Host})
	}
	return pairs
}

func (c *conn) requestBody(ctx context.Context, req *http.Request, params *api.FetchParams) (*outStream, error) {
	if req.Body == nil || req.Body == http.NoBody {
		return nil, nil
	}
	body, err := c.startStream(ctx)
	if err != nil {
		return nil, err
	}
	params.BodyStreamID = &body.id
	return body, nil
}

func (c *conn) response(req *http.Request, res api.FetchResult) (*http.Response, error) {
	stream, err := c.claim(res.BodyStreamID)
	if err != nil {
		return nil, err
	}
	header := http.Header{}
	for _, pair := range res.Headers {
		header.Add(pair[0], pair[1])
	}
	resp := &http.Response{
		Status:     http.StatusText(res.Status),
		StatusCode: res.Status,
		Proto:      "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header:        header,
		Body:          http.NoBody,
		ContentLength: -1,
		Request:       req,
	}
	if stream == nil {
		resp.ContentLength = 0
		return resp, nil
	}
	resp.Body = &responseBody{ReadCloser: newReader(stream), stop: watchContext(req.Context(), stream)}
	return resp, nil
}

// responseBody ends the watch over its request's context with itself.
type responseBody struct {
	io.ReadCloser
	stop func() bool
}

func (b *responseBody) Close() error {
	b.stop()
	return b.ReadCloser.Close()
}

// watchContext closes the stream when ctx ends.
func watchContext(ctx context.Context, s *inStream) (stop func() bool) {
	return context.AfterFunc(ctx, func() { s.Close() })
}
