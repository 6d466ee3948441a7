//go:build e2e

package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"time"
)

// What is substituted on the way to the origin, which refuses what comes with
// anything but the secret.
const (
	placeholder = "atoll-placeholder-0123456789abcdef"
	secret      = "the-secret-of-the-benchmark"
	bearer      = "Bearer "
)

// newOrigin is a server with TLS, of HTTP/1.1 and HTTP/2, that serves bytes, takes bytes, and
// answers small requests.
func newOrigin() *httptest.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /bytes/{size}", func(w http.ResponseWriter, r *http.Request) {
		size, _ := strconv.Atoi(r.PathValue("size"))
		w.Header().Set("Content-Length", strconv.Itoa(size))
		block := make([]byte, 1<<20)
		for ; size > 0; size -= len(block) {
			if _, err := w.Write(block[:min(size, len(block))]); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("PUT /bytes", func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.CopyBuffer(struct{ io.Writer }{io.Discard}, r.Body, make([]byte, 1<<20))
		_, _ = fmt.Fprint(w, n)
	})
	mux.HandleFunc("GET /small", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "small") })
	origin := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != bearer+secret {
			http.Error(w, "not the secret", http.StatusForbidden)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	origin.EnableHTTP2 = true
	origin.StartTLS()
	return origin
}

// visitor asks the origin at url, with what it puts in the header.
type visitor struct {
	client *http.Client
	url    string
	token  string
}

// visit counts the bytes of the answer.
func (v *visitor) visit(ctx context.Context, method, path string, body io.Reader, size int64) (answer int64, took time.Duration, err error) {
	r, err := http.NewRequestWithContext(ctx, method, v.url+path, body)
	if err != nil {
		return 0, 0, err
	}
	r.ContentLength = size
	r.Header.Set("Authorization", bearer+v.token)
	began := time.Now()
	response, err := v.client.Do(r)
	if err != nil {
		return 0, 0, err
	}
	defer response.Body.Close()
	answer, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, response.Body, make([]byte, 1<<20))
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("the origin answered %s", response.Status)
	}
	return answer, time.Since(began), err
}

func (v *visitor) download(ctx context.Context, size int64) (time.Duration, error) {
	n, took, err := v.visit(ctx, http.MethodGet, fmt.Sprintf("/bytes/%d", size), nil, 0)
	if err == nil && n != size {
		err = fmt.Errorf("%d bytes came of %d", n, size)
	}
	return took, err
}

func (v *visitor) upload(ctx context.Context, size int64) (time.Duration, error) {
	_, took, err := v.visit(ctx, http.MethodPut, "/bytes", io.LimitReader(zeros{}, size), size)
	return took, err
}

func (v *visitor) small(ctx context.Context) (time.Duration, error) {
	_, took, err := v.visit(ctx, http.MethodGet, "/small", nil, 0)
	return took, err
}

// zeros never end.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }
