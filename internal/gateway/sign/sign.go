// Package sign signs requests on behalf of the guest, so that a key never
// travels: neither into the guest nor, as part of a request, to the server.
//
// For AWS Signature Version 4 the guest's own SDK signs with placeholder
// credentials. The gateway verifies that signature, which shows that it reads
// the request as the SDK meant it, and signs the same request again with the
// real ones. An HMAC of a request's parts needs nothing of the guest.
//
// Terms: a claim is what a request says of its signature; a form is one of the
// ways in which clients write down a path and a query to sign them.
//
// A signer may be used concurrently. It reads requests that the guest wrote,
// so it bounds whatever it holds. It must see a request as it will leave: what
// is signed may not change any more.
package sign

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
)

// Codes of refusals.
const (
	CodeMalformed     = "SIGN_MALFORMED"       // what the request says of its signature can't be read
	CodeUnsupported   = "SIGN_UNSUPPORTED"     // a way to sign that isn't known here
	CodeSigV4A        = "SIGN_SIGV4A"          // the asymmetric variant, for which placeholders can't stand in
	CodeMismatch      = "SIGN_MISMATCH"        // the guest's signature is of another request or by another key
	CodeHeaderMissing = "SIGN_HEADER_MISSING"  // a signed header doesn't reach the server
	CodeDate          = "SIGN_DATE"            // signed too long ago, or in the future
	CodeChunk         = "SIGN_CHUNK_MALFORMED" // a body of signed chunks isn't one
	CodeChunkMismatch = "SIGN_CHUNK_MISMATCH"  // a chunk's signature is of another chunk or by another key
	CodeChunkSize     = "SIGN_CHUNK_TOO_LARGE" // a chunk has more than 16 MiB
	CodeBodySize      = "SIGN_BODY_TOO_LARGE"  // a body that must be known before it leaves is too long
	CodeBusy          = "SIGN_BUSY"            // too many bodies are held at the same time
	CodeConfig        = "SIGN_CONFIG"          // a configuration that can't sign
)

// Error is why a request is not signed, or why its body ends early. The guest
// may see it: it holds no key.
type Error struct {
	Code   string // stable, one of the above
	Reason string // a sentence that says what to do
}

func (e *Error) Error() string { return e.Reason }

func refuse(code, format string, args ...any) *Error {
	return &Error{Code: code, Reason: fmt.Sprintf(format, args...)}
}

// hidden is how keys appear in texts and logs.
const hidden = "[secret]"

func hide(f fmt.State) { _, _ = io.WriteString(f, hidden) }

var hiddenValue = slog.StringValue(hidden)

// maxHeld bounds the bytes of bodies that a signer holds at the same time.
const maxHeld = 128 << 20

// budget counts bytes that are held.
type budget struct{ held atomic.Int64 }

func (b *budget) take(n int64) error {
	if b.held.Add(n) > maxHeld {
		b.give(n)
		return refuse(CodeBusy, "too many requests are being signed at the same time; try again when some have ended")
	}
	return nil
}

func (b *budget) give(n int64) { b.held.Add(-n) }

// hold reads the whole body of a request, at most limit bytes, and puts what
// it read in the body's place.
func (b *budget) hold(r *http.Request, limit int64) ([]byte, error) {
	if r.Body == nil || r.Body == http.NoBody {
		return nil, nil
	}
	if r.ContentLength > limit {
		return nil, tooLarge(limit)
	}
	reserved := r.ContentLength
	if reserved < 0 {
		reserved = limit
	}
	if err := b.take(reserved); err != nil {
		return nil, err
	}
	data, err := readAll(r.Body, limit)
	if err != nil {
		b.give(reserved)
		return nil, err
	}
	size := int64(len(data))
	b.give(reserved - size)
	r.Body, r.GetBody = &held{Reader: bytes.NewReader(data), release: sync.OnceFunc(func() { b.give(size) })}, nil
	if len(r.Trailer) == 0 {
		r.ContentLength = size
	}
	return data, nil
}

func readAll(body io.ReadCloser, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(body, limit+1))
	if err = errors.Join(err, body.Close()); err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, tooLarge(limit)
	}
	return data, nil
}

func tooLarge(limit int64) error {
	return refuse(CodeBodySize, "the body is signed as a whole and may have at most %d MiB", limit>>20)
}

// held is a body in memory.
type held struct {
	*bytes.Reader
	release func()
}

func (h *held) Close() error {
	h.release()
	return nil
}
