package secret

import (
	"net/http"
	"net/netip"
)

// Dest is where a request goes.
type Dest struct {
	Name string     // in normal form; empty when only the address is known
	Addr netip.Addr // of the connection, where Name is empty
	Port uint16
	// Verified says that the connection is TLS to a server whose certificate
	// was verified. Nothing else ever carries a value.
	Verified bool
}

// Refusal is why a request, or its response, must not be passed on.
type Refusal struct {
	Code   string // stable, such as "SECRET_NEEDS_TLS"
	Reason string // a sentence that says what to do; holds no value
}

func (r *Refusal) Error() string { return r.Reason }

// Exchange is one request and its response. Begin rewrites the one, Respond
// the other; then the accessors say what happened, also while bodies are still
// passing through. An Exchange's methods may be called concurrently.
type Exchange struct{}

// Begin prepares a request to leave: it replaces placeholders and signs, in
// place. It may change r's URL, header, body, content length and trailer, and
// nothing else. The error is a *Refusal, or the guest's body's own. A nil Set
// changes nothing.
func (s *Set) Begin(d Dest, r *http.Request) (*Exchange, error) {
	return &Exchange{}, nil
}

// Respond puts placeholders back into a response, in place: header, body,
// content length and trailer. The error is a *Refusal.
func (x *Exchange) Respond(resp *http.Response) error { return nil }

// Secrets are the names of the secrets whose values were sent or that signed,
// sorted.
func (x *Exchange) Secrets() []string { return nil }

// Note is what else the audit should know, such as that a placeholder was left
// as it is; empty for nothing.
func (x *Exchange) Note() string { return "" }

// Rewriter rewrites a stream that comes in pieces.
type Rewriter interface {
	// Rewrite takes the next piece and appends what is settled by now to dst.
	// What may be the beginning of something to replace is held back, at most
	// some ten kilobytes; with last set, nothing is. After that, the next piece
	// begins a new stream.
	Rewrite(dst, piece []byte, last bool) ([]byte, error)
}

// TextToServer rewrites one WebSocket text message after the other; nil when
// nothing is to be replaced.
func (x *Exchange) TextToServer() Rewriter { return nil }

// FromServer rewrites WebSocket messages from the server. With text set, the
// length may change; otherwise it stays. Nil when nothing is to be replaced.
func (x *Exchange) FromServer(text bool) Rewriter { return nil }
