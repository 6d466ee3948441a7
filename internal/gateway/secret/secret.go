// Package secret substitutes and redacts: the guest holds placeholders, the
// gateway puts values in their place on the way out and placeholders in the
// place of values on the way back.
package secret

import (
	"io"
	"net/http"
	"net/netip"
)

// Spec is what a client asks for. Its JSON form is the client's.
type Spec struct {
	Hosts     []string `json:"hosts"`               // grammar of allow-lists, without CIDR
	Value     string   `json:"value"`               //
	In        []string `json:"in,omitempty"`        // parts that may carry it: "header", "query", "path", "body", "websocket"; empty is all
	Methods   []string `json:"methods,omitempty"`   // requests that may; empty is all
	Paths     []string `json:"paths,omitempty"`     // path patterns of requests that may; empty is all
	Exclusive bool     `json:"exclusive,omitempty"` // requests to its hosts that authenticate with anything else are refused
	Sign      *Sign    `json:"sign,omitempty"`      // the value signs and never travels
}

// Sign says how a value signs requests; see package sign.
type Sign struct {
	Type string `json:"type"` // "aws" or "hmac"

	// Of "aws" (Signature Version 4).
	KeyID        string `json:"key_id,omitempty"`        // the real access key id
	KeyIDEnv     string `json:"key_id_env,omitempty"`    // variable for its placeholder; default AWS_ACCESS_KEY_ID
	SessionToken string `json:"session_token,omitempty"` // of temporary credentials
	SessionEnv   string `json:"session_env,omitempty"`   // variable for its placeholder; default AWS_SESSION_TOKEN

	// Of "hmac".
	Algorithm  string   `json:"algorithm,omitempty"`   // "sha256" (default), "sha512", "sha1"
	Encoding   string   `json:"encoding,omitempty"`    // "hex" (default), "base64"
	Header     string   `json:"header,omitempty"`      // that carries the signature
	Prefix     string   `json:"prefix,omitempty"`      // before the signature in the header
	Over       []string `json:"over,omitempty"`        // what is signed, in order: "body" (default), "method", "path", "query", "timestamp", "header:Name", "text:…"
	Separator  string   `json:"separator,omitempty"`   // between the parts
	TimeHeader string   `json:"time_header,omitempty"` // that carries the timestamp, in Unix seconds
}

// Set is all secrets of a sandbox. It is immutable and may be used
// concurrently. A nil *Set holds none.
type Set struct{}

// New checks the specifications and draws the placeholders. The error is a
// *SpecError; it never holds a value.
func New(specs map[string]Spec) (*Set, error) { panic("not built") }

// Check is New without its result.
func Check(specs map[string]Spec) error { panic("not built") }

// SpecError names the secret and the field that are wrong.
type SpecError struct {
	Name   string // of the secret, bounded in length
	Field  string // "hosts", "value", "in", …
	Reason string // a sentence that says what to do
}

func (e *SpecError) Error() string { return e.Reason }

// Env are the guest's variables: names and placeholders.
func (s *Set) Env() map[string]string { panic("not built") }

// Host returns what applies to a destination, or nil when no secret does. The
// name is in normal form, or empty when only the address is known.
func (s *Set) Host(name string, addr netip.Addr, port uint16) *Host { panic("not built") }

// Wants reports whether any secret applies to a name on any port.
func (s *Set) Wants(name string) bool { panic("not built") }

// Placeholders returns the names of the secrets whose placeholder is in text.
func (s *Set) Placeholders(text string) []string { panic("not built") }

// Host is a sandbox's secrets as they apply to one destination.
type Host struct{}

// Outcome is what Request did.
type Outcome struct {
	Used []string // names of the secrets that were put in or that signed; final when the body has been read
	Left []string // names whose placeholder was seen where it may not be replaced, and left as it is
}

// Refusal is a request that must not be sent.
type Refusal struct {
	Status  int    // HTTP status for the guest
	Code    string // stable
	Message string // a sentence that says what to do; holds no value
	Secret  string // name of the secret, where one is the reason
}

func (r *Refusal) Error() string { return r.Message }

// Request puts the values into an outgoing request, in place: its URL, Host
// excepted, headers and body, with ContentLength and TransferEncoding set to
// match. It limits Accept-Encoding to what Response can decode and removes
// Range where redaction could be evaded by it. With plain set, the request
// would travel without TLS: a request with a placeholder is then refused. The
// error is a *Refusal; reading the body may fail with one, too, and the request
// must then be aborted upstream.
func (h *Host) Request(r *http.Request, plain bool) (*Outcome, error) { panic("not built") }

// Response puts the placeholders back, in place: headers, trailers and body.
// The error means that the response can't be read and must not be passed on.
func (h *Host) Response(res *http.Response) error { panic("not built") }

// Substitute returns a writer that replaces placeholders by values in a text
// message of a WebSocket, and Redact one that replaces values by placeholders
// in a message of either kind. Both write to w as much as is certain; Flush
// ends a message, after which the next one may begin. Used may be called at
// any time.
func (h *Host) Substitute(w io.Writer) Stream { panic("not built") }

// Redact: see Substitute.
func (h *Host) Redact(w io.Writer) Stream { panic("not built") }

// Stream replaces in a stream.
type Stream interface {
	io.Writer
	Flush() error
	Used() []string
}
