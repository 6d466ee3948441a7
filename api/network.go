package api

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
)

// Secret is a value that a sandbox can use and never sees: what the create
// call's "secrets" map holds. The guest's environment gets a placeholder, for
// which the gateway puts the value into requests to the hosts. The official
// SDKs send Hosts and Value and pass the others on.
//
// A Secret shows nothing when it is printed or logged; its JSON form holds
// the value.
type Secret struct {
	Hosts     []string    `json:"hosts"` // grammar of allow-lists, without CIDR
	Value     string      `json:"value"`
	In        []string    `json:"in,omitempty"`        // parts of a request that may carry it: "header", "query", "path", "body", "websocket"; empty is all
	Methods   []string    `json:"methods,omitempty"`   // of requests that may; empty is all
	Paths     []string    `json:"paths,omitempty"`     // path patterns of requests that may; empty is all
	Exclusive bool        `json:"exclusive,omitempty"` // requests to its hosts that authenticate with anything else are refused
	Sign      *SecretSign `json:"sign,omitempty"`      // the value signs requests and never travels
}

// SecretSign says how a secret's value signs requests.
type SecretSign struct {
	Type string `json:"type"` // "aws" (Signature Version 4) or "hmac"

	// Of "aws".
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

const hidden = "(hidden)"

// Format implements fmt.Formatter.
func (Secret) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, hidden) }

// LogValue implements slog.LogValuer.
func (Secret) LogValue() slog.Value { return slog.StringValue(hidden) }

// Format implements fmt.Formatter.
func (SecretSign) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, hidden) }

// LogValue implements slog.LogValuer.
func (SecretSign) LogValue() slog.Value { return slog.StringValue(hidden) }

// NetworkPolicy is what a sandbox may reach.
type NetworkPolicy struct {
	AllowNet *[]string       `json:"allow_net"`         // its own list; nil is everything that is not refused in every mode
	Ceiling  []string        `json:"ceiling,omitempty"` // the operator's list, which no sandbox exceeds; empty is none
	Strict   bool            `json:"strict"`            // TLS is opened for every host, not only for those of secrets
	Secrets  []NetworkSecret `json:"secrets,omitempty"` // in the order of their names
}

// NetworkSecret is a secret without its value.
type NetworkSecret struct {
	Name  string   `json:"name"`
	Hosts []string `json:"hosts"`
}

// OptionalList is a list that tells absent from null. In JSON it needs the
// option omitzero.
type OptionalList struct {
	Given bool
	List  *[]string // nil is null
}

// IsZero reports whether the field is absent.
func (o OptionalList) IsZero() bool { return !o.Given }

// MarshalJSON writes the list or null.
func (o OptionalList) MarshalJSON() ([]byte, error) { return json.Marshal(o.List) }

// UnmarshalJSON reads a list or null.
func (o *OptionalList) UnmarshalJSON(in []byte) error {
	o.Given, o.List = true, nil
	return json.Unmarshal(in, &o.List)
}
