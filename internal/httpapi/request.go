package httpapi

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/auth"
	"github.com/atollhq/atoll/internal/errs"
)

// request is one request on its way through the server.
type request struct {
	*http.Request
	trace    string // also in the response's header
	identity auth.Identity
	log      *slog.Logger
}

// begin is what every request goes through first: trace id, headers, limits,
// panics, errors, counting.
func (a *server) begin(name string, next func(http.ResponseWriter, *request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, hr *http.Request) {
		trace := newTrace()
		r := &request{Request: hr, trace: trace, log: a.Log.With("trace_id", trace)}
		out := &response{ResponseWriter: w}
		h := w.Header()
		h.Set(api.HeaderTraceID, trace)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		if hr.ContentLength != 0 { // also for who never reads it: the server does, to keep the connection
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
		}
		hr.Body = http.MaxBytesReader(w, hr.Body, maxBody)
		began := time.Now()
		defer func() {
			if p := recover(); p != nil {
				r.log.Error("panic in a request", "route", name, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
				a.fail(out, r, errs.Public(nil))
			}
			a.Metrics.Request(name, out.status)
			r.log.Debug("request", "method", hr.Method, "route", name, "status", out.status, "took", time.Since(began))
		}()
		if err := next(out, r); err != nil {
			a.fail(out, r, err)
		}
	})
}

func newTrace() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// response remembers the status, and whether the answer has begun.
type response struct {
	http.ResponseWriter
	status int
}

func (w *response) WriteHeader(status int) {
	w.begin(status)
	w.ResponseWriter.WriteHeader(status)
}

func (w *response) Write(p []byte) (int, error) {
	w.begin(http.StatusOK)
	return w.ResponseWriter.Write(p)
}

// begin bounds how long the caller may take to read the answer. An upgrade
// lifts that bound again.
func (w *response) begin(status int) {
	if w.status != 0 {
		return
	}
	w.status = status
	_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Now().Add(answerTimeout))
}

// Hijack is for the upgrade to WebSocket.
func (w *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return http.NewResponseController(w.ResponseWriter).Hijack()
}

// Unwrap is for http.ResponseController.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// decode reads a JSON body.
func decode(w http.ResponseWriter, r *request, v any) error {
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	return decodeJSON(body, v)
}

// decodeOptional reads a JSON body, if there is one.
func decodeOptional(w http.ResponseWriter, r *request, v any) error {
	body, err := readBody(w, r)
	if err != nil || len(bytes.TrimSpace(body)) == 0 {
		return err
	}
	return decodeJSON(body, v)
}

func readBody(w http.ResponseWriter, r *request) ([]byte, error) {
	body, err := io.ReadAll(r.Body)
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return nil, errs.New(errs.Invalid, "BODY_TOO_LARGE", "the body is larger than %d KiB", maxBody>>10)
	}
	if err != nil {
		return nil, errs.Wrap(err, errs.Invalid, "INVALID_BODY", "the body could not be read to its end")
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	return body, nil
}

func decodeJSON(body []byte, v any) error {
	if err := json.Unmarshal(body, v); err != nil {
		return errs.New(errs.Invalid, "INVALID_BODY", "the body is not the JSON that this call needs")
	}
	return nil
}

// answer writes a JSON body.
func answer(w http.ResponseWriter, status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // the caller has left: nothing to do
	return nil
}

// fail answers with an error, unless the answer has begun.
func (a *server) fail(w *response, r *request, err error) {
	public := errs.Public(err)
	status := statusOf(public)
	switch {
	case errors.Is(err, context.Canceled) && r.Context().Err() != nil:
		status = statusClientLeft
	case public.Class == errs.Internal:
		r.log.Error("request failed", "error", err)
	case status >= 500 && public.Class != errs.Unsupported:
		r.log.Warn("request refused", "error", err)
	case public.Class == errs.Invalid: // its words quote the caller, who may have misplaced a value
		r.log.Debug("request refused", "code", public.Code)
	default:
		r.log.Debug("request refused", "error", err)
	}
	if w.status != 0 {
		return
	}
	_ = answer(w, status, api.Error{Code: public.Code, Message: public.Message})
}
