package intercept

import (
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/atollhq/atoll/internal/gateway/audit"
)

const ruleRequest = "for the connection's host"

// record is what the audit is told about an exchange when it ends.
type record struct {
	audit.Record
	sent, received atomic.Int64 // bytes of bodies
}

func newExchange(c *connection, r *http.Request) *exchange {
	e := &exchange{connection: c}
	proto := protoHTTP1
	if r.ProtoMajor == 2 {
		proto = protoHTTP2
	}
	e.Record = audit.Record{
		Time: time.Now(), Kind: audit.Request,
		Name: c.query.Name, Addr: c.addr, Port: c.query.Port, Protocol: proto,
		Method: r.Method, Path: r.URL.EscapedPath(),
		Decision: audit.Allow, Rule: ruleRequest,
	}
	return e
}

// report tells the audit.
func (e *exchange) report() {
	e.Sent, e.Received = e.sent.Load(), e.received.Load()
	e.Millis = time.Since(e.Time).Milliseconds()
	if e.secret != nil {
		e.Secrets, e.Note = e.secret.Secrets(), e.secret.Note()
	}
	e.of.cfg.Audit.Add(e.Record)
}

// responseWriter notes what the guest is answered.
type responseWriter struct {
	http.ResponseWriter
	exchange *exchange
}

// WriteHeader implements http.ResponseWriter.
func (w *responseWriter) WriteHeader(status int) {
	if status >= http.StatusOK {
		w.exchange.Status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements io.Writer.
func (w *responseWriter) Write(b []byte) (int, error) {
	n, err := w.ResponseWriter.Write(b)
	w.exchange.received.Add(int64(n))
	return n, err
}

// Unwrap makes flushing and hijacking reach the writer below.
func (w *responseWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// countingBody counts what the guest sends.
type countingBody struct {
	io.ReadCloser
	count *atomic.Int64
}

// Read implements io.Reader.
func (b *countingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.count.Add(int64(n))
	return n, err
}
